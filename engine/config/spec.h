// The fields of fields.h as one tree that can be walked at run time, and the conversions between a
// Config and its JSON tree.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/config/fields.h"

namespace sinkscope {

using Json = nlohmann::ordered_json;

enum class FieldKind : std::uint8_t { section, integer, number, boolean, text, choice, text_list, choice_list, axes };

struct FieldSpec {
  std::string key;   // "layers"
  std::string path;  // "model.layers"; of the root: ""
  std::string description;
  FieldKind kind = FieldKind::section;
  IntegerLimits integers;
  NumberLimits numbers;
  TextLimits text;
  ListLimits list;
  std::vector<std::string> choices;  // of choice and choice_list
  Json standard;                     // the default
  std::vector<FieldSpec> children;   // of a section

  const FieldSpec* child(const std::string& child_key) const;
};

/// The whole configuration; the root has no key.
const FieldSpec& config_spec();

/// The field at a dotted path, or null.
const FieldSpec* find_spec(const std::string& path);

/// Every field that is no section, in order.
const std::vector<const FieldSpec*>& leaf_specs();

/// Whether runs that are compared may vary the field; and the arms of an ablation, each of which trains as one rank.
bool can_vary(const FieldSpec& spec);
bool can_vary_between_arms(const FieldSpec& spec);

/// Whether an entry of an ablation is a name for keys that change together: no key that can vary, with a list that
/// holds an object.
bool is_group(const std::string& key, const Json& values);

/// Throws ConfigError unless `value` is what `spec` asks for, keys and limits included. Messages
/// begin with `origin`; `path` is where the value stands (spec.path, but for a list's items).
void check_value(const FieldSpec& spec, const Json& value, const std::string& origin, const std::string& path);

/// Throws ConfigError for `path`, which is no field but was given `value`, with what may be meant.
[[noreturn]] void throw_unknown_key(const std::string& path, const Json& value, const std::string& origin);

/// "an integer from 1 to 1024", "one of "rope", "none"".
std::string describe_expected(const FieldSpec& spec);

/// Copies what a checked tree names into the struct; the other fields stay.
void decode(const Json& tree, Config& config);
void decode(const Json& tree, ModelConfig& model);

/// The fields of `model` that a preset alone gives: what remains when a config names only `preset`.
ModelConfig preset_defaults(ModelPreset preset);

/// Throws ConfigError for fields that are valid alone but not together.
void check_together(const Config& config, const std::string& origin);

/// Presets, derived sizes and cross-field checks over a tree that check_value accepted.
Config resolve_tree(const Json& tree, const std::string& origin);

/// Puts a checked value at a dotted path of a tree; sections merge, everything else is replaced.
void set_at(Json& tree, const std::string& path, const Json& value);

}  // namespace sinkscope
