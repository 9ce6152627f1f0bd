#include <stdexcept>

#include "engine/data/tokenizer.h"

#ifdef SINKSCOPE_SENTENCEPIECE

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <unordered_map>

#include "engine/data/text_source.h"
#include "engine/data/utf8.h"
#include "engine/data/vocabulary.h"
#include "engine/files/rename.h"
#include "engine/files/replacement.h"

namespace sinkscope {
namespace {

void require_ok(const sentencepiece::util::Status& status, const std::filesystem::path& file) {
  if (!status.ok()) throw std::runtime_error(file.string() + ": sentencepiece: " + status.ToString());
}

class SentencepieceTokenizer final : public Tokenizer {
 public:
  explicit SentencepieceTokenizer(const std::filesystem::path& model) : model_(model) {
    if (!std::filesystem::is_regular_file(model)) throw std::runtime_error(model.string() + ": no such file");
    require_ok(processor_.Load(model.string()), model);
    std::vector<std::string> pieces;
    for (int id = 0; id < processor_.GetPieceSize(); ++id) pieces.push_back(processor_.IdToPiece(id));
    hash_ = hash_vocabulary(pieces);
  }

  std::string kind() const override { return "sentencepiece"; }
  std::int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::int32_t bos_id() const override { return processor_.bos_id(); }
  std::int32_t eos_id() const override { return processor_.eos_id(); }
  std::uint64_t vocab_hash() const override { return hash_; }
  std::vector<std::filesystem::path> files() const override { return {model_}; }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    require_utf8(text);  // sentencepiece itself replaces what it cannot read
    std::vector<int> ids;
    require_ok(processor_.Encode(text, &ids), model_);
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    require_ids(ids, vocab_size());
    std::string text;
    require_ok(processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text), model_);
    return text;
  }

 private:
  std::filesystem::path model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::uint64_t hash_ = 0;
};

/// The lines of the documents, as the trainer takes them: it counts words within lines.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ >= lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  std::size_t at_ = 0;
};

constexpr int kSpecialPieces = 3 + 256;  // unknown, BOS, EOS, bytes

using Settings = std::unordered_map<std::string, std::string>;

// Llama's settings (Touvron et al. 2023): BPE, digits apart, bytes for rare characters, and no
// normalization, so that decoding gives back the text.
Settings llama_settings(std::int64_t vocab_size) {
  return {{"model_type", "bpe"},
          {"vocab_size", std::to_string(vocab_size)},
          {"byte_fallback", "true"},
          {"split_digits", "true"},
          {"normalization_rule_name", "identity"},
          {"remove_extra_whitespaces", "false"},
          {"allow_whitespace_only_pieces", "true"},
          {"character_coverage", "0.9995"},
          {"input_sentence_size", "1000000"},
          {"shuffle_input_sentence", "true"},
          {"num_threads", "1"},
          {"minloglevel", "2"}};
}

sentencepiece::util::Status train(const std::vector<std::string>& lines, std::int64_t seed, const Settings& settings,
                                  std::string& model) {
  Lines iterator(lines);
  sentencepiece::SetRandomGeneratorSeed(static_cast<unsigned>(seed));
  return sentencepiece::SentencePieceTrainer::Train(settings, &iterator, &model);
}

/// Throws when the text needs more pieces than were asked for, or does not give as many.
void expect_possible_size(const std::vector<std::string>& lines, const SentencepieceTraining& options) {
  const auto pieces_of = [&](const char* type) {
    Settings settings = llama_settings(std::int64_t{1} << 24);  // more than any text gives
    settings["model_type"] = type;
    settings["hard_vocab_limit"] = "false";
    std::string model;
    require_ok(train(lines, options.seed, settings, model), options.inputs.front());
    sentencepiece::SentencePieceProcessor processor;
    require_ok(processor.LoadFromSerializedProto(model), options.inputs.front());
    return processor.GetPieceSize();
  };
  const std::string size = std::to_string(options.vocab_size);
  const std::string where = options.inputs.front().string() + ": --train-sentencepiece " + size + ": the text ";
  const int least = pieces_of("char");
  if (options.vocab_size < least)
    throw std::runtime_error(where + "needs at least " + std::to_string(least) +
                             " pieces: unknown, BOS, EOS, 256 bytes and " + std::to_string(least - kSpecialPieces) +
                             " characters");
  const int most = pieces_of("bpe");
  if (options.vocab_size > most)
    throw std::runtime_error(where + "gives at most " + std::to_string(most) +
                             " pieces; ask for fewer, or give more text");
}

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& model) {
  return std::make_unique<SentencepieceTokenizer>(model);
}

void train_sentencepiece(const SentencepieceTraining& options) {
  require_absent(options.model);  // before any work
  constexpr std::size_t kLongestLine = 4000;  // bytes; the trainer drops lines above 4192
  std::vector<std::string> lines;
  for_each_document(list_text_files(options.inputs), {options.text_key, options.document_separator},
                    [&](std::string_view document) {
                      while (!document.empty()) {
                        std::size_t end = std::min(document.find('\n'), document.size());
                        std::size_t separator = 1;
                        if (end > kLongestLine) {  // cut at a space, or between characters where there is none
                          const std::size_t space = document.rfind(' ', kLongestLine);
                          if (space != std::string_view::npos && space > 0) {
                            end = space;
                          } else {
                            end = kLongestLine;
                            while (!begins_character(document, end)) --end;
                            separator = 0;
                          }
                        }
                        if (end > 0) lines.emplace_back(document.substr(0, end));
                        document.remove_prefix(std::min(end + separator, document.size()));
                      }
                      return true;
                    });
  const std::filesystem::path& text = options.inputs.front();  // what an error is about: the model is not there yet
  if (lines.empty()) throw std::runtime_error(text.string() + ": there is no text to train a tokenizer on");
  std::string model;
  const auto status = train(lines, options.seed, llama_settings(options.vocab_size), model);
  if (!status.ok()) expect_possible_size(lines, options);
  require_ok(status, text);
  PendingFile file(options.model);
  file.write(model);
  file.commit();
}

}  // namespace sinkscope

#else

namespace sinkscope {

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& model) {
  throw std::runtime_error(model.string() +
                           ": this build has no sentencepiece; install libsentencepiece-dev and rebuild");
}

void train_sentencepiece(const SentencepieceTraining& options) {
  throw std::runtime_error(
      options.inputs.front().string() +
      ": cannot train a tokenizer: this build has no sentencepiece; install libsentencepiece-dev and rebuild");
}

}  // namespace sinkscope

#endif
