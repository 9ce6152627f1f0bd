// Text to token ids and back: bytes, sentencepiece models, GPT-2's BPE.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string kind() const = 0;            // "byte", "sentencepiece", "gpt2"
  virtual std::int64_t vocab_size() const = 0;     // ids are in [0, vocab_size)
  virtual std::int32_t bos_id() const = 0;         // -1: none
  virtual std::int32_t eos_id() const = 0;
  /// Ids of one document's text, without BOS or EOS. Throws std::runtime_error on invalid input.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// XXH3-64 over the ids' byte strings, so that shards and tokenizers that do not belong
  /// together are refused.
  virtual std::uint64_t vocab_hash() const = 0;
  /// Files to copy beside a checkpoint (empty for bytes).
  virtual std::vector<std::filesystem::path> files() const = 0;
};

/// Bytes 0..255, BOS 256, EOS 257.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
/// A sentencepiece .model file. Throws std::runtime_error naming the file; also when this build
/// has no sentencepiece.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& model);
/// GPT-2's byte-level BPE from encoder.json and vocab.bpe (Radford et al. 2019). BOS and EOS are
/// both <|endoftext|>.
std::unique_ptr<Tokenizer> make_gpt2_tokenizer(const std::filesystem::path& encoder_json,
                                               const std::filesystem::path& vocab_bpe);
/// By what lies at `path`: "byte", a .model file, or a folder holding encoder.json and vocab.bpe (or
/// tokenizer.model). Throws std::runtime_error naming what is missing.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

struct SentencepieceTraining {
  std::vector<std::filesystem::path> inputs;  // as TokenizeOptions takes them
  std::filesystem::path model;                // output, e.g. data/tokenizer.model
  std::int64_t vocab_size = 1024;
  std::int64_t seed = 1;
  std::string text_key = "text";              // as in TokenizeOptions
  std::string document_separator = "<|endoftext|>";
};
/// Trains a sentencepiece BPE model with byte fallback, BOS and EOS, deterministic. Throws
/// std::runtime_error naming the model when it exists already, the first input when the text does not
/// support the vocabulary.
void train_sentencepiece(const SentencepieceTraining& options);

}  // namespace sinkscope
