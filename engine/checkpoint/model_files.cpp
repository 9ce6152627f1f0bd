#include "engine/checkpoint/model_files.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "engine/checkpoint/safetensors.h"
#include "engine/config/json_text.h"
#include "engine/files/input_file.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "engine/model/parameters.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

/// The tensors of one model file, or of the shards that an index names.
class TensorFiles {
 public:
  explicit TensorFiles(const std::filesystem::path& folder) {
    const std::filesystem::path single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {
      listing_ = single.string();
      add_shard(single);
      for (const std::string& name : shards_[0].names()) shard_of_[name] = 0;
    } else if (std::filesystem::exists(index)) {
      listing_ = index.string();
      read_index(folder, index);
    } else {
      throw std::runtime_error(folder.string() +
                               ": neither model.safetensors nor model.safetensors.index.json is there");
    }
  }

  const std::map<std::string, std::size_t>& tensors() const { return shard_of_; }
  /// The file that should hold a tensor: its shard, or the file that lists the tensors.
  std::string file_of(const std::string& name) const {
    const auto found = shard_of_.find(name);
    return found == shard_of_.end() ? listing_ : shards_[found->second].path().string();
  }
  bool contains(const std::string& name) const { return shard_of_.count(name) != 0; }
  const SafetensorsFile& shard(const std::string& name) const { return shards_[shard_of_.at(name)]; }

 private:
  void add_shard(const std::filesystem::path& file) { shards_.emplace_back(file); }

  void read_index(const std::filesystem::path& folder, const std::filesystem::path& index) {
    const Json json = parse_strict(read_text_file(index), index.string());
    if (!json.is_object() || !json.contains("weight_map") || !json.at("weight_map").is_object())
      throw std::runtime_error(index.string() + ": weight_map: expected an object of tensors and their files");
    std::map<std::string, std::size_t> opened;
    for (const auto& [name, file] : json.at("weight_map").items()) {
      if (!file.is_string() || file.get_ref<const std::string&>().empty() ||
          std::filesystem::path(file.get<std::string>()).filename() != file.get<std::string>())
        throw std::runtime_error(index.string() + ": weight_map." + name + ": expected a file name, found " +
                                 describe_value(file));
      const auto [place, is_new] = opened.emplace(file.get<std::string>(), shards_.size());
      if (is_new) add_shard(folder / file.get<std::string>());
      if (!shards_[place->second].contains(name))
        throw std::runtime_error(shards_[place->second].path().string() + ": tensor " + name +
                                 " is missing, but model.safetensors.index.json places it there");
      shard_of_[name] = place->second;
    }
    for (const SafetensorsFile& shard : shards_)
      for (const std::string& name : shard.names())
        if (!contains(name))
          throw std::runtime_error(shard.path().string() + ": tensor " + name +
                                   " is not listed in model.safetensors.index.json");
  }

  std::string listing_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t> shard_of_;
};

std::int64_t row_size(const ParameterSpec& spec) { return spec.shape.size() == 2 ? spec.shape[1] : 1; }

std::span<float> stretch(std::span<float> flat, const ParameterSpec& spec, const TensorPlace& place) {
  std::int64_t size = 1;
  for (const std::int64_t extent : place.shape) size *= extent;
  return flat.subspan(static_cast<std::size_t>(spec.offset + place.begin_row * row_size(spec)),
                      static_cast<std::size_t>(size));
}

/// The name in the files: GPT-2's own files on the hub leave out the leading "transformer.".
std::string name_in(const TensorFiles& files, const std::string& name) {
  constexpr std::string_view kPrefix = "transformer.";
  if (files.contains(name) || name.compare(0, kPrefix.size(), kPrefix) != 0) return name;
  const std::string bare = name.substr(kPrefix.size());
  return files.contains(bare) ? bare : name;
}

void read_place(const TensorFiles& files, const std::string& name, const TensorPlace& place, std::span<float> out) {
  const SafetensorsFile& file = files.shard(name);
  if (file.shape(name) != place.shape)
    throw std::runtime_error(file.path().string() + ": tensor " + name + ": shape " + describe_shape(file.shape(name)) +
                             ", expected " + describe_shape(place.shape));
  if (!place.transposed && place.rows.empty()) {
    file.read(name, out);
    return;
  }
  std::vector<float> values(out.size());
  file.read(name, values);
  if (!place.rows.empty()) {
    const std::size_t width = out.size() / place.rows.size();
    for (std::size_t row = 0; row < place.rows.size(); ++row)
      std::copy_n(values.data() + row * width, width, out.data() + static_cast<std::size_t>(place.rows[row]) * width);
    return;
  }
  const auto rows = static_cast<std::size_t>(place.shape[0]), columns = static_cast<std::size_t>(place.shape[1]);
  for (std::size_t column = 0; column < columns; ++column)
    for (std::size_t row = 0; row < rows; ++row) out[column * rows + row] = values[row * columns + column];
}

/// A tied model's file may repeat the embedding as the head; another head would be lost silently.
void check_tied_head(const TensorFiles& files, const std::string& name, const ParameterLayout& layout,
                     std::span<const float> flat) {
  const ParameterSpec& spec = layout.find("embed.token.weight");
  std::vector<float> head(static_cast<std::size_t>(spec.size));
  read_place(files, name, {name, spec.shape, spec.name}, head);
  if (std::memcmp(head.data(), flat.data() + spec.offset, head.size() * sizeof(float)) != 0)
    throw std::runtime_error(files.file_of(name) + ": tensor " + name +
                             " differs from the token embedding, which the model ties it to");
}

void copy_tokenizer(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& files,
                    FileDigests& digests) {
  std::string tokenizer_class;
  for (const std::filesystem::path& file : files) {
    const std::string name = tokenizer_file_name(file);
    if (digests.count(name) != 0 || name == "tokenizer_config.json") continue;
    digests[name] = copy_to_new_file(file, folder / name);
    if (name == "tokenizer.model") tokenizer_class = "LlamaTokenizer";
    if (name == "merges.txt") tokenizer_class = "GPT2Tokenizer";
  }
  if (tokenizer_class.empty()) return;
  // BOS is a matter of the run's policy, so the tokenizer adds none by itself.
  Json json;
  json["tokenizer_class"] = tokenizer_class;
  json["add_bos_token"] = false;
  json["add_eos_token"] = false;
  if (tokenizer_class == "LlamaTokenizer") json["legacy"] = false;
  digests["tokenizer_config.json"] = write_new_file(folder / "tokenizer_config.json", json.dump(2) + "\n");
}

}  // namespace

void check_flat_size(const ModelConfig& model, std::size_t size, const std::string& what) {
  const std::int64_t expected = ParameterLayout(model).flat_size();
  if (static_cast<std::int64_t>(size) != expected)
    throw std::invalid_argument(what + ": expected " + std::to_string(expected) + " elements, got " +
                                std::to_string(size));
}

FileDigests write_model_files(const std::filesystem::path& folder, const CheckpointData& data,
                              std::optional<Architecture> architecture) {
  check_flat_size(data.model, data.parameters.size(), "parameters");
  const ParameterLayout layout(data.model);
  std::vector<SafetensorsEntry> entries;
  for (const TensorPlace& place : tensor_places(architecture, data.model)) {
    const ParameterSpec& spec = layout.find(place.parameter);
    std::size_t size = 1;
    for (const std::int64_t extent : place.shape) size *= static_cast<std::size_t>(extent);
    const auto begin = static_cast<std::size_t>(spec.offset + place.begin_row * row_size(spec));
    entries.push_back({place.name, place.shape, data.parameters.subspan(begin, size), place.transposed, place.rows});
  }
  FileDigests digests;
  HashedFile file(folder / "model.safetensors");
  write_safetensors(file, entries, {{"format", "pt"}});
  digests["model.safetensors"] = file.finish();
  std::string config;
  if (architecture) {
    config = hugging_face_config_text(*architecture, data.model, data.bos_id, data.eos_id);
  } else {
    config = "{\n  \"architectures\": [\n    \"SinkscopeDecoder\"\n  ],\n  \"model_type\": \"sinkscope\"\n}\n";
  }
  digests["config.json"] = write_new_file(folder / "config.json", config);
  copy_tokenizer(folder, data.tokenizer_files, digests);
  return digests;
}

void load_model_file(const std::filesystem::path& folder, const ModelConfig& model,
                     std::optional<Architecture> architecture, std::span<float> parameters) {
  check_flat_size(model, parameters.size(), "parameters");
  const ParameterLayout layout(model);
  const TensorFiles files(folder);
  std::fill(parameters.begin(), parameters.end(), 0.0F);
  std::set<std::string> used;
  for (const TensorPlace& place : tensor_places(architecture, model)) {
    const std::string name = name_in(files, place.name);
    if (!files.contains(name)) throw std::runtime_error(files.file_of(name) + ": tensor " + name + " is missing");
    read_place(files, name, place, stretch(parameters, layout.find(place.parameter), place));
    used.insert(name);
  }
  if (architecture && model.tied_embedding && files.contains(head_name(*architecture))) {
    check_tied_head(files, head_name(*architecture), layout, parameters);
    used.insert(head_name(*architecture));
  }
  for (const auto& [name, shard] : files.tensors())
    if (used.count(name) == 0 && !(architecture && is_buffer(name)))
      throw std::runtime_error(files.file_of(name) + ": tensor " + name + " is unexpected: " +
                               (architecture ? class_name(*architecture) : "the model") +
                               " as configured has none of this name");
}

void export_hugging_face(const std::filesystem::path& folder, const CheckpointData& data) {
  std::string obstacles;
  const std::optional<Architecture> architecture = architecture_of(data.model, &obstacles);
  if (!architecture) throw std::runtime_error(folder.string() + ": " + obstacles);
  const std::filesystem::path target = std::filesystem::absolute(folder).lexically_normal();
  const std::filesystem::path place = target.has_filename() ? target : target.parent_path();
  if (std::filesystem::exists(place) && !(std::filesystem::is_directory(place) && std::filesystem::is_empty(place)))
    throw std::runtime_error(folder.string() + ": already exists");
  make_folders(place.parent_path());
  StagingFolder staging(place.parent_path() / ("." + place.filename().string() + ".partial"));
  write_model_files(staging.path(), data, architecture);
  Json generation = Json::object();
  if (data.bos_id >= 0) generation["bos_token_id"] = data.bos_id;
  if (data.eos_id >= 0) generation["eos_token_id"] = data.eos_id;
  write_new_file(staging.path() / "generation_config.json", generation.dump(2) + "\n");
  staging.commit(place);
}

std::vector<HuggingFaceTensor> hugging_face_tensors(const ModelConfig& model) {
  std::string obstacles;
  const std::optional<Architecture> architecture = architecture_of(model, &obstacles);
  if (!architecture) throw std::runtime_error(obstacles);
  std::vector<HuggingFaceTensor> tensors;
  for (const TensorPlace& place : tensor_places(architecture, model)) tensors.push_back({place.name, place.parameter});
  return tensors;
}

void load_hugging_face(const std::filesystem::path& folder, const ModelConfig& model, std::span<float> parameters) {
  std::string obstacles;
  const std::optional<Architecture> architecture = architecture_of(model, &obstacles);
  if (!architecture) throw std::runtime_error(folder.string() + ": " + obstacles);
  load_model_file(folder, model, architecture, parameters);
}

}  // namespace sinkscope
