#include "engine/checkpoint/checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "engine/checkpoint/model_files.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/config/json_text.h"
#include "engine/config/load.h"
#include "engine/files/digest.h"
#include "engine/files/input_file.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/rename.h"
#include "engine/files/system_error.h"
#include "engine/model/parameters.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "sinkscope-checkpoint-1";
constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kFolderPrefix = "step_";
constexpr std::string_view kPartial = "partial", kRemoved = "removed";  // in the names of hidden folders
constexpr std::size_t kMinDigits = 8;
constexpr std::size_t kMaxDigits = 18;

std::string folder_name(std::int64_t step) {
  const std::string digits = std::to_string(step);
  return std::string(kFolderPrefix) + std::string(kMinDigits - std::min(kMinDigits, digits.size()), '0') + digits;
}

/// The name of a folder that is not, or no longer, a checkpoint.
std::string hidden_name(const std::string& name, std::string_view state) {
  std::string hidden = ".";
  return hidden.append(name).append(".").append(state);
}

/// Of a checkpoint folder's name.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kFolderPrefix)) return std::nullopt;
  const std::string digits = name.substr(kFolderPrefix.size());
  if (digits.size() < kMinDigits || digits.size() > kMaxDigits ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::stoll(digits);
}

/// Checkpoint folders by step, oldest first; anything else in the folder is not looked at.
std::vector<std::pair<std::int64_t, std::filesystem::path>> list_checkpoints(const std::filesystem::path& checkpoints) {
  std::vector<std::pair<std::int64_t, std::filesystem::path>> found;
  if (!std::filesystem::is_directory(checkpoints)) return found;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && entry.is_directory()) found.emplace_back(*step, entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The manifest ends with the hash of what comes before, so that damage to itself shows too.
std::string manifest_text(Json manifest) {
  manifest.erase("xxh3_128");
  const std::string hash = hash_text(manifest.dump(2));
  manifest["xxh3_128"] = hash;
  return manifest.dump(2) + "\n";
}

Json read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifest;
  if (!std::filesystem::exists(path)) refuse(path, "is missing");
  const std::string text = read_text_file(path);
  Json manifest;
  try {
    manifest = parse_strict(text, path.string());
  } catch (const ConfigError&) {
    refuse(path, "is damaged: it is no valid JSON");
  }
  if (!manifest.is_object()) refuse(path, "is damaged: it does not match its own hash");
  if (manifest_text(manifest) != text) refuse(path, "is damaged: it does not match its own hash");
  if (manifest.value("format", Json()) != kFormat)
    refuse(path,
           "format: expected " + in_quotes(kFormat) + ", found " + describe_value(manifest.value("format", Json())));
  if (!manifest.contains("files") || !manifest.at("files").is_object()) refuse(path, "files: expected an object");
  for (const char* name : {"model.safetensors", "config.json", "checkpoint.json", "state.json"})
    if (!manifest.at("files").contains(name)) refuse(path, std::string("files: ") + name + " is not listed");
  return manifest;
}

/// The optimizer's moments, named by kind and parameter.
FileDigest write_moments(const std::filesystem::path& path, const CheckpointData& data) {
  const ParameterLayout layout(data.model);
  std::vector<SafetensorsEntry> entries;
  for (const auto& [kind, flat] : {std::pair("m.", data.first_moment), std::pair("v.", data.second_moment)})
    for (const ParameterSpec& spec : layout.specs())
      entries.push_back({kind + spec.name, spec.shape,
                         flat.subspan(static_cast<std::size_t>(spec.offset), static_cast<std::size_t>(spec.size))});
  HashedFile file(path);
  write_safetensors(file, entries, {});
  return file.finish();
}

void read_moments(const std::filesystem::path& path, const ModelConfig& model, std::span<float> first,
                  std::span<float> second) {
  if (!std::filesystem::exists(path)) refuse(path, "is missing; the checkpoint holds no optimizer state");
  const ParameterLayout layout(model);
  const SafetensorsFile file(path);
  std::size_t expected = 0;
  for (const auto& [kind, flat] : {std::pair("m.", first), std::pair("v.", second)}) {
    std::fill(flat.begin(), flat.end(), 0.0F);
    for (const ParameterSpec& spec : layout.specs()) {
      const std::string name = kind + spec.name;
      if (file.shape(name) != spec.shape)
        refuse(path, "tensor " + name + ": shape " + describe_shape(file.shape(name)) + ", expected " +
                         describe_shape(spec.shape));
      file.read(name, flat.subspan(static_cast<std::size_t>(spec.offset), static_cast<std::size_t>(spec.size)));
      ++expected;
    }
  }
  if (file.names().size() == expected) return;
  for (const std::string& name : file.names())
    if (!(name.starts_with("m.") || name.starts_with("v.")) || !layout.contains(name.substr(2)))
      refuse(path, "tensor " + name + " is unexpected: the model as configured has none of this name");
}

/// Reads back what checkpoint.json says of the model, with a configuration's own checks.
ModelConfig parse_model(const Json& model, const std::string& origin) {
  Json config;
  config["model"] = model;
  // A model stands here without a run; these keep the checks across fields to the model itself.
  config["probes"]["enabled"] = false;
  const Json length = model.is_object() ? model.value("max_sequence_length", Json(0)) : Json(0);
  const bool given = length.is_number_integer() && length.get<std::int64_t>() >= 2;
  config["train"] = {{"sequence_length", given ? length : Json(2)}, {"micro_batch", 1}, {"steps", 1}};
  config["train"]["schedule"]["warmup_steps"] = 0;
  return parse_config(config.dump(), origin).model;
}

std::int64_t rotary_width(const ModelConfig& model) {
  return model.rotary_dim == 0 ? model.head_dim : model.rotary_dim;
}

/// Both must compute the same function; how the weights once were drawn does not matter.
void check_same_model(const std::filesystem::path& file, const ModelConfig& saved, const ModelConfig& given) {
  const Json there = to_json(saved).flatten(), here = to_json(given).flatten();
  for (const auto& [pointer, value] : there.items()) {
    std::string key = pointer.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    if (key == "preset" || key == "init" || key == "init_std") continue;
    if (key == "max_sequence_length" && saved.position != PositionEncoding::learned) continue;
    if ((key == "rope_theta" || key == "rotary_dim") && saved.position != PositionEncoding::rope) continue;
    if (key == "rotary_dim" && rotary_width(saved) == rotary_width(given)) continue;
    if (key == "qkv_bias" && saved.bias) continue;  // which all linear layers have then
    if (value != here.at(pointer))
      refuse(file, "model." + key + " is " + value.dump() + ", expected " + here.at(pointer).dump() + " as configured");
  }
}

std::int64_t integer_at(const Json& json, const char* key, std::int64_t minimum, std::int64_t maximum,
                        const std::filesystem::path& path) {
  const Json value = json.value(key, Json());
  if (!value.is_number_integer() || value.get<std::int64_t>() < minimum || value.get<std::int64_t>() > maximum)
    refuse(path, std::string(key) + ": expected an integer from " + std::to_string(minimum) + " to " +
                     std::to_string(maximum) + ", found " + describe_value(value));
  return value.get<std::int64_t>();
}

std::set<std::filesystem::path> entries_in(const std::filesystem::path& folder) {
  std::set<std::filesystem::path> entries;
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(folder, ignored), end; entry != end; entry.increment(ignored))
    entries.insert(entry->path());
  return entries;
}

void tell_left(std::vector<std::string>* left, const std::filesystem::path& folder, const std::error_code& error) {
  if (left != nullptr) left->push_back(folder.string() + ": cannot remove: " + error.message());
}

/// Removes a folder so that a crash on the way leaves no half of it under its own name. One of which nothing can be
/// removed keeps that.
std::error_code remove_checkpoint(const std::filesystem::path& folder) {
  const std::filesystem::path doomed = folder.parent_path() / hidden_name(folder.filename().string(), kRemoved);
  std::error_code error, ignored;
  std::filesystem::remove_all(doomed, error);
  if (!error) std::filesystem::rename(folder, doomed, error);
  if (error) return error;
  const std::set<std::filesystem::path> entries = entries_in(doomed);
  std::filesystem::remove_all(doomed, error);
  if (error && entries_in(doomed) == entries) std::filesystem::rename(doomed, folder, ignored);
  return error;
}

/// Removes what killed processes left of any step. What cannot be removed does no harm.
void remove_leftovers(const std::filesystem::path& checkpoints) {
  std::error_code ignored;
  for (const std::filesystem::path& folder : entries_in(checkpoints)) {
    const std::string name = folder.filename().string(), checkpoint = folder.stem().string().substr(1);
    for (const std::string_view state : {kPartial, kRemoved})
      if (step_of(checkpoint) && name == hidden_name(checkpoint, state)) std::filesystem::remove_all(folder, ignored);
  }
}

void prune(const std::filesystem::path& checkpoints, const std::filesystem::path& newest, std::int64_t keep,
           std::vector<std::string>* left) {
  if (keep <= 0) return;
  auto found = list_checkpoints(checkpoints);
  auto surplus = static_cast<std::int64_t>(found.size()) - keep;
  for (const auto& [step, folder] : found) {
    if (surplus <= 0) return;
    if (folder.filename() == newest.filename()) continue;
    const std::error_code error = remove_checkpoint(folder);
    if (error) tell_left(left, folder, error);
    --surplus;
  }
}

}  // namespace

std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, const CheckpointData& data,
                                      std::int64_t keep, std::vector<std::string>* left) {
  if (data.step < 0) throw std::invalid_argument("checkpoint step " + std::to_string(data.step) + " is negative");
  if (!Json::accept(data.state)) throw std::invalid_argument("the loop's state is no valid JSON");
  check_flat_size(data.model, data.parameters.size(), "parameters");
  const bool moments = !data.first_moment.empty() || !data.second_moment.empty();
  if (moments) {
    check_flat_size(data.model, data.first_moment.size(), "first moment");
    check_flat_size(data.model, data.second_moment.size(), "second moment");
  }
  if (make_folders(checkpoints)) sync_folder(std::filesystem::absolute(checkpoints).parent_path());
  remove_leftovers(checkpoints);
  const std::filesystem::path target = checkpoints / folder_name(data.step);
  StagingFolder staging(checkpoints / hidden_name(folder_name(data.step), kPartial));
  FileDigests digests = write_model_files(staging.path(), data, architecture_of(data.model));
  if (moments) digests["optimizer.safetensors"] = write_moments(staging.path() / "optimizer.safetensors", data);
  digests["state.json"] = write_new_file(staging.path() / "state.json", data.state);

  Json tokenizer = Json::array();
  for (const std::filesystem::path& file : data.tokenizer_files) tokenizer.push_back(tokenizer_file_name(file));
  Json info;
  info["step"] = data.step;
  info["bos_id"] = data.bos_id;
  info["eos_id"] = data.eos_id;
  info["tokenizer_files"] = tokenizer;
  info["model"] = to_json(data.model);
  digests["checkpoint.json"] = write_new_file(staging.path() / "checkpoint.json", info.dump(2) + "\n");

  Json manifest;
  manifest["format"] = kFormat;
  for (const auto& [name, digest] : digests)
    manifest["files"][name] = {{"size", digest.size}, {"xxh3_128", digest.xxh3_128}};
  write_new_file(staging.path() / kManifest, manifest_text(manifest));
  if (const std::error_code error = staging.commit(target)) tell_left(left, staging.path(), error);
  prune(checkpoints, target, keep, left);
  return target;
}

std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints,
                                                       std::vector<std::string>* rejected) {
  const auto found = list_checkpoints(checkpoints);
  for (auto entry = found.rbegin(); entry != found.rend(); ++entry) {
    try {
      verify_checkpoint(entry->second);
      return entry->second;
    } catch (const std::exception& error) {
      if (rejected != nullptr) rejected->push_back(entry->second.string() + ": " + error.what());
    }
  }
  return std::nullopt;
}

void verify_checkpoint(const std::filesystem::path& checkpoint) {
  const Json manifest = read_manifest(checkpoint);
  const std::filesystem::path manifest_path = checkpoint / kManifest;
  for (const auto& [name, entry] : manifest.at("files").items()) {
    if (name.empty() || std::filesystem::path(name).filename() != name || !entry.is_object() ||
        !entry.value("size", Json()).is_number_integer() || !entry.value("xxh3_128", Json()).is_string())
      refuse(manifest_path, "files." + name + ": expected a file name with size and xxh3_128");
    const std::filesystem::path path = checkpoint / name;
    if (!std::filesystem::is_regular_file(path)) refuse(path, "is missing");
    const auto size = entry.at("size").get<std::int64_t>();
    const auto found = static_cast<std::int64_t>(std::filesystem::file_size(path));
    if (found != size)
      refuse(path, std::string(found < size ? "is truncated: " : "has grown: ") + std::to_string(found) +
                       " bytes, expected " + std::to_string(size));
    if (digest_file(path).xxh3_128 != entry.at("xxh3_128").get_ref<const std::string&>())
      refuse(path, "is damaged: its content does not match the hash in manifest.json");
  }
}

CheckpointInfo read_checkpoint_info(const std::filesystem::path& checkpoint) {
  constexpr std::int64_t kMaxId = 0x7fffffff;
  const std::filesystem::path path = checkpoint / "checkpoint.json";
  const Json json = parse_strict(read_text_file(path), path.string());
  if (!json.is_object()) refuse(path, "expected an object, found " + describe_value(json));
  CheckpointInfo info;
  info.step = integer_at(json, "step", 0, std::int64_t{1} << 60, path);
  info.bos_id = static_cast<std::int32_t>(integer_at(json, "bos_id", -1, kMaxId, path));
  info.eos_id = static_cast<std::int32_t>(integer_at(json, "eos_id", -1, kMaxId, path));
  info.model = parse_model(json.value("model", Json()), path.string());
  for (const Json& name : json.value("tokenizer_files", Json::array())) {
    if (!name.is_string() || std::filesystem::path(name.get<std::string>()).filename() != name.get<std::string>())
      refuse(path, "tokenizer_files: expected file names, found " + describe_value(name));
    info.tokenizer_files.push_back(checkpoint / name.get<std::string>());
  }
  return info;
}

std::string load_checkpoint(const std::filesystem::path& checkpoint, const ModelConfig& model,
                            std::span<float> parameters, std::span<float> first_moment,
                            std::span<float> second_moment) {
  check_same_model(checkpoint / "checkpoint.json", read_checkpoint_info(checkpoint).model, model);
  std::string state = read_text_file(checkpoint / "state.json");
  load_model_file(checkpoint, model, architecture_of(model), parameters);
  if (first_moment.empty() && second_moment.empty()) return state;
  check_flat_size(model, first_moment.size(), "first moment");
  check_flat_size(model, second_moment.size(), "second moment");
  read_moments(checkpoint / "optimizer.safetensors", model, first_moment, second_moment);
  return state;
}

}  // namespace sinkscope
