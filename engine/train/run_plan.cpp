#include <string>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/train/trainer.h"
#include "engine/train/training_batches.h"

namespace sinkscope {

std::filesystem::path run_directory(const Config& config) { return std::filesystem::path(config.output) / config.name; }

std::unique_ptr<Ops> make_ops(const Config& config) {
  const Backend backend = backend_of(config);
  if (backend.device == Device::cpu) return make_cpu_ops(static_cast<int>(config.threads));
  std::string why;
  if (cuda_devices(&why).empty())
    throw ConfigError("device is \"cuda\", and there is no GPU: " + why + "; expected \"cpu\" or \"auto\"");
  return make_cuda_ops({.device = 0, .compute = backend.compute});
}

std::unique_ptr<Ops> make_ops_that_fit(const Config& config, std::span<const ProbeSet> sets) {
  std::unique_ptr<Ops> ops = make_ops(config);
  if (const auto available = ops->memory_available()) expect_fit(config, sets, backend_of(config), *available);
  return ops;
}

DecoderOptions decoder_options(const Config& config) { return decoder_options(config, backend_of(config)); }

RunPlan plan_run(const Config& config) {
  RunPlan plan;
  plan.config = config;
  plan.dataset_absent = dataset_absent(config.data);
  if (plan.dataset_absent && config.model.vocab_size == 0)
    throw ConfigError(config.name + ": there is no dataset (" +
                      (config.data.path.empty() ? "no file matches data.train" : "data.path is " + config.data.path) +
                      ") to take the vocabulary from; make it, or give model.vocab_size to plan the run without");
  const Dataset dataset = plan.dataset_absent ? Dataset{} : open_dataset(config.data);
  if (plan.dataset_absent) {
    resolve_with_dataset(plan.config, 0, 0, 0);  // no size depends on which tokens are BOS and EOS
    plan.config.data = config.data;
  } else {
    plan.config = run_config(config, dataset);
  }
  const Config& c = plan.config;
  const ParameterLayout layout(c.model);
  plan.parameters = layout.parameter_count();
  plan.flops_per_token = training_flops_per_token(c.model, c.train.sequence_length);
  plan.tokens_per_step = c.train.micro_batch * c.train.gradient_accumulation * c.train.sequence_length;
  plan.train_tokens = dataset.train ? dataset.train->size() : 0;
  plan.dataset_fingerprint = dataset.fingerprint;

  const std::vector<ProbeSet> sets = run_probe_sets(c, dataset);
  plan.backend = backend_of(c);
  plan.memory = run_memory(c, sets, plan.backend);
  if (plan.backend.device == Device::cpu) return plan;
  if (!cuda_devices(&plan.no_gpu).empty()) plan.memory_available = make_ops_that_fit(c, sets)->memory_available();
  return plan;
}

}  // namespace sinkscope
