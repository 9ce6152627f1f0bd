// The JSON Schema and the Markdown reference, both from the fields' definitions.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/config/enums.h"
#include "engine/config/load.h"
#include "engine/config/spec.h"

namespace sinkscope {
namespace {

/// The form of a run's name as check_value has it.
constexpr const char* kNamePattern = "^[A-Za-z0-9_][A-Za-z0-9_.,=+-]*(/[A-Za-z0-9_][A-Za-z0-9_.,=+-]*)*$";

/// The form of a name for keys that change together; dotted keys have it too.
constexpr const char* kGroupPattern = "^[A-Za-z0-9_][A-Za-z0-9_.+-]*$";

std::string default_text(const FieldSpec& spec);

/// What each preset says of a model field: one value when they agree, else one a preset.
std::vector<std::pair<std::string, Json>> preset_values(const FieldSpec& spec) {
  std::vector<std::pair<std::string, Json>> values;
  if (!spec.path.starts_with("model.") || spec.key == "preset") return {{"", spec.standard}};
  std::string pointer = spec.path.substr(std::string_view("model").size());
  std::replace(pointer.begin(), pointer.end(), '.', '/');
  bool differ = false;
  for (const auto& [preset, name] : enum_names<ModelPreset>()) {
    values.emplace_back(name, to_json(preset_defaults(preset)).at(Json::json_pointer(pointer)));
    differ = differ || values.back().second != values.front().second;
  }
  if (!differ) return {{"", spec.standard}};
  return values;
}

std::string capitalised_sentence(std::string text) {
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text + ".";
}

Json number_value(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<std::int64_t>(value);
  return value;
}

Json leaf_schema(const FieldSpec& spec);

/// Where the schema of the file has that of a field.
std::string pointer_to(const FieldSpec& leaf) {
  std::string pointer = "#";
  std::size_t begin = 0;
  while (begin <= leaf.path.size()) {
    const std::size_t end = std::min(leaf.path.find('.', begin), leaf.path.size());
    pointer += "/properties/" + leaf.path.substr(begin, end - begin);
    begin = end + 1;
  }
  return pointer;
}

Json axes_schema() {
  Json properties = Json::object(), overrides = Json::object();
  for (const FieldSpec* leaf : leaf_specs()) {
    if (!can_vary_between_arms(*leaf)) continue;
    const Json field = {{"$ref", pointer_to(*leaf)}};
    overrides[leaf->path] = field;
    properties[leaf->path] = {{"type", "array"}, {"items", field}, {"minItems", 1}, {"uniqueItems", true}};
  }
  const Json arm = {
      {"type", "object"}, {"properties", overrides}, {"additionalProperties", false}, {"minProperties", 1}};
  return {{"type", "object"},
          {"properties", properties},
          {"propertyNames", {{"pattern", kGroupPattern}}},
          {"additionalProperties", {{"type", "array"}, {"items", arm}, {"minItems", 1}, {"uniqueItems", true}}}};
}

Json leaf_schema(const FieldSpec& spec) {
  Json schema = Json::object();
  switch (spec.kind) {
    case FieldKind::integer:
      schema["type"] = "integer";
      schema["minimum"] = spec.integers.minimum;
      schema["maximum"] = spec.integers.maximum;
      break;
    case FieldKind::number:
      schema["type"] = "number";
      schema[spec.numbers.above ? "exclusiveMinimum" : "minimum"] = number_value(spec.numbers.minimum);
      if (std::isfinite(spec.numbers.maximum))
        schema[spec.numbers.below ? "exclusiveMaximum" : "maximum"] = number_value(spec.numbers.maximum);
      break;
    case FieldKind::boolean: schema["type"] = "boolean"; break;
    case FieldKind::text:
      schema["type"] = "string";
      if (spec.text.form == TextForm::required) schema["minLength"] = 1;
      if (spec.text.form == TextForm::name) schema["pattern"] = kNamePattern;
      break;
    case FieldKind::choice:
      schema["type"] = "string";
      schema["enum"] = spec.choices;
      break;
    case FieldKind::text_list:
      schema["type"] = "array";
      schema["items"] = {{"type", "string"}, {"minLength", 1}};
      break;
    case FieldKind::choice_list:
      schema["type"] = "array";
      schema["items"] = {{"type", "string"}, {"enum", spec.choices}};
      schema["minItems"] = 1;
      schema["uniqueItems"] = true;
      break;
    case FieldKind::axes: schema = axes_schema(); break;
    case FieldKind::section: break;
  }
  return schema;
}

Json schema_of(const FieldSpec& spec) {
  if (spec.kind != FieldKind::section) {
    Json schema = leaf_schema(spec);
    const auto values = preset_values(spec);
    std::string description = capitalised_sentence(spec.description);
    if (values.size() == 1)
      schema["default"] = spec.standard;
    else
      description += " Default: " + default_text(spec) + ".";
    schema["description"] = std::move(description);
    return schema;
  }
  Json schema{{"type", "object"}};
  if (!spec.description.empty()) schema["description"] = capitalised_sentence(spec.description);
  Json properties = Json::object();
  for (const FieldSpec& child : spec.children) properties[child.key] = schema_of(child);
  schema["properties"] = std::move(properties);
  schema["additionalProperties"] = false;
  return schema;
}

std::string default_text(const FieldSpec& spec) {
  std::string text;
  for (const auto& [preset, value] : preset_values(spec))
    text += (text.empty() ? "" : ", ") + (preset.empty() ? "" : preset + " ") + value.dump();
  return text;
}

std::string reference_type(const FieldSpec& spec) {
  const auto choices = [&] {
    std::string text;
    for (const std::string& choice : spec.choices) text += (text.empty() ? "`" : ", `") + choice + "`";
    return text;
  };
  switch (spec.kind) {
    case FieldKind::choice: return choices();
    case FieldKind::choice_list: return "list of " + choices();
    case FieldKind::axes:
      return "object of lists: of values, or of objects of dotted keys";
    case FieldKind::text_list: return "list of strings";
    case FieldKind::text: return "string";
    default: break;
  }
  std::string text = describe_expected(spec);
  for (const std::string article : {"an ", "a "})
    if (text.starts_with(article)) return text.substr(article.size());
  return text;
}

}  // namespace

Json config_schema() {
  Json schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "sinkscope configuration"}};
  const Json root = schema_of(config_spec());
  for (const auto& [key, value] : root.items()) schema[key] = value;
  Json properties{{"$schema", {{"type", "string"}, {"description", "Where an editor finds this schema."}}}};
  for (const auto& [key, value] : schema.at("properties").items()) properties[key] = value;
  schema["properties"] = std::move(properties);
  return schema;
}

std::string config_reference() {
  std::string text = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  for (const FieldSpec* spec : leaf_specs()) {
    std::string standard;
    for (const auto& [preset, value] : preset_values(*spec))
      standard += (standard.empty() ? "" : ", ") + (preset.empty() ? "" : preset + " ") + "`" + value.dump() + "`";
    text += "| `" + spec->path + "` | " + reference_type(*spec) + " | " + standard + " | " + spec->description + " |\n";
  }
  return text;
}

}  // namespace sinkscope
