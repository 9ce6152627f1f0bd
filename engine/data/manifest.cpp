#include "engine/data/manifest.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "engine/config/json_text.h"
#include "engine/data/vocabulary.h"
#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "sinkscope-dataset";
constexpr std::int64_t kManifestVersion = 1;

/// The typed reads of one object, with the file and key in every message.
class Reader {
 public:
  Reader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw std::runtime_error(where_ + ": expected an object, found " + describe_value(object));
  }

  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw std::runtime_error(where_ + ": no key \"" + key + "\"");
    return *found;
  }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const Json& value = at(key);
    const bool fits =
        value.is_number_integer() &&
        !(value.is_number_unsigned() &&
          value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
    if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
      fail(key, "expected an integer from " + std::to_string(low) + " to " + std::to_string(high));
    return value.get<std::int64_t>();
  }

  std::string string(const char* key) const {
    if (!at(key).is_string()) fail(key, "expected a string");
    return at(key).get<std::string>();
  }

  std::uint64_t hash(const char* key) const {
    try {
      return from_hex(string(key));
    } catch (const std::runtime_error&) {
      fail(key, "expected a string of 16 hexadecimal digits");
    }
  }

  /// A plain name in the same folder.
  std::string file_name(const char* key) const {
    const std::string name = string(key);
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
      fail(key, "expected a file name without folders");
    return name;
  }

  [[noreturn]] void fail(const char* key, const std::string& expected) const {
    throw std::runtime_error(where_ + ": key \"" + key + "\": " + expected + ", found " + describe_value(at(key)));
  }

  const std::string& where() const { return where_; }

 private:
  const Json& object_;
  std::string where_;
};

Json to_json(const std::vector<ShardInfo>& shards) {
  Json list = Json::array();
  for (const ShardInfo& shard : shards)
    list.push_back({{"file", shard.file.filename().string()},
                    {"tokens", shard.tokens},
                    {"checksum", to_hex(shard.checksum)}});
  return list;
}

std::vector<ShardInfo> read_shards(const Reader& reader, const char* key, std::uint64_t vocab_hash) {
  const Json& list = reader.at(key);
  if (!list.is_array()) reader.fail(key, "expected a list of shards");
  std::vector<ShardInfo> shards;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Reader shard(list[i], reader.where() + ": " + key + "[" + std::to_string(i) + "]");
    shards.push_back({.file = shard.file_name("file"),
                      .tokens = shard.integer("tokens", 0, std::numeric_limits<std::int64_t>::max()),
                      .vocab_hash = vocab_hash,
                      .checksum = shard.hash("checksum")});
  }
  return shards;
}

}  // namespace

std::string to_text(const DatasetManifest& manifest) {
  const Json json = {{"format", kFormat},
                     {"version", kManifestVersion},
                     {"tokenizer", manifest.tokenizer},
                     {"tokenizer_file", manifest.tokenizer_file},
                     {"vocab_size", manifest.vocab_size},
                     {"bos_id", manifest.bos_id},
                     {"eos_id", manifest.eos_id},
                     {"vocab_hash", to_hex(manifest.vocab_hash)},
                     {"documents", manifest.documents},
                     {"bytes", manifest.bytes},
                     {"train", to_json(manifest.train)},
                     {"validation", to_json(manifest.validation)}};
  return json.dump(2) + "\n";
}

DatasetManifest read_manifest(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored))
    throw std::runtime_error(file.string() + ": cannot be read; expected a folder written by `sinkscope tokenize`");
  const Json json = parse_strict(read_text_file(file), file.string());
  const Reader reader(json, file.string());
  if (reader.string("format") != kFormat) reader.fail("format", std::string("expected \"") + kFormat + "\"");
  reader.integer("version", kManifestVersion, kManifestVersion);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kMostIds = std::numeric_limits<std::int32_t>::max();
  DatasetManifest manifest;
  manifest.tokenizer = reader.string("tokenizer");
  if (!reader.string("tokenizer_file").empty()) manifest.tokenizer_file = reader.file_name("tokenizer_file");
  manifest.vocab_size = reader.integer("vocab_size", 1, kMostIds);
  manifest.bos_id = static_cast<std::int32_t>(reader.integer("bos_id", -1, manifest.vocab_size - 1));
  manifest.eos_id = static_cast<std::int32_t>(reader.integer("eos_id", -1, manifest.vocab_size - 1));
  manifest.vocab_hash = reader.hash("vocab_hash");
  manifest.documents = reader.integer("documents", 0, kMost);
  manifest.bytes = reader.integer("bytes", 0, kMost);
  manifest.train = read_shards(reader, "train", manifest.vocab_hash);
  manifest.validation = read_shards(reader, "validation", manifest.vocab_hash);
  return manifest;
}

}  // namespace sinkscope
