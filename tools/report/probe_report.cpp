#include "tools/report/probe_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/config/load.h"
#include "tools/report/format.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

std::size_t at(std::int64_t value) { return static_cast<std::size_t>(value); }

/// As format_number, with "-" for what is not defined.
std::string number(double value) { return std::isnan(value) ? "-" : format_number(value); }

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return number(value);
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  const std::string result = text.data();
  // No -0.
  return result.find_first_of("123456789") == std::string::npos && result.front() == '-' ? result.substr(1) : result;
}

std::string interval(const Estimate& estimate, int digits, double factor = 1) {
  if (std::isnan(estimate.value)) return "-";
  return fixed(factor * estimate.value, digits) + " [" + fixed(factor * estimate.low, digits) + ", " +
         fixed(factor * estimate.high, digits) + "]";
}

double mean_of(const std::vector<double>& values, std::int64_t begin, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = begin; i < begin + count; ++i) sum += values[at(i)];
  return sum / static_cast<double>(count);
}

std::string optional_layer(const std::optional<std::int64_t>& layer) { return layer ? std::to_string(*layer) : "-"; }

std::string test_name(const CausalTest& test, std::int64_t position) {
  const std::string layer = optional_layer(test.layer), p = "P" + std::to_string(position);
  if (test.kind == "none") return "no edit";
  if (test.kind == "knock_out_mlp") return "no MLP at P0, layer " + layer;
  if (test.kind == "knock_out_attention") return "no attention at P0, layer " + layer;
  if (test.kind == "transplant") return "P0's state at " + p + ", layer " + layer;
  if (test.kind == "transplant_random_direction") return "random direction at " + p + ", layer " + layer;
  if (test.kind == "transplant_small") return "P0's direction, small, at " + p + ", layer " + layer;
  if (test.kind == "isolate") return p + " sees itself alone, layers below " + layer;
  return "rotary index of P0 is " + layer;
}

}  // namespace

ProbeTable probe_set_table(const ProbeReport& report) {
  ProbeTable table = {{"probe set", "T", "sequences", "loss", "excess P0", "excess P1", "rate P0", "rate P0, late",
                       "leads", "R", "at", "l*", "C2", "v0/v"}};
  for (const ProbeRecord& set : report.sets) {
    const NormRatioPeak peak = norm_ratio_peak(set.norm_ratio);
    const std::vector<double> values = value_ratios(set);
    table.push_back({set.set, std::to_string(set.length), std::to_string(set.sequences), fixed(set.loss, 3),
                     fixed(set.sink_excess.front(), 2), set.sink_excess.size() > 1 ? fixed(set.sink_excess[1], 2) : "-",
                     fixed(set.sink_rate.front(), 3),
                     set.sink_rate_from.empty() ? "-" : fixed(set.sink_rate_from.front(), 3),
                     set.dominant_position < 0 ? "-" : "P" + std::to_string(set.dominant_position),
                     fixed(peak.ratio, 2), std::to_string(peak.layer), optional_layer(set.step_up_layer),
                     set.concentration ? fixed(*set.concentration, 2) : "-",
                     fixed(*std::min_element(values.begin(), values.end()), 2)});
  }
  return table;
}

ProbeTable probe_layer_table(const ProbeReport& report) {
  const ProbeRecord& set = report.sets.at(report.shown);
  const std::int64_t H = set.heads, K = set.positions;
  const std::vector<double> values = value_ratios(set);
  ProbeTable table = {{"layer", "score P0", "top head", "rate P0", "entropy", "R", "|h| P0", "rest", "|attention| P0",
                       "rest", "|MLP| P0", "rest", "G", "k0/k", "v0/v", "max/median |h|", "at", "stable"}};
  const bool sink_logits = !set.sink_logit_mass.empty();
  if (sink_logits) table.front().push_back("on logit");
  for (std::int64_t l = 0; l < set.layers; ++l) {
    std::vector<double> scores;
    for (std::int64_t h = 0; h < H; ++h) scores.push_back(set.sink_score[at((l * H + h) * K)]);
    double keys = 0;
    for (std::int64_t g = 0; g < set.kv_heads; ++g)
      keys += set.key_norm_first[at(l * set.kv_heads + g)] / set.key_norm_rest[at(l * set.kv_heads + g)];
    table.push_back(
        {std::to_string(l), fixed(mean_of(scores, 0, H), 3), fixed(*std::max_element(scores.begin(), scores.end()), 3),
         fixed(set.sink_rate_layer[at(l * K)], 3), fixed(mean_of(set.entropy, l * H, H), 2),
         fixed(set.norm_ratio[at(l + 1)], 2), number(set.residual_norm[at((l + 1) * K)]),
         number(set.residual_norm_rest[at(l + 1)]), number(set.attention_output_norm[at(l * K)]),
         number(set.attention_output_norm_rest[at(l)]), number(set.mlp_output_norm[at(l * K)]),
         number(set.mlp_output_norm_rest[at(l)]), fixed(set.mlp_amplification[at(l)], 2),
         fixed(keys / static_cast<double>(set.kv_heads), 2), fixed(values[at(l)], 2), number(set.massive_ratio[at(l)]),
         "P" + std::to_string(set.massive_position[at(l)]) + " C" + std::to_string(set.massive_channel[at(l)]),
         fixed(set.direction_stability[at(l)], 2)});
    if (sink_logits) table.back().push_back(fixed(set.sink_logit_mass[at(l)], 3));
  }
  return table;
}

ProbeTable causal_table(const CausalRecord& record) {
  const std::string p = "P" + std::to_string(record.position);
  ProbeTable table = {
      {"edit", "excess P0", "rate P0", "removed %", "excess " + p, "moved %", "norm " + p, "loss change"}};
  for (const CausalTest& test : record.tests) {
    const bool none = test.kind == "none";
    const bool compared = !none && record.sink_formed;  // shares of a sink that is not there say nothing
    table.push_back({test_name(test, record.position), interval(test.first.excess, 2), interval(test.first.rate, 3),
                     compared ? interval(test.removed, 0, 100) : "-", interval(test.other.excess, 2),
                     compared ? interval(test.moved, 0, 100) : "-", fixed(test.other.ratio.value, 2),
                     none ? "-" : interval(test.loss_change, 4)});
  }
  return table;
}

std::string probe_text(const ProbeReport& report) {
  std::string text = report.source + (report.step ? ", step " + std::to_string(*report.step) : "") + ": " +
                     format_count(report.parameters) + " parameters, " + std::to_string(report.model.layers) +
                     " layers of " + std::to_string(report.model.heads) + " heads, on " + report.device + "\n\n" +
                     text_table(probe_set_table(report));
  const ProbeRecord& set = report.sets.at(report.shown);
  text +=
      "\nrates: heads with a sink score above " + fixed(report.sink_threshold, 2) + "; late: layers from " +
      std::to_string(report.from_layer) +
      "; R: norm of position 0 over the others', largest of the layers; v0/v: the least value norm of position 0 over "
      "the others'; leads: the position of the largest mean score; at: its layer; l*: the layer where R steps up most; "
      "C2: ln R reached in the first two layers over its peak\n\nby layer, " +
      set.set +
      " (entropy in nats; G: how much more the MLP lifts position 0 than the others; k0/k: key norms; at: place of the "
      "largest |h|; stable: mean cosine of position 0 between sequences" +
      (set.sink_logit_mass.empty() ? "" : "; on logit: attention on the sink logit, mean over queries") + "):\n" +
      text_table(probe_layer_table(report));
  if (!report.causal) return text;
  text += "\ncausal tests on " + report.causal->set + " (T = " + std::to_string(report.causal->length) + ", " +
          std::to_string(report.causal->sequences) + " sequences; " + fixed(100 * report.causal->confidence, 0) +
          " % bootstrap intervals over sequences):\n" + text_table(causal_table(*report.causal)) + "\n";
  for (const std::string& statement : causal_reading(*report.causal)) text += statement + "\n";
  return text;
}

nlohmann::ordered_json to_json(const ProbeReport& report) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["source"] = report.source;
  json["step"] = report.step ? Json(*report.step) : Json(nullptr);
  json["build"] = report.build;
  json["device"] = report.device;
  json["text"] = report.text;
  json["seed"] = report.seed;
  json["model"] = to_json(report.model);
  json["parameters"] = report.parameters;
  json["sink_threshold"] = report.sink_threshold;
  json["from_layer"] = report.from_layer;
  json["sets"] = Json::array();
  for (const ProbeRecord& set : report.sets) json["sets"].push_back(to_json(set));
  json["causal"] = report.causal ? to_json(*report.causal) : Json(nullptr);
  if (report.causal) json["reading"] = causal_reading(*report.causal);
  return json;
}

}  // namespace sinkscope
