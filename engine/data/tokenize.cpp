#include <xxhash.h>

#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/data/manifest.h"
#include "engine/data/shard.h"
#include "engine/data/text_source.h"
#include "engine/data/tokenizer.h"
#include "engine/data/utf8.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/rename.h"

namespace sinkscope {
namespace {

/// Fewer documents than this expected in the validation split: every text is cut instead, since a
/// hash would leave the split to chance.
constexpr double kEnoughValidationDocuments = 10.0;

constexpr const char* kModelFile = "tokenizer.model";

/// The documents go through one after the other; this holds what they add up to.
class Writer {
 public:
  Writer(const TokenizeOptions& options, const Tokenizer& tokenizer, const std::filesystem::path& folder)
      : tokenizer_(tokenizer), train_(shards(options, tokenizer, folder, "train")),
        validation_(shards(options, tokenizer, folder, "validation")) {}

  void add(std::string_view text, bool validation) {
    if (text.empty()) return;
    std::vector<std::int32_t> tokens = tokenizer_.encode(text);
    tokens.push_back(tokenizer_.eos_id());
    (validation ? validation_ : train_).append(tokens);
    (validation ? summary.validation_tokens : summary.train_tokens) += static_cast<std::int64_t>(tokens.size());
  }

  void count_document(std::string_view text) {
    ++summary.documents;
    summary.bytes += static_cast<std::int64_t>(text.size());
  }

  std::vector<ShardInfo> finish_train() { return train_.finish(); }
  std::vector<ShardInfo> finish_validation() { return validation_.finish(); }

  TokenizeSummary summary;

 private:
  static ShardWriter shards(const TokenizeOptions& options, const Tokenizer& tokenizer,
                            const std::filesystem::path& folder, const char* prefix) {
    return ShardWriter({.folder = folder,
                        .prefix = prefix,
                        .vocab_size = tokenizer.vocab_size(),
                        .vocab_hash = tokenizer.vocab_hash(),
                        .shard_tokens = options.shard_tokens});
  }

  const Tokenizer& tokenizer_;
  ShardWriter train_;
  ShardWriter validation_;
};

/// Equal documents fall on the same side, so the splits share none.
bool hashes_below(std::string_view document, double fraction) {
  const auto high = static_cast<double>(XXH3_64bits(document.data(), document.size()) >> 11);
  return std::ldexp(high, -53) < fraction;
}

/// Where the last `fraction` of a text begins: at the next line, or else the next character.
std::size_t cut(std::string_view text, double fraction) {
  auto at = static_cast<std::size_t>(static_cast<double>(text.size()) * (1.0 - fraction));
  if (const auto line = text.find('\n', at); line != std::string_view::npos && line + 1 < text.size()) return line + 1;
  while (!begins_character(text, at)) ++at;
  return at;
}

bool has_documents(const std::vector<std::filesystem::path>& files, const TextOptions& options, std::int64_t count) {
  std::int64_t found = 0;
  for_each_document(files, options, [&](std::string_view) { return ++found < count; });
  return found >= count;
}

/// The tokenizer that is given, or one trained into the folder.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizeOptions& options, const std::filesystem::path& folder) {
  if (options.train_vocab_size == 0) return open_tokenizer(options.tokenizer);
  train_sentencepiece({.inputs = options.inputs,
                       .model = folder / kModelFile,
                       .vocab_size = options.train_vocab_size,
                       .seed = 1,
                       .text_key = options.text_key,
                       .document_separator = options.document_separator});
  return open_tokenizer(folder / kModelFile);
}

/// Copies the tokenizer's files into the dataset folder; the name there, as open_tokenizer takes it.
std::string copy_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  const auto files = tokenizer.files();
  if (files.empty()) return {};
  if (tokenizer.kind() == "sentencepiece") {
    if (files.front() != folder / kModelFile)  // else it was trained there
      copy_to_new_file(files.front(), folder / kModelFile);
    return kModelFile;
  }
  std::filesystem::create_directory(folder / "tokenizer");
  for (const auto& file : files) copy_to_new_file(file, folder / "tokenizer" / file.filename());
  sync_folder(folder / "tokenizer");
  return "tokenizer";
}

void check(const TokenizeOptions& options) {
  if (options.inputs.empty()) throw std::runtime_error("tokenize: no input files");
  if (options.output.empty()) throw std::runtime_error("tokenize: no output folder");
  if (options.tokenizer.empty() == (options.train_vocab_size == 0))
    throw std::runtime_error("tokenize: give a tokenizer, or the size of one to train");
  if (!(options.validation_fraction >= 0.0 && options.validation_fraction < 1.0))
    throw std::runtime_error("tokenize: the validation fraction must be at least 0 and below 1, found " +
                             std::to_string(options.validation_fraction));
  if (options.validation_fraction > 0.0 && !options.validation_inputs.empty())
    throw std::runtime_error("tokenize: give a validation fraction or validation files, not both");
}

/// No text may be trained on and held out.
void expect_apart(const std::vector<std::filesystem::path>& files,
                  const std::vector<std::filesystem::path>& validation_files) {
  std::set<std::filesystem::path> trained;
  for (const auto& file : files) trained.insert(std::filesystem::canonical(file));
  for (const auto& file : validation_files)
    if (trained.count(std::filesystem::canonical(file)) > 0)
      throw std::runtime_error(file.string() + ": is among the inputs and among the validation files; expected it in "
                               "one of them, since held-out text must not be trained on");
}

}  // namespace

TokenizeSummary tokenize(const TokenizeOptions& options) {
  check(options);
  PendingFolder folder(options.output);  // refuses an existing output before any work
  const auto files = list_text_files(options.inputs);
  const auto validation_files = list_text_files(options.validation_inputs);
  expect_apart(files, validation_files);
  const auto tokenizer = make_tokenizer(options, folder.path());
  if (tokenizer->eos_id() < 0)
    throw std::runtime_error(options.tokenizer.string() + ": the tokenizer has no EOS token to end documents with");
  const TextOptions text{options.text_key, options.document_separator};

  Writer writer(options, *tokenizer, folder.path());
  const double fraction = options.validation_fraction;
  const bool by_document =
      fraction > 0.0 &&
      has_documents(files, text, static_cast<std::int64_t>(std::ceil(kEnoughValidationDocuments / fraction)));
  for_each_document(files, text, [&](std::string_view document) {
    writer.count_document(document);
    if (fraction == 0.0 || by_document) {
      writer.add(document, fraction > 0.0 && hashes_below(document, fraction));
    } else {
      const std::size_t at = cut(document, fraction);
      writer.add(document.substr(0, at), false);
      writer.add(document.substr(at), true);
    }
    return true;
  });
  for_each_document(validation_files, text, [&](std::string_view document) {
    writer.count_document(document);
    writer.add(document, true);
    return true;
  });
  if (writer.summary.train_tokens == 0)
    throw std::runtime_error(options.inputs.front().string() + ": the inputs hold no text to train on");
  const bool wants_validation = fraction > 0.0 || !options.validation_inputs.empty();
  if (wants_validation && writer.summary.validation_tokens == 0)
    throw std::runtime_error("tokenize: the validation split is empty; give a larger fraction or other files");

  DatasetManifest manifest;
  manifest.tokenizer = tokenizer->kind();
  manifest.tokenizer_file = copy_tokenizer(*tokenizer, folder.path());
  manifest.vocab_size = tokenizer->vocab_size();
  manifest.bos_id = tokenizer->bos_id();
  manifest.eos_id = tokenizer->eos_id();
  manifest.vocab_hash = tokenizer->vocab_hash();
  manifest.documents = writer.summary.documents;
  manifest.bytes = writer.summary.bytes;
  manifest.train = writer.finish_train();
  manifest.validation = writer.finish_validation();
  write_new_file(folder.path() / kManifestFile, to_text(manifest));
  folder.commit();
  return writer.summary;
}

}  // namespace sinkscope
