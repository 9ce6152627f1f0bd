// What the tests of the data share: fresh folders, whole files, streams in memory.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/data/dataset.h"

namespace sinkscope::test {

/// A new empty folder, removed with everything in it at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& content);
std::string compress(const std::string& content);  // one zstd frame
std::vector<std::string> names_in(const std::filesystem::path& folder);

/// A GPT-2-style shard: 256 int32 header, then uint16 tokens.
void write_gpt2_shard(const std::filesystem::path& path, const std::vector<std::uint16_t>& tokens);
/// encoder.json and vocab.bpe of the 256 bytes, the merges "h e", "l l", "Ġ w", "he ll", "a a",
/// "aa aa" and "<|endoftext|>".
void write_small_bpe(const std::filesystem::path& folder);

std::vector<std::int32_t> all_tokens(const TokenStream& stream);

/// The message of the exception that `action` throws; empty when it throws none.
template <class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

class MemoryStream final : public TokenStream {
 public:
  explicit MemoryStream(std::vector<std::int32_t> tokens) : tokens_(std::move(tokens)) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override;
  const std::vector<ShardInfo>& shards() const override { return shards_; }
  const std::vector<std::int32_t>& tokens() const { return tokens_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<ShardInfo> shards_;
};

}  // namespace sinkscope::test
