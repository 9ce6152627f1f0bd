// Files read from front to back. Every error is a std::runtime_error naming the file, what was tried,
// and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace sinkscope {

/// Buffer size for reading a file through.
inline constexpr std::size_t kCopyBytes = std::size_t{1} << 20;

/// A file open for reading.
class InputFile {
 public:
  /// Throws when there is no such file, or it is a folder.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// The next bytes, at most `buffer.size()`; none at the end.
  std::span<const std::byte> read(std::span<std::byte> buffer);

 private:
  std::filesystem::path path_;
  int descriptor_;
};

/// The whole content. Throws when the file cannot be read or is larger than `limit` bytes.
std::string read_text_file(const std::filesystem::path& path, std::int64_t limit = std::int64_t{64} << 20);

}  // namespace sinkscope
