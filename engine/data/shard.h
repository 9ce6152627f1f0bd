// Writing shards, and opening them against a vocabulary.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/data/dataset.h"

namespace sinkscope {

/// Opens as open_token_stream does; with vocab_size > 0 it also throws std::runtime_error naming
/// file and place of the first token outside [0, vocab_size).
std::unique_ptr<TokenStream> open_token_stream(const std::vector<std::filesystem::path>& shards, bool verify,
                                               std::int64_t vocab_size);

/// Writes the token stream of one split as `<folder>/<prefix>_00000.bin` and so on, each of
/// `shard_tokens` tokens but the last. 2 bytes a token up to a vocabulary of 65536, else 4.
class ShardWriter {
 public:
  struct Options {
    std::filesystem::path folder;
    std::string prefix;              // "train", "validation"
    std::int64_t vocab_size = 0;
    std::uint64_t vocab_hash = 0;
    std::int64_t shard_tokens = 0;   // at least 1
  };
  explicit ShardWriter(Options options);
  ~ShardWriter();
  /// Throws std::runtime_error for a token outside the vocabulary, or naming a file that cannot be written.
  void append(std::span<const std::int32_t> tokens);
  /// Completes and syncs the last shard; the shards in order.
  std::vector<ShardInfo> finish();

 private:
  struct Shard;
  void flush();
  void close_shard();

  Options options_;
  std::vector<ShardInfo> done_;
  std::unique_ptr<Shard> shard_;
};

}  // namespace sinkscope
