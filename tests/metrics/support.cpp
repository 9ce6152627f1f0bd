#include "support.h"

#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace sinkscope::test {
namespace {

std::vector<double> numbers(std::size_t count, double first, double factor) {
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>(static_cast<float>(first * std::pow(factor, static_cast<double>(i))));
  }
  return values;
}

}  // namespace

StepRecord example_step(std::int64_t step) {
  const double t = static_cast<double>(step);
  StepRecord record;
  record.step = step;
  record.tokens = step * 1024;
  record.loss = 10.0 / 3.0 + 1.0 / t;
  record.loss_common = 10.0 / 3.0 - 1.0 / (7.0 * t);
  record.validation_loss = std::sqrt(11.0) + t * 1e-16;
  record.validation_loss_common = std::sqrt(13.0);
  record.learning_rate = 3e-4 / 7.0;
  record.gradient_norm = 1.0 / 49.0;
  record.step_seconds = 0.1 + 1e-3 * t;
  record.tokens_per_second = 1024.0 / record.step_seconds;
  record.mfu = 0.4 + 1.0 / (3.0 * t + 7.0);
  record.sink_score = numbers(4, 0.31 / t, 0.7);
  record.sink_rate = numbers(4, 0.17, 0.5);
  record.sink_score_layer = numbers(2, 0.2, 1.1);
  record.residual_norm = numbers(3 * 4, 5.0, 3.3);
  record.residual_norm_rest = numbers(3, 4.0, 1.1);
  record.norm_ratio = numbers(3, 1.2, 2.1);
  record.gradient_norm_attention = numbers(2, 0.4, 1.3);
  record.gradient_norm_mlp = numbers(2, 0.6, 1.4);
  record.entropy = numbers(2 * 3, 1.4, 0.9);
  record.key_mass = numbers(2 * 16, 2.9, 0.92);
  return record;
}

ProbeRecord example_probe(std::int64_t step, const std::string& set) {
  constexpr std::size_t kLayers = 2, kHeads = 3, kKeyHeads = 1, kPositions = 4, kLength = 16;
  ProbeRecord record;
  record.step = step;
  record.tokens = step * 1024;
  record.set = set;
  record.length = kLength;
  record.sequences = 5;
  record.with_bos = contains(set, "bos");
  record.loss = 7.0 / 3.0;
  record.layers = kLayers;
  record.heads = kHeads;
  record.kv_heads = kKeyHeads;
  record.positions = kPositions;
  record.sink_score = numbers(kLayers * kHeads * kPositions, 0.9, 0.87);
  record.sink_rate = numbers(kPositions, 0.5, 0.3);
  record.sink_rate_layer = numbers(kLayers * kPositions, 0.51, 0.31);
  record.sink_rate_from = numbers(kPositions, 0.52, 0.32);
  record.sink_excess = numbers(kPositions, 2.5, 0.4);
  record.dominant_position = 1;
  record.dominant_position_layer = {0, 1};
  record.first_token_mass = numbers(kLayers * kHeads, 0.33, 0.9);
  record.first_token_argmax = numbers(kLayers * kHeads, 0.34, 0.9);
  record.entropy = numbers(kLayers * kHeads, 1.5, 0.95);
  record.key_mass = numbers(kLayers * kLength, 3.0, 0.91);
  record.sink_logit_mass = numbers(kLayers, 0.41, 0.8);
  record.residual_norm = numbers((kLayers + 1) * kPositions, 2.0, 1.7);
  record.residual_norm_rest = numbers(kLayers + 1, 3.0, 1.2);
  record.norm_ratio = numbers(kLayers + 1, 1.1, 1.9);
  record.attention_output_norm = numbers(kLayers * kPositions, 0.7, 1.05);
  record.attention_output_norm_rest = numbers(kLayers, 0.71, 1.05);
  record.mlp_output_norm = numbers(kLayers * kPositions, 0.8, 1.05);
  record.mlp_output_norm_rest = numbers(kLayers, 0.81, 1.05);
  record.mlp_amplification = numbers(kLayers, 1.3, 1.5);
  record.key_norm_first = numbers(kLayers * kKeyHeads, 1.6, 1.1);
  record.key_norm_rest = numbers(kLayers * kKeyHeads, 1.7, 1.1);
  record.value_norm_first = numbers(kLayers * kKeyHeads, 0.2, 1.1);
  record.value_norm_rest = numbers(kLayers * kKeyHeads, 1.9, 1.1);
  record.cosine_first = numbers(kLayers * kHeads, 0.61, 0.9);
  record.cosine_rest = numbers(kLayers * kHeads, -0.12, 0.9);
  record.massive_ratio = numbers(kLayers, 120.0, 2.0);
  record.massive_position = {0, 3};
  record.massive_channel = {17, 4};
  record.direction_stability = numbers(kLayers, 0.98, 0.99);
  record.direction_stability_middle = numbers(kLayers, 0.11, 0.99);
  record.step_up_layer = 1;
  record.concentration = 0.75;
  record.phase = "transition";
  record.excess_slope = 0.125;
  record.dominant_share = 0.9;
  record.validation_loss_slope = -0.03125;
  return record;
}

}  // namespace sinkscope::test
