#include "engine/data/dataset.h"

#include <glob.h>
#include <xxhash.h>

#include <algorithm>
#include <stdexcept>

#include "engine/config/load.h"
#include "engine/data/manifest.h"
#include "engine/data/shard.h"
#include "engine/data/tokenizer.h"
#include "engine/data/vocabulary.h"

namespace sinkscope {
namespace {

constexpr std::int64_t kGpt2VocabSize = 50257;
constexpr std::int32_t kGpt2EndOfText = 50256;

/// Reading this build's tokenizers; one that it lacks cannot be compared with the shards.
bool can_read(const std::string& tokenizer) {
#ifdef SINKSCOPE_SENTENCEPIECE
  return tokenizer == "sentencepiece" || tokenizer == "gpt2" || tokenizer == "byte";
#else
  return tokenizer == "gpt2" || tokenizer == "byte";
#endif
}

std::unique_ptr<TokenStream> open_listed(const std::filesystem::path& folder, const std::vector<ShardInfo>& listed,
                                         const DatasetManifest& manifest) {
  if (listed.empty()) return nullptr;
  std::vector<std::filesystem::path> files;
  for (const ShardInfo& shard : listed) files.push_back(folder / shard.file);
  auto stream = open_token_stream(files, true, manifest.vocab_size);
  for (std::size_t i = 0; i < listed.size(); ++i) {
    const ShardInfo& found = stream->shards()[i];
    const auto check = [&](const char* what, const std::string& says, const std::string& holds) {
      if (says != holds)
        throw std::runtime_error(found.file.string() + ": its " + what + " is " + holds + ", " +
                                 (folder / kManifestFile).string() + " says " + says);
    };
    check("vocabulary hash", to_hex(manifest.vocab_hash), to_hex(found.vocab_hash));
    check("token count", std::to_string(listed[i].tokens), std::to_string(found.tokens));
    check("checksum", to_hex(listed[i].checksum), to_hex(found.checksum));
  }
  return stream;
}

/// What a manifest says of the vocabulary, with its tokenizer checked against the shards' hash.
void take_vocabulary(Dataset& dataset, const std::filesystem::path& folder, const DatasetManifest& manifest) {
  dataset.vocab_size = manifest.vocab_size;
  dataset.bos_id = manifest.bos_id;
  dataset.eos_id = manifest.eos_id;
  dataset.tokenizer = manifest.tokenizer;
  if (!manifest.tokenizer_file.empty()) dataset.tokenizer_path = folder / manifest.tokenizer_file;
  if (!can_read(manifest.tokenizer)) return;
  const std::filesystem::path path = manifest.tokenizer == "byte" ? "byte" : dataset.tokenizer_path;
  const std::uint64_t hash = open_tokenizer(path)->vocab_hash();
  if (hash != manifest.vocab_hash)
    throw std::runtime_error(path.string() + ": its vocabulary (hash " + to_hex(hash) +
                             ") is not that of the shards (hash " + to_hex(manifest.vocab_hash) + ")");
}

std::vector<std::filesystem::path> files_of(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_ERR | GLOB_NOSORT, nullptr, &found);
  std::vector<std::filesystem::path> files(found.gl_pathv, found.gl_pathv + (result == 0 ? found.gl_pathc : 0));
  ::globfree(&found);
  return files;
}

std::vector<std::filesystem::path> expand(const std::vector<std::string>& patterns, const char* key) {
  std::vector<std::filesystem::path> files;
  for (const std::string& pattern : patterns) {
    std::vector<std::filesystem::path> matches = files_of(pattern);
    if (matches.empty()) throw ConfigError(std::string(key) + ": no file matches \"" + pattern + "\"");
    std::sort(matches.begin(), matches.end());
    files.insert(files.end(), matches.begin(), matches.end());
  }
  return files;
}

/// Our shards do not hold the vocabulary itself; the manifest they were written with does.
void take_vocabulary_of_shards(Dataset& dataset, const std::vector<ShardInfo>& shards) {
  const ShardInfo& first = shards.front();
  if (first.vocab_hash == 0) {
    dataset.vocab_size = kGpt2VocabSize;
    dataset.bos_id = dataset.eos_id = kGpt2EndOfText;
    dataset.tokenizer = "unknown";
    return;
  }
  const auto folder = first.file.parent_path();
  if (!std::filesystem::exists(folder / kManifestFile))
    throw std::runtime_error(first.file.string() + ": no " + kManifestFile + " beside it tells its vocabulary");
  const DatasetManifest manifest = read_manifest(folder / kManifestFile);
  if (manifest.vocab_hash != first.vocab_hash)
    throw std::runtime_error(first.file.string() + ": its vocabulary hash is " + to_hex(first.vocab_hash) + ", " +
                             (folder / kManifestFile).string() + " says " + to_hex(manifest.vocab_hash));
  take_vocabulary(dataset, folder, manifest);
}

std::string fingerprint(const Dataset& dataset) {
  std::vector<std::uint64_t> numbers;
  for (const auto* stream : {dataset.train.get(), dataset.validation.get()}) {
    numbers.push_back(stream == nullptr ? 0 : stream->shards().size());
    if (stream == nullptr) continue;
    for (const ShardInfo& shard : stream->shards()) {
      numbers.push_back(static_cast<std::uint64_t>(shard.tokens));
      numbers.push_back(shard.vocab_hash);
      numbers.push_back(shard.checksum);
    }
  }
  return to_hex(XXH3_64bits(numbers.data(), numbers.size() * sizeof(std::uint64_t)));
}

}  // namespace

Dataset open_dataset(const DataConfig& config) {
  Dataset dataset;
  if (!config.path.empty()) {
    if (!config.train.empty() || !config.validation.empty())
      throw ConfigError("data.path: give either a folder or shard lists (data.train, data.validation), not both");
    const std::filesystem::path folder = config.path;
    const DatasetManifest manifest = read_manifest(folder / kManifestFile);
    if (manifest.train.empty()) throw std::runtime_error((folder / kManifestFile).string() + ": no training shards");
    take_vocabulary(dataset, folder, manifest);
    dataset.train = open_listed(folder, manifest.train, manifest);
    dataset.validation = open_listed(folder, manifest.validation, manifest);
  } else {
    if (config.train.empty())
      throw ConfigError("data.path: give a folder written by `sinkscope tokenize`, or data.train");
    const auto train = expand(config.train, "data.train");
    const auto validation = expand(config.validation, "data.validation");
    take_vocabulary_of_shards(dataset, open_token_stream({train.front()}, false)->shards());
    dataset.train = open_token_stream(train, true, dataset.vocab_size);
    if (!validation.empty()) {
      dataset.validation = open_token_stream(validation, true, dataset.vocab_size);
      const ShardInfo& first = dataset.validation->shards().front();
      if (first.vocab_hash != dataset.train->shards().front().vocab_hash)
        throw std::runtime_error(first.file.string() + ": its vocabulary (hash " + to_hex(first.vocab_hash) +
                                 ") is not that of " + dataset.train->shards().front().file.string() + " (hash " +
                                 to_hex(dataset.train->shards().front().vocab_hash) + ")");
    }
  }
  dataset.fingerprint = fingerprint(dataset);
  return dataset;
}

std::int64_t dataset_vocab_size(const DataConfig& config) {
  if (!config.path.empty()) return read_manifest(std::filesystem::path(config.path) / kManifestFile).vocab_size;
  Dataset dataset;
  take_vocabulary_of_shards(dataset, open_token_stream({expand(config.train, "data.train").front()}, false)->shards());
  return dataset.vocab_size;
}

bool dataset_absent(const DataConfig& config) {
  std::error_code ignored;
  if (!config.path.empty())
    return std::filesystem::status(config.path, ignored).type() == std::filesystem::file_type::not_found;
  return !config.train.empty() && std::all_of(config.train.begin(), config.train.end(),
                                              [](const std::string& pattern) { return files_of(pattern).empty(); });
}

}  // namespace sinkscope
