// Token shards on disk and the stream they form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

/// Our shard file: a 64-byte header (magic "SINKSHRD", u32 version 1, u32 bytes per token (2 or 4),
/// u64 token count, u64 vocab hash, u64 XXH3-64 of the payload, zero padding), then little-endian
/// tokens. Also read as they are: GPT-2-style .bin shards (256 int32 header: magic 20240520,
/// version 1, token count; then uint16 tokens).
struct ShardInfo {
  std::filesystem::path file;
  std::int64_t tokens = 0;
  std::uint64_t vocab_hash = 0;  // 0: unknown (GPT-2-style)
  std::uint64_t checksum = 0;    // XXH3-64 of the payload
};

/// The shards of one split, concatenated in order into one packed stream in which every document
/// ends with EOS. Read by mmap; safe for concurrent readers.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual std::int64_t size() const = 0;  // tokens
  /// Copies tokens [begin, begin + out.size()). Throws std::out_of_range.
  virtual void read(std::int64_t begin, std::span<std::int32_t> out) const = 0;
  virtual const std::vector<ShardInfo>& shards() const = 0;
};

/// Opens shard files. Throws std::runtime_error naming the file for a bad magic, version, length
/// (truncated or longer than its header says), with `verify` also a checksum mismatch, or shards
/// whose vocab hashes differ.
std::unique_ptr<TokenStream> open_token_stream(const std::vector<std::filesystem::path>& shards, bool verify);

/// What a config's `data` section names.
struct Dataset {
  std::unique_ptr<TokenStream> train;
  std::unique_ptr<TokenStream> validation;  // null: the dataset has none
  std::int64_t vocab_size = 0;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  std::string tokenizer;                   // "byte", "sentencepiece", "gpt2", "unknown"
  std::filesystem::path tokenizer_path;    // empty: none or bytes; otherwise as open_tokenizer takes it
  std::string fingerprint;                 // hash over shard checksums, for config.json and resume
};

/// Opens data.path/dataset.json or the shard lists (globs expanded, sorted). GPT-2-style shards
/// alone give vocab_size 50257 and bos = eos = 50256; ours take theirs from the dataset.json beside
/// them. Reads all shards once to check their checksums and tokens, and refuses a tokenizer whose
/// vocabulary is not that of the shards. Throws std::runtime_error / ConfigError.
Dataset open_dataset(const DataConfig& config);

/// The vocabulary size of what open_dataset would open, without reading its tokens. Throws as it does.
std::int64_t dataset_vocab_size(const DataConfig& config);

/// Whether what the config names is not there at all: nothing at data.path, no file for any pattern of
/// data.train. A dataset that cannot be read or is damaged is there.
bool dataset_absent(const DataConfig& config);

struct TokenizeOptions {
  std::vector<std::filesystem::path> inputs;  // .txt, .jsonl (key `text_key`), .zst of either, folders of them
  /// Folder: dataset.json, train_00000.bin, validation_00000.bin, tokenizer files.
  std::filesystem::path output;
  std::filesystem::path tokenizer;            // as open_tokenizer takes it; empty: trained
  std::int64_t train_vocab_size = 0;          // of the sentencepiece tokenizer to train on the inputs
  std::string text_key = "text";
  std::string document_separator = "<|endoftext|>";  // a line of its own in .txt; empty: one document a file
  /// Of the documents, or of the text when there are few; by hash, deterministic.
  double validation_fraction = 0.0;
  std::vector<std::filesystem::path> validation_inputs = {};  // instead of a fraction
  std::int64_t shard_tokens = 100'000'000;
};
struct TokenizeSummary {
  std::int64_t documents = 0, train_tokens = 0, validation_tokens = 0, bytes = 0;
};
/// Writes a dataset folder atomically: in a PendingFolder, the training of a tokenizer included. Refuses
/// an existing output.
TokenizeSummary tokenize(const TokenizeOptions& options);

}  // namespace sinkscope
