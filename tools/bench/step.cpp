#include "tools/bench/step.h"

#include <chrono>

#include "engine/model/random.h"
#include "engine/probes/step_probe.h"
#include "engine/train/trainer.h"
#include "tools/bench/arrays.h"

namespace sinkscope {
namespace {

Config with_probes(Config config, bool probes) {
  config.probes.enabled = probes;
  return config;
}

}  // namespace

StepBench::StepBench(Ops& ops, const Config& config, bool probes)
    : ops_(ops), config_(with_probes(config, probes)), decoder_(ops, config_.model, decoder_options(config_)),
      optimizer_(ops, decoder_.layout(), config_.train.optimizer) {
  const std::int64_t N = config_.train.micro_batch * config_.train.sequence_length;
  tokens_ = random_tokens(random_key(2, "bench"), N + 1, config_.model.vocab_size);
  losses_.resize(static_cast<std::size_t>(N));
}

void StepBench::initialize() {
  std::vector<float> values(static_cast<std::size_t>(layout().flat_size()));
  initialize_parameters(layout(), 1, values);
  ops_.copy_from_host(weights(), values.data());
  optimizer_.weights_changed(decoder_.parameters());
}

void StepBench::copy_weights(const StepBench& other) {
  ops_.copy(weights(), other.weights());
  optimizer_.weights_changed(decoder_.parameters());
}

double StepBench::step() {
  const auto begin = std::chrono::steady_clock::now();
  const StageRange range(ops_, "step", ++steps_);
  const std::int64_t B = config_.train.micro_batch, T = config_.train.sequence_length;
  const auto scale = static_cast<float>(1.0 / static_cast<double>(B * T * config_.train.gradient_accumulation));
  StepAccumulator probes;
  decoder_.zero_gradients();
  for (std::int64_t micro = 0; micro < config_.train.gradient_accumulation; ++micro) {
    decoder_.forward(B, T, tokens_.data());
    decoder_.loss(tokens_.data() + 1, losses_.data(), scale);
    decoder_.sink_scores(sink_scores_);
    decoder_.residual_norms(residual_norms_);
    decoder_.backward();
    if (config_.probes.enabled)
      summarize_step(sink_scores_, residual_norms_,
                     {.layers = config_.model.layers,
                      .sequences = B,
                      .heads = config_.model.heads,
                      .positions = config_.probes.positions,
                      .length = T},
                     config_.probes.sink_threshold, probes);
  }
  StepRecord record;
  if (config_.probes.enabled) probes.fill(record);
  optimizer_.step(decoder_.parameters(), decoder_.gradients(), 1e-4, steps_);
  ops_.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::size_t StepBench::planned_bytes(const Ops& ops, const Config& config, bool probes) {
  std::size_t bytes = 0;
  const auto add = [&](const std::vector<MemoryLine>& lines) {
    for (const MemoryLine& line : lines) bytes += line.bytes;
  };
  add(Decoder::memory_plan(config.model, decoder_options(with_probes(config, probes)), ops.compute_dtype()));
  add(AdamW::memory_plan(ParameterLayout(config.model), ops.compute_dtype()));
  return bytes;
}

}  // namespace sinkscope
