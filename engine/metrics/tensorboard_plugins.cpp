#include "engine/metrics/tensorboard_plugins.h"

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/metrics/wire_format.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kHparams = "hparams";

// HParamsPluginData; its version is 0.
constexpr unsigned kExperiment = 2, kSessionStart = 3, kSessionEnd = 4;
// DataType.
constexpr std::int64_t kString = 1, kBool = 2, kFloat64 = 3;

/// A google.protobuf.Value and its DataType; type 0 for what is no hyperparameter.
struct Hyperparameter {
  std::int64_t type = 0;
  std::string value;
};

Hyperparameter hyperparameter(const Json& value) {
  if (value.is_boolean()) return {kBool, integer_field(4, value.get<bool>() ? 1 : 0)};
  if (value.is_number()) return {kFloat64, double_field(2, value.get<double>())};
  if (value.is_string()) return {kString, bytes_field(3, value.get<std::string>())};
  return {};
}

/// Adds an Experiment's hparam_infos and a SessionStartInfo's hparams.
void collect(const Json& section, const std::string& path, std::string& infos, std::string& values) {
  for (const auto& [key, value] : section.items()) {
    const std::string name = path + "." + key;
    if (value.is_object()) {
      collect(value, name, infos, values);
      continue;
    }
    const Hyperparameter parameter = hyperparameter(value);
    if (parameter.type == 0) continue;
    infos += bytes_field(4, bytes_field(1, name) + integer_field(4, parameter.type));
    values += bytes_field(1, bytes_field(1, name) + bytes_field(2, parameter.value));
  }
}

struct Chart {
  std::string_view title;
  std::initializer_list<std::string_view> tags;  // regular expressions
};

/// A Category: charts of several curves.
std::string category(std::string_view title, std::initializer_list<Chart> charts) {
  std::string text = bytes_field(1, title);
  for (const Chart& chart : charts) {
    std::string tags;
    for (const std::string_view tag : chart.tags) tags += bytes_field(1, tag);
    text += bytes_field(2, bytes_field(1, chart.title) + bytes_field(2, tags));
  }
  return bytes_field(2, text);
}

}  // namespace

void add_hyperparameters(Summary& summary, const Json& config, double seconds) {
  std::string infos, values;
  for (const char* section : {"model", "data", "train"})
    if (const auto found = config.find(section); found != config.end() && found->is_object())
      collect(*found, section, infos, values);
  if (values.empty()) return;
  std::string metrics;
  for (const char* tag : {"loss/validation_common", "loss/train_common", "sink/natural/excess_position_0",
                          "sink/natural_bos/excess_position_0", "sink/phase", "speed/tokens_per_second"})
    metrics += bytes_field(5, bytes_field(1, bytes_field(2, tag)));
  summary.add_plugin("_hparams_/experiment", kHparams,
                     bytes_field(kExperiment, double_field(3, seconds) + infos + metrics));
  summary.add_plugin("_hparams_/session_start_info", kHparams,
                     bytes_field(kSessionStart, values + double_field(5, seconds)));
}

void add_finished(Summary& summary, double seconds) {
  constexpr std::int64_t kSuccess = 1;
  summary.add_plugin("_hparams_/session_end_info", kHparams,
                     bytes_field(kSessionEnd, integer_field(1, kSuccess) + double_field(2, seconds)));
}

void add_layout(Summary& summary) {
  const std::string layout =
      category("Loss", {{"common targets", {"^loss/train_common$", "^loss/validation_common$"}},
                        {"all targets", {"^loss/train$", "^loss/validation$"}}}) +
      category("Sink", {{"excess of position 0, by probe set", {"^sink/[a-z_]+/excess_position_0$"}},
                        {"rate of position 0, by probe set", {"^sink/[a-z_]+/rate_position_0$"}},
                        {"score by position, training batches", {"^sink/score_position_[0-9]+$"}},
                        {"score of position 0 by layer, training batches", {"^sink/score_layer_[0-9]+$"}},
                        {"phase: 0 wandering, 1 transition, 2 stable", {"^sink/phase$"}}}) +
      category("Circuit", {{"norm ratio of position 0 by layer, training batches", {"^norm/ratio_"}},
                           {"step-up layer l*", {"^norm/[a-z_]+/step_up_layer$"}},
                           {"first-two-layer share C2", {"^norm/[a-z_]+/concentration$"}}}) +
      category("Optimization", {{"gradient norm before clipping", {"^gradient/norm$"}},
                                {"gradient norm of attention by layer", {"^gradient/attention_"}},
                                {"gradient norm of MLP by layer", {"^gradient/mlp_"}},
                                {"learning rate", {"^gradient/learning_rate$"}}});
  summary.add_plugin_text("custom_scalars__config__", "custom_scalars", layout);
}

}  // namespace sinkscope
