#include "tools/bench/step.h"

#include <algorithm>
#include <chrono>

#include "engine/data/dataset.h"
#include "engine/model/random.h"
#include "engine/probes/probe_sets.h"
#include "engine/probes/step_probe.h"
#include "engine/train/trainer.h"
#include "tools/bench/arrays.h"

namespace sinkscope {
namespace {

Config with_probes(Config config, bool probes) {
  config.probes.enabled = probes;
  return config;
}

/// Random tokens as the held-out text of the probe sets.
class RandomText final : public TokenStream {
 public:
  RandomText(std::int64_t size, std::int64_t vocabulary)
      : tokens_(random_tokens(random_key(3, "bench"), size, vocabulary)) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    std::copy_n(tokens_.begin() + begin, out.size(), out.begin());
  }
  const std::vector<ShardInfo>& shards() const override { return shards_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<ShardInfo> shards_;
};

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

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

/// As the loop of a run does it, which leaves the device its update and goes on.
double StepBench::step(bool measured) {
  const auto begin = std::chrono::steady_clock::now();
  const StageRange range(ops_, "step", ++steps_);
  const std::int64_t B = config_.train.micro_batch, T = config_.train.sequence_length;
  const auto scale = static_cast<float>(1.0 / static_cast<double>(B * T * config_.train.gradient_accumulation));
  decoder_.replace_gradients();
  decoder_.zero_step_sums();
  for (std::int64_t micro = 0; micro < config_.train.gradient_accumulation; ++micro) {
    decoder_.forward(B, T, tokens_.data());
    const std::function<void()> wait_for_losses = decoder_.loss_later(tokens_.data() + 1, losses_.data(), scale);
    decoder_.add_step_sums(config_.probes.sink_threshold);
    if (measured)
      decoder_.backward_with_attention_sums();
    else
      decoder_.backward();
    wait_for_losses();
  }
  const std::function<StepSums()> wait_for_sums = decoder_.step_sums_later();
  optimizer_.step(decoder_.parameters(), decoder_.gradients(), 1e-4, steps_);
  StepRecord record;
  if (config_.probes.enabled || decoder_.options().fp8) {
    const StepSums sums = wait_for_sums();
    if (config_.probes.enabled) fill_step(sums, record);
    if (decoder_.options().fp8) {
      fp8_.add(sums.amax);
      decoder_.set_fp8_scales(fp8_.scales());
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double StepBench::probe_pass() {
  if (!probes_) {
    const RandomText text((config_.probes.sequences + 1) * config_.train.sequence_length, config_.model.vocab_size);
    probes_.emplace(ops_, decoder_, config_.probes,
                    build_probe_sets(text, probe_set_options(config_, config_.model.vocab_size)));
  }
  const auto begin = std::chrono::steady_clock::now();
  const StageRange range(ops_, "probes");
  probes_->run(steps_, 0);
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
