#include "tools/report/setting_influence.h"

#include <algorithm>
#include <map>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/config/load.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFingerprint = "run.dataset_fingerprint";

bool is_data_place(std::string_view key) {
  return key == "data.path" || key == "data.train" || key == "data.validation";
}

/// The config of a run as an object; "run" and "ablation" left out.
Json config_tree(const RunData& run) {
  Json tree = Json::object();
  for (const auto& [key, text] : run.settings) {
    if (key.starts_with("run.") || key == "ablation" || key.starts_with("ablation.")) continue;
    Json* place = &tree;
    std::size_t begin = 0;
    for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
      place = &(*place)[key.substr(begin, dot - begin)];
      begin = dot + 1;
    }
    Json value = Json::parse(text, nullptr, false);
    if (!value.is_discarded()) (*place)[key.substr(begin)] = std::move(value);
  }
  return tree;
}

/// Whether the run would have the same value had its config not named the key: it follows from the others.
bool follows_in(const RunData& run, const std::string& key) {
  const std::string pointer = [&] {
    std::string text = "/" + key;
    std::replace(text.begin(), text.end(), '.', '/');
    return text;
  }();
  const Json::json_pointer place(pointer);
  try {
    Json tree = config_tree(run);
    if (!tree.contains(place)) return false;
    const Json value = tree.at(place);
    tree.at(place.parent_pointer()).erase(place.back());
    Json resolved = to_json(parse_stored_config(tree.dump(), run.name));
    if (key == "model.max_sequence_length" && resolved.at(place) == 0)
      return resolved["train"]["sequence_length"] == value;
    return resolved.at(place) == value;
  } catch (const std::exception&) {  // of another version of the program: nothing is known
    return false;
  }
}

/// What the GPU or CPU computes in, as the run's device begins: "bf16", "fp32", "bf16 with FP8 products".
std::string precision_of(const std::string& device) { return device.substr(0, device.find(',')); }

/// Whether runs that set the same `precision` compute in the same.
bool computed_as_set(const std::vector<RunData>& runs) {
  std::map<std::string, std::string> computed;
  return std::all_of(runs.begin(), runs.end(), [&](const RunData& run) {
    const std::string device = precision_of(find_setting(run, "run.device").value_or(""));
    return computed.emplace(find_setting(run, "precision").value_or(""), device).first->second == device;
  });
}

}  // namespace

Influence influence_of(std::string_view key) {
  if (key == "train.seed") return Influence::seed;
  for (const std::string_view exact :
       {"name", "output", "$schema", "ablation", "train.recompute", "train.cuda_graph", "probes.causal_every"})
    if (key == exact) return Influence::none;
  for (const std::string_view exact : {"ranks.gpus", "ranks.bucket_megabytes", "ranks.shard", "ranks.shard_optimizer",
                                       "ranks.reduce_dtype", "ranks.copy_engines"})
    if (key == exact) return Influence::rounding;
  for (const std::string_view section : {"log.", "alerts.", "checkpoint.", "sample.", "ranks.", "ablation."})
    if (key.starts_with(section)) return Influence::none;
  if (key == kFingerprint || key == "run.parameters") return Influence::trained;
  if (key == "device" || key == "threads" || key.starts_with("run.")) return Influence::rounding;
  if (key.starts_with("probes.") || key.starts_with("evaluation.") || key == "data.common_targets")
    return Influence::measured;
  return Influence::trained;
}

const char* influence_name(Influence influence) {
  switch (influence) {
    case Influence::none:
      return "none";
    case Influence::rounding:
      return "rounding";
    case Influence::measured:
      return "measured";
    case Influence::seed:
      return "seed";
    case Influence::trained:
      return "trained";
  }
  return "";
}

std::vector<SettingDifference> setting_differences(const std::vector<RunData>& runs) {
  std::vector<SettingDifference> result;
  const std::vector<Difference> all = differences(runs);
  const auto differs = [&](std::string_view key) {
    return std::any_of(all.begin(), all.end(), [&](const Difference& d) { return d.key == key; });
  };
  const bool one_text = std::all_of(runs.begin(), runs.end(),
                                    [](const RunData& run) {
                                      const auto text = find_setting(run, kFingerprint);
                                      return text && *text != "\"\"" && *text != "null";
                                    }) &&
                        !differs(kFingerprint);
  const bool other_text = std::any_of(all.begin(), all.end(), [](const Difference& d) { return is_data_place(d.key); });
  for (const Difference& difference : all) {
    SettingDifference setting{difference.key, influence_of(difference.key), false, difference.values};
    if (is_data_place(setting.key) && one_text) setting.influence = Influence::none;
    if (setting.key == "run.device") {
      std::vector<std::string> precisions;
      for (const std::string& value : setting.values)
        if (value.starts_with('"')) precisions.push_back(precision_of(value));  // not of a run that does not tell
      if (!all_equal(precisions)) setting.influence = Influence::trained;
      setting.follows = setting.influence == Influence::trained && differs("precision") && computed_as_set(runs);
    }
    if (setting.key == "run.parameters") setting.follows = true;  // from the model's settings
    if (setting.influence == Influence::trained || setting.influence == Influence::measured) {
      if (setting.key == kFingerprint || setting.key == "model.vocab_size" || setting.key == "data.bos_id" ||
          setting.key == "data.eos_id")
        setting.follows = other_text && !one_text;
      else if (setting.key.starts_with("model.") || setting.key == "probes.from_layer")
        setting.follows =
            std::all_of(runs.begin(), runs.end(), [&](const RunData& run) { return follows_in(run, setting.key); });
    }
    result.push_back(std::move(setting));
  }
  return result;
}

bool decides(const SettingDifference& setting) {
  return !setting.follows && (setting.influence == Influence::trained || setting.influence == Influence::measured);
}

std::string influence_suffix(const SettingDifference& setting) {
  if (setting.follows) return " (follows from others)";
  switch (setting.influence) {
    case Influence::none:
      return " (changes no number)";
    case Influence::rounding:
      return " (rounding alone)";
    case Influence::measured:
      return " (how it is measured)";
    case Influence::seed:
    case Influence::trained:
      return "";
  }
  return "";
}

bool all_equal(const std::vector<std::string>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

}  // namespace sinkscope
