#include <string>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/optim/adamw.h"
#include "engine/probes/probe_pass.h"
#include "engine/probes/probe_sets.h"
#include "engine/train/trainer.h"

namespace sinkscope {

std::filesystem::path run_directory(const Config& config) { return std::filesystem::path(config.output) / config.name; }

std::unique_ptr<Ops> make_ops(const Config& config) {
  std::string why;
  const bool found = config.device != Device::cpu && !cuda_devices(&why).empty();
  if (config.device == Device::cuda && !found)
    throw ConfigError("device is \"cuda\", and there is no GPU: " + why + "; expected \"cpu\" or \"auto\"");
  if (found)
    return make_cuda_ops({.device = 0, .compute = config.precision == Precision::fp32 ? DType::f32 : DType::bf16});
  if (config.precision == Precision::bf16)
    throw ConfigError("precision is \"bf16\", and the CPU computes in fp32; expected \"fp32\" or \"auto\"");
  return make_cpu_ops(static_cast<int>(config.threads));
}

DecoderOptions decoder_options(const Config& config) {
  return {.max_sequences = config.train.micro_batch,
          .max_length = config.train.sequence_length,
          .sink_positions = config.probes.enabled ? config.probes.positions : 0,
          .residual_norms = config.probes.enabled,
          .training = true};
}

RunPlan plan_run(const Config& config) {
  RunPlan plan;
  plan.config = config;
  plan.dataset_absent = config.model.vocab_size > 0 && dataset_absent(config.data);
  const Dataset dataset = plan.dataset_absent ? Dataset{} : open_dataset(config.data);
  if (plan.dataset_absent) {
    resolve_with_dataset(plan.config, 0, 0, 0);  // no size depends on which tokens are BOS and EOS
    plan.config.data = config.data;
  } else {
    resolve_with_dataset(plan.config, dataset.vocab_size, dataset.bos_id, dataset.eos_id);
  }
  const Config& c = plan.config;
  const ParameterLayout layout(c.model);
  plan.parameters = layout.parameter_count();
  plan.flops_per_token = training_flops_per_token(c.model, c.train.sequence_length);
  plan.tokens_per_step = c.train.micro_batch * c.train.gradient_accumulation * c.train.sequence_length;
  plan.train_tokens = dataset.train ? dataset.train->size() : 0;
  plan.dataset_fingerprint = dataset.fingerprint;

  const auto append = [&](const std::vector<MemoryLine>& lines) {
    plan.memory.insert(plan.memory.end(), lines.begin(), lines.end());
  };
  const std::unique_ptr<Ops> ops = make_ops(c);
  append(Decoder::memory_plan(c.model, decoder_options(c), ops->compute_dtype()));
  append(AdamW::memory_plan(layout, ops->compute_dtype()));
  if (c.probes.enabled && c.probes.every > 0 && dataset.validation) {
    const std::vector<ProbeSet> sets = build_probe_sets(*dataset.validation, probe_set_options(c, dataset.vocab_size));
    append(ProbePass::memory_plan(c.model, decoder_options(c), c.probes, sets, ops->compute_dtype()));
  }
  return plan;
}

}  // namespace sinkscope
