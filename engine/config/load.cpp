#include "engine/config/load.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "engine/config/json_text.h"
#include "engine/config/spec.h"
#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

constexpr std::int64_t kMaxFileBytes = std::int64_t{4} << 20;
constexpr std::string_view kAxisPrefix = "ablation.";

std::string read_config_file(const std::filesystem::path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    throw ConfigError(file.string() + ": is a folder, not a configuration file");
  try {
    return read_text_file(file, kMaxFileBytes);
  } catch (const std::runtime_error& error) {
    throw ConfigError(error.what());
  }
}

/// An override's value: JSON, or what is no JSON as a string.
Json parse_override_value(const std::string& value, const std::string& origin, const std::string& path) {
  try {
    return parse_strict(value, origin, path);
  } catch (const JsonSyntaxError&) {
    return value;
  }
}

void apply_override(Json& tree, const std::string& override_text) {
  const std::string shown = in_quotes(override_text);
  const std::string origin = "--set " + shown.substr(1, shown.size() - 2);
  const std::size_t equals = override_text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError(origin + ": expected key=value, e.g. model.layers=6");
  const std::string path = override_text.substr(0, equals);
  const Json value = parse_override_value(override_text.substr(equals + 1), origin, path);
  if (path.starts_with(kAxisPrefix)) {  // the rest is one key: ablation.train.seed=[1,2]
    const std::string axis = path.substr(kAxisPrefix.size());
    const FieldSpec& ablation = *find_spec("ablation");
    check_value(ablation, Json::object({{axis, value}}), origin, ablation.path);
    tree["ablation"][axis] = value;
    return;
  }
  const FieldSpec* spec = find_spec(path);
  if (spec == nullptr) throw_unknown_key(path, value, origin);
  try {
    check_value(*spec, value, origin, path);
  } catch (const ConfigError& error) {
    if (spec->kind == FieldKind::text && value.is_number())
      throw ConfigError(std::string(error.what()) + "; as a string: --set '" + path + "=\"" + value.dump() + "\"'");
    throw;
  }
  set_at(tree, path, value);
}

std::string with_overrides(const std::string& origin, std::span<const std::string> overrides) {
  if (overrides.empty()) return origin;
  std::string text = origin + " with";
  for (const std::string& item : overrides) {
    const std::string shown = in_quotes(item);
    text += " --set " + shown.substr(1, shown.size() - 2);
  }
  return text;
}

}  // namespace

void set_at(Json& tree, const std::string& path, const Json& value) {
  Json* place = &tree;
  std::size_t begin = 0;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    place = &(*place)[path.substr(begin, end - begin)];
    begin = end + 1;
  }
  const FieldSpec* spec = find_spec(path);
  if (spec != nullptr && spec->kind == FieldKind::section && place->is_object()) {
    for (const auto& [key, item] : value.items()) set_at(tree, join_path(path, key), item);
  } else {
    *place = value;
  }
}

Config parse_config(const std::string& text, const std::string& origin, std::span<const std::string> overrides) {
  Json tree = parse_strict(text, origin);
  check_value(config_spec(), tree, origin, "");
  for (const std::string& item : overrides) apply_override(tree, item);
  return resolve_tree(tree, with_overrides(origin, overrides));
}

Config parse_stored_config(const std::string& text, const std::string& origin) {
  Json tree = parse_strict(text, origin);
  if (const auto ranks = tree.find("ranks"); ranks != tree.end() && ranks->is_object()) {
    // As it was before ranks.shard.
    if (const auto old = ranks->find("shard_optimizer"); old != ranks->end() && old->is_boolean()) {
      const Shard shard = old->get<bool>() ? Shard::optimizer : Shard::none;
      ranks->erase(old);
      (*ranks)["shard"] = to_string(shard);
    }
    if (!ranks->contains("copy_engines")) (*ranks)["copy_engines"] = false;  // runs of before summed by kernels
  }
  return parse_config(tree.dump(), origin);
}

Config load_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  Config config = parse_config(read_config_file(file), file.string(), overrides);
  if (config.data.path.empty() && config.data.train.empty())
    throw ConfigError(
        with_overrides(file.string(), overrides) +
        ": data.path (a folder written by `sinkscope tokenize`) or data.train (shard files) must be given");
  return config;
}

}  // namespace sinkscope
