// A comparison as JSON, for `compare --json`.
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/report/comparison.h"
#include "tools/report/run_numbers.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

Json parsed_or_null(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  return json.is_discarded() ? Json(nullptr) : json;
}

Json number_or_null(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

Json point_json(const std::optional<Point>& point) {
  return point ? Json{{"step", point->step}, {"tokens", point->tokens}} : Json(nullptr);
}

Json first_last_json(const std::optional<FirstLast>& value) {
  return value ? Json{{"first", number_or_null(value->first)}, {"last", number_or_null(value->last)}} : Json(nullptr);
}

Json run_json(const RunData& run, const ArmSummary& arm, std::size_t index) {
  Json phases = Json::array();
  for (const PhaseSpan& span : arm.phases)
    phases.push_back({{"phase", span.phase}, {"from", span.from}, {"to", span.to}});
  return {{"directory", run.directory.string()},
          {"name", run.name},
          {"label", arm.label},
          {"arm", index},
          {"seed", parsed_or_null(find_setting(run, "train.seed").value_or(""))},
          {"bos", arm.bos},
          {"steps", arm.steps},
          {"planned_steps", arm.planned_steps},
          {"tokens", arm.tokens},
          {"training_loss", first_last_json(arm.train_loss)},
          {"training_loss_common", first_last_json(arm.train_loss_common)},
          {"validation_loss", first_last_json(arm.validation_loss)},
          {"validation_loss_common", first_last_json(arm.validation_loss_common)},
          {"onset", point_json(arm.onset)},
          {"phase", arm.phase},
          {"phases", phases},
          {"scores_from", arm.score_source},
          {"sink_excess", first_last_json(arm.sink_excess[0])},
          {"sink_score", first_last_json(arm.sink_score[0])},
          {"sink_rate", first_last_json(arm.sink_rate[0])},
          {"sink_rate_late_layers", first_last_json(arm.sink_rate_late)},
          {"sink_rate_short_set", number_or_null(short_set_rate(run, arm))},
          {"norm_ratio", arm.norm_ratio
                             ? Json{{"ratio", number_or_null(arm.norm_ratio->ratio)}, {"layer", arm.norm_ratio->layer}}
                             : Json(nullptr)},
          {"value_ratio", number_or_null(arm.value_ratio)},
          {"step_up_layer", arm.step_up_layer ? Json(*arm.step_up_layer) : Json(nullptr)},
          {"concentration", number_or_null(arm.concentration)},
          {"tokens_per_second", number_or_null(arm.tokens_per_second)},
          {"training_seconds", number_or_null(arm.training_seconds)}};
}

}  // namespace

Json comparison_json(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                     const Comparison& comparison) {
  Json json = {{"runs", Json::array()},
               {"arms", Json::array()},
               {"settings", Json::array()},
               {"varied", Json::array()},
               {"varied_as_declared", comparison.declared},
               {"unexpected", comparison.unexpected},
               {"not_comparable", comparison.unpaired},
               {"statements", Json::array()},
               {"pairs", Json::array()},
               {"confidence", kConfidence},
               {"method", pair_method(comparison)}};
  std::vector<std::size_t> arm_of_run(runs.size());
  for (std::size_t arm = 0; arm < comparison.arms.size(); ++arm) {
    Json seeds = Json::array();
    for (const std::string& seed : comparison.arms[arm].seeds) seeds.push_back(parsed_or_null(seed));
    json["arms"].push_back(
        {{"label", comparison.arms[arm].label}, {"runs", comparison.arms[arm].runs}, {"seeds", seeds}});
    for (const std::size_t run : comparison.arms[arm].runs) arm_of_run[run] = arm;
  }
  for (std::size_t run = 0; run < runs.size(); ++run)
    json["runs"].push_back(run_json(runs[run], summaries[run], arm_of_run[run]));
  for (const SettingDifference& setting : comparison.settings) {
    Json values = Json::array();
    for (const std::string& value : setting.values) values.push_back(parsed_or_null(value));
    json["settings"].push_back({{"key", setting.key},
                                {"influence", influence_name(setting.influence)},
                                {"follows", setting.follows},
                                {"values", std::move(values)}});
  }
  for (const AblationFactor& factor : comparison.factors)
    json["varied"].push_back({{"name", factor.name}, {"keys", factor.keys}});
  for (const Statement& statement : comparability(runs, summaries, comparison))
    json["statements"].push_back({{"good", statement.good}, {"text", statement.text}});
  for (const ArmPair& pair : comparison.pairs) {
    Json numbers = Json::array();
    for (const PairedNumber& number : pair.numbers) {
      Json entry = {{"name", number.name},
                    {"seeds", Json::array()},
                    {"from", number.from},
                    {"to", number.to},
                    {"mean_from", number.mean_from},
                    {"mean_to", number.mean_to},
                    {"difference", number.difference},
                    {"low", nullptr},
                    {"high", nullptr}};
      for (const std::string& seed : number.seeds) entry["seeds"].push_back(parsed_or_null(seed));
      if (number.half_width) {
        entry["low"] = number.difference - *number.half_width;
        entry["high"] = number.difference + *number.half_width;
      }
      numbers.push_back(std::move(entry));
    }
    Json seeds = Json::array();
    for (const std::string& seed : pair.seeds) seeds.push_back(parsed_or_null(seed));
    json["pairs"].push_back({{"from", pair.from},
                             {"to", pair.to},
                             {"varied", pair.factor},
                             {"seeds", seeds},
                             {"left_out", pair.left_out},
                             {"numbers", std::move(numbers)}});
  }
  return json;
}

}  // namespace sinkscope
