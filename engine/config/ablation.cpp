#include <algorithm>

#include "engine/config/json_text.h"
#include "engine/config/load.h"
#include "engine/config/spec.h"

namespace sinkscope {
namespace {

constexpr std::size_t kMaxArms = 1000;
constexpr std::size_t kMaxLabelLength = 40;

/// What one value of an axis sets: dotted keys with the value of each.
using Overrides = std::vector<std::pair<std::string, Json>>;

struct Axis {
  std::string name;  // a dotted key, or what a group of keys is called
  bool group = false;
  std::vector<Overrides> choices;
  std::vector<std::string> labels;  // "bos-none", one a choice, all different
};

/// A value as part of a file name; empty when it makes none.
std::string file_label(const Json& value) {
  std::string label = value.is_string() ? value.get<std::string>() : value.dump();
  if (value.is_structured() || label.size() > kMaxLabelLength) return "";
  for (char& c : label) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.+-").find(c) != std::string_view::npos;
    if (!plain) c = '_';
  }
  return label;
}

/// Each by the value of the key that they begin with; by number where these are no file names, not all different, or
/// not of one key.
std::vector<std::string> value_labels(const std::vector<Overrides>& choices) {
  std::vector<std::string> labels;
  bool usable = true;
  for (const Overrides& choice : choices) {
    labels.push_back(file_label(choice.front().second));
    usable = usable && !labels.back().empty() && choice.front().first == choices.front().front().first &&
             std::find(labels.begin(), labels.end() - 1, labels.back()) == labels.end() - 1;
  }
  if (!usable)
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = std::to_string(i + 1);
  return labels;
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

/// The name as folders have it: that of a group, and the last part of a key.
std::string short_name(const Axis& axis) { return axis.group ? axis.name : last_part(axis.name); }

std::vector<std::string> keys_of(const Axis& axis) {
  std::vector<std::string> keys;
  for (const Overrides& choice : axis.choices)
    for (const auto& [key, value] : choice)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  return keys;
}

void expect_keys_once(const std::vector<Axis>& axes, const std::string& origin) {
  std::vector<std::string> seen;
  for (const Axis& axis : axes)
    for (const std::string& key : keys_of(axis)) {
      if (std::find(seen.begin(), seen.end(), key) != seen.end())
        throw ConfigError(origin + ": ablation sets " + in_quotes(key) +
                          " in two places; one combination would hold two values of it");
      seen.push_back(key);
    }
}

std::vector<Axis> read_axes(const Config& config) {
  if (config.ablation.empty())
    throw ConfigError(config.name +
                      ": ablation names no key to vary; give e.g. {\"data.bos\": [\"none\", \"sequence\"]}");
  const Json tree = to_json(config).at("ablation");
  check_value(*find_spec("ablation"), tree, config.name, "ablation");
  std::vector<Axis> axes;
  for (const auto& [name, values] : tree.items()) {
    Axis& axis = axes.emplace_back(Axis{name, is_group(name, values), {}, {}});
    for (const Json& value : values) {
      Overrides& choice = axis.choices.emplace_back();
      if (axis.group)
        for (const auto& [key, item] : value.items()) choice.emplace_back(key, item);
      else
        choice.emplace_back(name, value);
    }
  }
  expect_keys_once(axes, config.name);
  for (Axis& axis : axes) {
    const bool shared = std::count_if(axes.begin(), axes.end(),
                                      [&](const Axis& other) { return short_name(other) == short_name(axis); }) > 1;
    for (const std::string& label : value_labels(axis.choices))
      axis.labels.push_back((shared ? axis.name : short_name(axis)) + "-" + label);
  }
  return axes;
}

/// The BOS policies of all arms, in their order; none when no axis sets data.bos.
Json varied_policies(const std::vector<Axis>& axes, const Config& config) {
  Json policies = Json::array();
  for (const Axis& axis : axes) {
    const std::vector<std::string> keys = keys_of(axis);
    if (std::find(keys.begin(), keys.end(), "data.bos") == keys.end()) continue;
    for (const Overrides& choice : axis.choices) {
      const auto set =
          std::find_if(choice.begin(), choice.end(), [](const auto& item) { return item.first == "data.bos"; });
      Json policy =
          set == choice.end() ? Json(to_string(config.data.bos)) : set->second;  // one that names it not keeps it
      if (std::find(policies.begin(), policies.end(), policy) == policies.end()) policies.push_back(std::move(policy));
    }
  }
  return policies;
}

}  // namespace

std::vector<AblationFactor> ablation_factors(const Config& config) {
  std::vector<AblationFactor> factors;
  for (const Axis& axis : read_axes(config)) factors.push_back({axis.name, keys_of(axis)});
  return factors;
}

std::vector<Config> expand_ablation(const Config& config) {
  const std::vector<Axis> axes = read_axes(config);
  std::size_t arms = 1;
  for (const Axis& axis : axes) {
    arms *= axis.choices.size();
    if (arms > kMaxArms)
      throw ConfigError(config.name + ": ablation has more than " + std::to_string(kMaxArms) + " arms");
  }

  // What all arms start from: every field but those that follow from others.
  Json base = to_json(config);
  base.erase("ablation");
  for (const std::string& path : config.derived) base.at(path.substr(0, path.rfind('.'))).erase(last_part(path));
  if (Json policies = varied_policies(axes, config); !policies.empty()) {
    for (const Axis& axis : axes) {
      const std::vector<std::string> keys = keys_of(axis);
      if (std::find(keys.begin(), keys.end(), "data.common_targets") != keys.end())
        throw ConfigError(config.name +
                          ": ablation: data.common_targets cannot vary beside data.bos, which sets it for all arms");
    }
    base["data"]["common_targets"] = std::move(policies);
  }

  std::vector<Config> expanded;
  for (std::size_t arm = 0; arm < arms; ++arm) {
    std::vector<std::size_t> choice(axes.size());
    std::size_t rest = arm;
    for (std::size_t i = axes.size(); i-- > 0;) {
      choice[i] = rest % axes[i].choices.size();
      rest /= axes[i].choices.size();
    }
    std::string name = config.name + "/";
    for (std::size_t i = 0; i < axes.size(); ++i) name += (i == 0 ? "" : ",") + axes[i].labels[choice[i]];
    Json tree = base;
    tree["name"] = name;
    for (std::size_t i = 0; i < axes.size(); ++i)
      for (const auto& [key, value] : axes[i].choices[choice[i]]) {
        check_value(*find_spec(key), value, name, key);
        set_at(tree, key, value);
      }
    check_value(config_spec(), tree, name, "");
    expanded.push_back(resolve_tree(tree, name));
  }
  return expanded;
}

}  // namespace sinkscope
