// Content hashes: XXH3-128 in canonical form, as 32 lowercase hexadecimal digits.
// Specification: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sinkscope {

struct FileDigest {
  std::int64_t size = 0;  // bytes
  std::string xxh3_128;
  bool operator==(const FileDigest&) const = default;
};

/// The digest of content that comes in pieces.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  DigestStream(const DigestStream&) = delete;
  DigestStream& operator=(const DigestStream&) = delete;

  void add(std::span<const std::byte> bytes);
  /// Of everything added so far.
  FileDigest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::int64_t size_ = 0;
};

/// Reads the whole file. Throws std::runtime_error naming it when it cannot be read.
FileDigest digest_file(const std::filesystem::path& path);

/// The hash alone, of a text.
std::string hash_text(std::string_view text);

}  // namespace sinkscope
