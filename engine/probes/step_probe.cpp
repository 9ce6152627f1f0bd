#include "engine/probes/step_probe.h"

#include <cmath>

#include "engine/probes/sink_scores.h"

namespace sinkscope {
namespace {

void fill_attention(const StepSums& sums, StepRecord& record) {
  const auto sequences = static_cast<double>(sums.attention_sequences), heads = static_cast<double>(sums.heads);
  record.entropy = sums.entropy;
  record.key_mass = sums.key_mass;
  for (double& value : record.entropy) value = as_logged(value / sequences);
  for (double& value : record.key_mass) value = as_logged(value / (sequences * heads));
}

}  // namespace

void fill_step(const StepSums& sums, StepRecord& record) {
  fill_attention(sums, record);
  if (sums.sequences == 0) return;
  if (sums.positions > 0) {
    SinkTally sinks(sums.layers, sums.heads, sums.positions);
    sinks.add_sums(sums.sequences, sums.sink_scores, sums.sinks_above);
    record.sink_score = sinks.scores();
    record.sink_rate = sinks.rates();
    const std::vector<double> by_layer = sinks.layer_scores();
    record.sink_score_layer.clear();
    for (std::size_t i = 0; i < by_layer.size(); i += record.sink_score.size())
      record.sink_score_layer.push_back(by_layer[i]);
  }
  record.residual_norm = sums.norm_first;
  record.residual_norm_rest = sums.norm_rest;
  record.norm_ratio = sums.norm_ratio;
  for (std::vector<double>* field : {&record.residual_norm, &record.residual_norm_rest, &record.norm_ratio})
    for (double& value : *field) value /= static_cast<double>(sums.sequences);
}

void fill_gradient_norms(std::int64_t layers, std::span<const ParameterSpec> parameters,
                         std::span<const double> squared_norms, StepRecord& record) {
  record.gradient_norm_attention.assign(static_cast<std::size_t>(layers), 0);
  record.gradient_norm_mlp.assign(static_cast<std::size_t>(layers), 0);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].layer < 0) continue;
    const auto layer = static_cast<std::size_t>(parameters[i].layer);
    if (parameters[i].group == ParameterGroup::attention) record.gradient_norm_attention[layer] += squared_norms[i];
    if (parameters[i].group == ParameterGroup::mlp) record.gradient_norm_mlp[layer] += squared_norms[i];
  }
  for (double& norm : record.gradient_norm_attention) norm = std::sqrt(norm);
  for (double& norm : record.gradient_norm_mlp) norm = std::sqrt(norm);
}

}  // namespace sinkscope
