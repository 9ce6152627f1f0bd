#include <string>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/train/batch_share.h"
#include "engine/train/product_record.h"
#include "engine/train/trainer.h"
#include "engine/train/training_batches.h"

namespace sinkscope {

std::filesystem::path run_directory(const Config& config) { return std::filesystem::path(config.output) / config.name; }

namespace {

std::unique_ptr<Ops> ops_of(const Config& config, int local_rank, bool computes) {
  const Backend backend = backend_of(config);
  if (backend.device == Device::cpu) return make_cpu_ops(static_cast<int>(config.threads));
  std::string why;
  const auto visible = static_cast<int>(cuda_devices(&why).size());
  if (visible == 0)
    throw ConfigError("device is \"cuda\", and there is no GPU: " + why + "; expected \"cpu\" or \"auto\"");
  const int gpu = visible == 1 ? 0 : local_rank;  // a launcher may show each rank its own GPU alone
  if (gpu >= visible)
    throw ConfigError("local rank " + std::to_string(local_rank) +
                      " takes the GPU of that number, and this process sees " + std::to_string(visible) +
                      "; start one rank a GPU");
  std::unique_ptr<Ops> ops =
      make_cuda_ops({.device = gpu,
                     .compute = backend.compute,
                     .choose = computes ? choose_by_record(local_rank == 0) : ChooseAlgorithm()});
  if (backend.fp8 && !ops->has_fp8())
    throw ConfigError("precision is \"fp8\", and " + ops->gpu_name() +
                      " has no FP8 products; expected \"bf16\", or a GPU of compute capability 8.9 or more");
  return ops;
}

void expect_fit_of(const Ops& ops, const Config& config, std::span<const ProbeSet> sets, int ranks, bool one_host) {
  if (const auto available = ops.memory_available())
    expect_fit(config, sets, backend_of(config, ranks, one_host), *available);
}

}  // namespace

std::unique_ptr<Ops> make_ops(const Config& config, int local_rank) { return ops_of(config, local_rank, true); }

std::unique_ptr<Ops> make_ops_that_fit(const Config& config, std::span<const ProbeSet> sets, int ranks, int local_rank,
                                       bool one_host) {
  std::unique_ptr<Ops> ops = make_ops(config, local_rank);
  expect_fit_of(*ops, config, sets, ranks, one_host);
  return ops;
}

std::string device_description(const Config& config, const Ops& ops) {
  std::string text = ops.description();
  if (config.precision == Precision::fp8) text.insert(text.find(','), " with FP8 products");
  return text;
}

DecoderOptions decoder_options(const Config& config, int ranks) {
  return decoder_options(config_of_rank(config, ranks), backend_of(config, ranks));
}

RunPlan plan_of(const Config& config, const Dataset& dataset, std::span<const ProbeSet> sets, int ranks,
                bool one_host) {
  RunPlan plan;
  plan.config = config;
  plan.parameters = ParameterLayout(config.model).parameter_count();
  plan.flops_per_token = training_flops_per_token(config.model, config.train.sequence_length);
  plan.tokens_per_step = config.train.micro_batch * config.train.gradient_accumulation * config.train.sequence_length;
  plan.train_tokens = dataset.train ? dataset.train->size() : 0;
  plan.dataset_fingerprint = dataset.fingerprint;
  plan.backend = backend_of(config, ranks, one_host);
  plan.memory = run_memory(config_of_rank(config, ranks), sets, plan.backend);
  return plan;
}

RunPlan plan_run(const Config& config, int ranks, bool one_host) {
  const bool absent = dataset_absent(config.data);
  if (absent && config.model.vocab_size == 0)
    throw ConfigError(config.name + ": there is no dataset (" +
                      (config.data.path.empty() ? "no file matches data.train" : "data.path is " + config.data.path) +
                      ") to take the vocabulary from; make it, or give model.vocab_size to plan the run without");
  const Dataset dataset = absent ? Dataset{} : open_dataset(config.data);
  Config completed = config;
  if (absent) {
    resolve_with_dataset(completed, 0, 0, 0);  // no size depends on which tokens are BOS and EOS
    completed.data = config.data;
  } else {
    completed = run_config(config, dataset);
  }
  const std::vector<ProbeSet> sets = run_probe_sets(completed, dataset);
  RunPlan plan = plan_of(completed, dataset, sets, ranks, one_host);
  plan.dataset_absent = absent;
  if (plan.backend.device == Device::cpu) {
    plan.memory_available = ops_of(completed, 0, false)->memory_available();
    return plan;
  }
  if (!cuda_devices(&plan.no_gpu).empty()) {
    const std::unique_ptr<Ops> ops = ops_of(completed, 0, false);  // a plan leaves nothing on the disk
    expect_fit_of(*ops, completed, sets, ranks, one_host);
    plan.memory_available = ops->memory_available();
  }
  return plan;
}

}  // namespace sinkscope
