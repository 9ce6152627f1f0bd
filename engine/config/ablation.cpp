#include <algorithm>

#include "engine/config/json_text.h"
#include "engine/config/load.h"
#include "engine/config/spec.h"

namespace sinkscope {
namespace {

constexpr std::size_t kMaxArms = 1000;
constexpr std::size_t kMaxLabelLength = 40;

struct Axis {
  std::string key;                  // dotted
  std::vector<Json> values;
  std::vector<std::string> labels;  // "bos-none", one a value, all different
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

std::vector<std::string> value_labels(const std::vector<Json>& values) {
  std::vector<std::string> labels;
  bool usable = true;
  for (const Json& value : values) {
    labels.push_back(file_label(value));
    usable = usable && !labels.back().empty() &&
             std::find(labels.begin(), labels.end() - 1, labels.back()) == labels.end() - 1;
  }
  if (!usable)
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = std::to_string(i + 1);
  return labels;
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

std::vector<Axis> read_axes(const Config& config) {
  if (config.ablation.empty())
    throw ConfigError(config.name +
                      ": ablation names no key to vary; give e.g. {\"data.bos\": [\"none\", \"sequence\"]}");
  const Json tree = to_json(config).at("ablation");
  check_value(*find_spec("ablation"), tree, config.name, "ablation");
  std::vector<Axis> axes;
  for (const auto& [key, values] : tree.items()) {
    const bool shared = std::count_if(tree.items().begin(), tree.items().end(), [&, &name = key](const auto& other) {
                          return last_part(other.key()) == last_part(name);
                        }) > 1;
    Axis& axis = axes.emplace_back(Axis{key, {values.begin(), values.end()}, {}});
    for (const std::string& label : value_labels(axis.values))
      axis.labels.push_back((shared ? key : last_part(key)) + "-" + label);
  }
  return axes;
}

}  // namespace

std::vector<Config> expand_ablation(const Config& config) {
  const std::vector<Axis> axes = read_axes(config);
  std::size_t arms = 1;
  for (const Axis& axis : axes) {
    arms *= axis.values.size();
    if (arms > kMaxArms)
      throw ConfigError(config.name + ": ablation has more than " + std::to_string(kMaxArms) + " arms");
  }

  // What all arms start from: every field but those that follow from others.
  Json base = to_json(config);
  base.erase("ablation");
  for (const std::string& path : config.derived) base.at(path.substr(0, path.rfind('.'))).erase(last_part(path));
  const auto varied = [&](const std::string& key) {
    return std::find_if(axes.begin(), axes.end(), [&](const Axis& axis) { return axis.key == key; });
  };
  if (const auto bos = varied("data.bos"); bos != axes.end()) {
    if (varied("data.common_targets") != axes.end())
      throw ConfigError(config.name +
                        ": ablation: data.common_targets cannot vary beside data.bos, which sets it for all arms");
    base["data"]["common_targets"] = bos->values;
  }

  std::vector<Config> expanded;
  for (std::size_t arm = 0; arm < arms; ++arm) {
    std::vector<std::size_t> choice(axes.size());
    std::size_t rest = arm;
    for (std::size_t i = axes.size(); i-- > 0;) {
      choice[i] = rest % axes[i].values.size();
      rest /= axes[i].values.size();
    }
    std::string name = config.name + "/";
    for (std::size_t i = 0; i < axes.size(); ++i) name += (i == 0 ? "" : ",") + axes[i].labels[choice[i]];
    Json tree = base;
    tree["name"] = name;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const Json& value = axes[i].values[choice[i]];
      check_value(*find_spec(axes[i].key), value, name, axes[i].key);
      set_at(tree, axes[i].key, value);
    }
    check_value(config_spec(), tree, name, "");
    expanded.push_back(resolve_tree(tree, name));
  }
  return expanded;
}

}  // namespace sinkscope
