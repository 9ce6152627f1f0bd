#include "engine/data/tokenizer.h"

#include <algorithm>
#include <stdexcept>

#include "engine/data/vocabulary.h"

namespace sinkscope {
namespace {

constexpr std::int32_t kByteBos = 256;
constexpr std::int32_t kByteEos = 257;
constexpr std::int64_t kByteVocabSize = 258;

class ByteTokenizer final : public Tokenizer {
 public:
  std::string kind() const override { return "byte"; }
  std::int64_t vocab_size() const override { return kByteVocabSize; }
  std::int32_t bos_id() const override { return kByteBos; }
  std::int32_t eos_id() const override { return kByteEos; }

  /// Takes any bytes: every one is a token.
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }

  /// BOS and EOS have no text.
  std::string decode(std::span<const std::int32_t> ids) const override {
    require_ids(ids, kByteVocabSize);
    std::string text;
    for (const std::int32_t id : ids)
      if (id < kByteBos) text.push_back(static_cast<char>(id));
    return text;
  }

  std::uint64_t vocab_hash() const override {
    std::vector<std::string> pieces;
    for (int byte = 0; byte < 256; ++byte) pieces.emplace_back(1, static_cast<char>(byte));
    pieces.emplace_back("<bos>");
    pieces.emplace_back("<eos>");
    return hash_vocabulary(pieces);
  }

  std::vector<std::filesystem::path> files() const override { return {}; }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path) {
  if (path == "byte") return make_byte_tokenizer();
  if (std::filesystem::is_directory(path)) {
    const auto encoder = path / "encoder.json", merges = path / "vocab.bpe", model = path / "tokenizer.model";
    if (std::filesystem::exists(encoder) && std::filesystem::exists(merges))
      return make_gpt2_tokenizer(encoder, merges);
    if (std::filesystem::exists(model)) return make_sentencepiece_tokenizer(model);
    throw std::runtime_error(path.string() +
                             ": no tokenizer in this folder; expected encoder.json and vocab.bpe, or tokenizer.model");
  }
  if (!std::filesystem::exists(path))
    throw std::runtime_error(path.string() +
                             ": no such tokenizer; expected \"byte\", a sentencepiece .model file, or a folder with "
                             "encoder.json and vocab.bpe");
  if (path.extension() == ".model") return make_sentencepiece_tokenizer(path);
  throw std::runtime_error(path.string() + ": not a tokenizer; expected a sentencepiece .model file, or a folder with "
                                           "encoder.json and vocab.bpe");
}

}  // namespace sinkscope
