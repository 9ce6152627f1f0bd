#include "engine/config/spec.h"

#include <algorithm>

#include "engine/config/json_text.h"
#include "engine/config/load.h"

namespace sinkscope {
namespace {

// Values as JSON, one overload a field type.
template <class Enum>
  requires std::is_enum_v<Enum>
Json to_value(Enum value) {
  return std::string(to_string(value));
}
Json to_value(std::int64_t value) { return value; }
Json to_value(double value) { return value; }
Json to_value(bool value) { return value; }
Json to_value(const std::string& value) { return value; }
template <class T>
Json to_value(const std::vector<T>& values) {
  Json list = Json::array();
  for (const T& value : values) list.push_back(to_value(value));
  return list;
}
Json to_value(const std::vector<AblationAxis>& axes) {
  Json object = Json::object();
  for (const AblationAxis& axis : axes) {
    Json values = Json::array();
    for (const std::string& value : axis.values) values.push_back(parse_strict(value, "ablation", axis.key));
    object[axis.key] = std::move(values);
  }
  return object;
}
template <class Section>
  requires kIsSection<Section> || std::is_same_v<Section, Config>
Json to_value(const Section& section) {
  Json object = Json::object();
  visit_fields<Section>(
      [&](const auto& field) { object[std::string(field.key)] = to_value(section.*field.member); });
  return object;
}

// And back; the JSON has been checked.
template <class Enum>
  requires std::is_enum_v<Enum>
void from_value(const Json& value, Enum& result) {
  const auto& text = value.get_ref<const std::string&>();
  for (const auto& [candidate, name] : enum_names<Enum>())
    if (name == text) result = candidate;
}
void from_value(const Json& value, std::int64_t& result) { result = value.get<std::int64_t>(); }
void from_value(const Json& value, double& result) { result = value.get<double>(); }
void from_value(const Json& value, bool& result) { result = value.get<bool>(); }
void from_value(const Json& value, std::string& result) { result = value.get<std::string>(); }
template <class T>
void from_value(const Json& value, std::vector<T>& result) {
  result.clear();
  for (const Json& item : value) from_value(item, result.emplace_back());
}
void from_value(const Json& value, std::vector<AblationAxis>& result) {
  result.clear();
  for (const auto& [key, values] : value.items()) {
    AblationAxis& axis = result.emplace_back(AblationAxis{key, {}});
    for (const Json& item : values) axis.values.push_back(item.dump());
  }
}
template <class Section>
  requires kIsSection<Section> || std::is_same_v<Section, Config>
void from_value(const Json& value, Section& result) {
  visit_fields<Section>([&](const auto& field) {
    const auto found = value.find(std::string(field.key));
    if (found != value.end()) from_value(*found, result.*field.member);
  });
}

void set_limits(FieldSpec& /*spec*/, Unlimited /*limits*/) {}
void set_limits(FieldSpec& spec, IntegerLimits limits) { spec.integers = limits; }
void set_limits(FieldSpec& spec, NumberLimits limits) { spec.numbers = limits; }
void set_limits(FieldSpec& spec, TextLimits limits) { spec.text = limits; }
void set_limits(FieldSpec& spec, ListLimits limits) { spec.list = limits; }

template <class Enum>
std::vector<std::string> choice_names() {
  std::vector<std::string> names;
  for (const auto& [value, name] : enum_names<Enum>()) names.emplace_back(name);
  return names;
}

template <class Section>
std::vector<FieldSpec> specs_of(const Section& defaults, const std::string& path) {
  std::vector<FieldSpec> specs;
  visit_fields<Section>([&](const auto& field) {
    using Value = std::remove_cvref_t<decltype(defaults.*field.member)>;
    FieldSpec spec;
    spec.key = field.key;
    spec.path = join_path(path, field.key);
    spec.description = field.description;
    spec.standard = to_value(defaults.*field.member);
    set_limits(spec, field.limits);
    if constexpr (kIsSection<Value>) {
      spec.kind = FieldKind::section;
      spec.children = specs_of(defaults.*field.member, spec.path);
    } else if constexpr (std::is_same_v<Value, std::int64_t>) {
      spec.kind = FieldKind::integer;
    } else if constexpr (std::is_same_v<Value, double>) {
      spec.kind = FieldKind::number;
    } else if constexpr (std::is_same_v<Value, bool>) {
      spec.kind = FieldKind::boolean;
    } else if constexpr (std::is_same_v<Value, std::string>) {
      spec.kind = FieldKind::text;
    } else if constexpr (std::is_enum_v<Value>) {
      spec.kind = FieldKind::choice;
      spec.choices = choice_names<Value>();
    } else if constexpr (std::is_same_v<Value, std::vector<std::string>>) {
      spec.kind = FieldKind::text_list;
    } else if constexpr (std::is_same_v<Value, std::vector<AblationAxis>>) {
      spec.kind = FieldKind::axes;
    } else {
      spec.kind = FieldKind::choice_list;
      spec.choices = choice_names<typename Value::value_type>();
    }
    specs.push_back(std::move(spec));
  });
  return specs;
}

void collect_leaves(const FieldSpec& spec, std::vector<const FieldSpec*>& leaves) {
  for (const FieldSpec& child : spec.children) {
    if (child.kind == FieldKind::section)
      collect_leaves(child, leaves);
    else
      leaves.push_back(&child);
  }
}

}  // namespace

const FieldSpec* FieldSpec::child(const std::string& child_key) const {
  const auto found = std::find_if(children.begin(), children.end(),
                                  [&](const FieldSpec& candidate) { return candidate.key == child_key; });
  return found == children.end() ? nullptr : &*found;
}

const FieldSpec& config_spec() {
  static const FieldSpec root = [] {
    FieldSpec spec;
    spec.children = specs_of(Config{}, "");
    return spec;
  }();
  return root;
}

const FieldSpec* find_spec(const std::string& path) {
  const FieldSpec* spec = &config_spec();
  std::size_t begin = 0;
  while (spec != nullptr && begin <= path.size()) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    spec = spec->child(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return spec;
}

const std::vector<const FieldSpec*>& leaf_specs() {
  static const std::vector<const FieldSpec*> leaves = [] {
    std::vector<const FieldSpec*> found;
    collect_leaves(config_spec(), found);
    return found;
  }();
  return leaves;
}

bool can_vary(const FieldSpec& spec) {
  return spec.kind != FieldKind::section && spec.kind != FieldKind::axes && spec.path != "name" &&
         spec.path != "output";
}

bool can_vary_between_arms(const FieldSpec& spec) { return can_vary(spec) && !spec.path.starts_with("ranks."); }

void decode(const Json& tree, Config& config) { from_value(tree, config); }
void decode(const Json& tree, ModelConfig& model) { from_value(tree, model); }

Json to_json(const Config& config) { return to_value(config); }
Json to_json(const ModelConfig& config) { return to_value(config); }

std::vector<std::pair<std::string, std::string>> changed_fields(const Config& config) {
  Config standard;
  standard.model = preset_defaults(config.model.preset);
  standard.model.preset = Config{}.model.preset;
  const Json now = to_json(config), before = to_json(standard);
  std::vector<std::pair<std::string, std::string>> changed;
  for (const FieldSpec* leaf : leaf_specs()) {
    if (std::find(config.derived.begin(), config.derived.end(), leaf->path) != config.derived.end()) continue;
    std::string pointer = "/" + leaf->path;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    const Json& value = now.at(Json::json_pointer(pointer));
    if (value != before.at(Json::json_pointer(pointer))) changed.emplace_back(leaf->path, value.dump());
  }
  return changed;
}

}  // namespace sinkscope
