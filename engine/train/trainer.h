// A training run: from a resolved config to a run directory.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/sinks.h"
#include "engine/model/decoder.h"
#include "engine/train/run_memory.h"
#include "kernels/ops.h"

namespace sinkscope {

struct RunPlan;
class World;

struct TrainOptions {
  bool resume = false;                       // continue the run directory instead of beginning one
  std::string build;                         // version and compiler, for config.json
  std::unique_ptr<MetricSink> console;       // optional; gets every step
  std::function<void(const RunPlan&)> announce;  // optional; called before the first step, once nothing refuses the run
  /// Optional; gets an error that ends the run on this rank alone or first of all, while the others still wait for it;
  /// train() then throws ToldElsewhere.
  std::function<void(const std::string&)> tell;
  /// Optional; when it turns true on any rank the run saves a checkpoint after the step.
  const std::atomic<bool>* stop = nullptr;
  World* world = nullptr;                    // the ranks that train together; null: this process alone
};

struct TrainResult {
  std::filesystem::path run_directory;
  std::int64_t steps = 0;      // done in total
  std::int64_t steps_before = 0;  // of them before this call; all of them: the run was finished already
  bool finished = false;       // false: stopped by `stop`
  std::optional<double> validation_loss;  // after the last step; absent without validation data
};

/// The run directory of a config: output/name.
std::filesystem::path run_directory(const Config& config);

/// Trains `config` (as loaded; the dataset completes it). Without `resume` the run directory must not
/// hold a run. With it the newest checkpoint that verifies is continued, bit for bit as if there had
/// been no stop on the same number of threads; a run that has not saved one yet begins anew, and one
/// whose checkpoints are all damaged, or gone though its logs tell of them, is refused. One process at
/// a time may train in a directory. Throws ConfigError, std::runtime_error naming file, key or tensor. A
/// loss (of training or validation), a gradient, or a model due to be saved that is not finite stops the
/// run with the step and the first tensor that is not finite named; checkpoints written before stay.
/// With several ranks every one of them calls it with the same config. Each computes its share of every step
/// (batch_share.h); rank 0 alone reads and writes the run directory, probes, samples and tells. What is trained and
/// logged is that of one rank but for rounding, and a checkpoint is continued on any number of ranks. Where a run
/// ends with an error on all ranks those but rank 0 throw ToldElsewhere.
TrainResult train(const Config& config, TrainOptions options);

/// Opens the dataset and completes the config with it; what a dry run prints. Where the dataset is absent
/// and model.vocab_size is given, the plan is made without: ids of BOS and EOS stay as the config has them,
/// and the memory of probe passes is left out.
struct RunPlan {
  Config config;
  bool dataset_absent = false;
  std::int64_t parameters = 0;
  double flops_per_token = 0;        // of one training step
  std::int64_t tokens_per_step = 0;
  std::int64_t train_tokens = 0;     // of the dataset; 0 when it is absent
  std::string dataset_fingerprint;   // empty when it is absent
  Backend backend;                   // of rank 0, as memory is
  std::string device;                // Ops::description() of a run; empty in a plan
  std::vector<MemoryLine> memory;    // decoder, optimizer, probes, backend
  std::optional<std::size_t> memory_available;  // bytes of the device that are free; absent without it
  /// Why the GPU that is planned for is not there; empty when it is, or is not planned.
  std::string no_gpu;
};
/// Throws what train would throw about config and dataset, on a machine with a GPU also when the run does not fit
/// into its free memory. (One for a CPU may be meant for another machine.)
RunPlan plan_run(const Config& config, int ranks = 1, bool one_host = true);

/// The plan of a config that `dataset` completes; without memory_available and no_gpu.
RunPlan plan_of(const Config& config, const Dataset& dataset, std::span<const ProbeSet> sets, int ranks = 1,
                bool one_host = true);

/// The Ops of a config's device, a GPU being the one with the number of `local_rank`, or the only one that is visible.
/// Throws ConfigError naming `device` when this build or machine lacks it.
std::unique_ptr<Ops> make_ops(const Config& config, int local_rank = 0);

/// The same for one of `ranks` of a run, refused before it takes memory when it would not have enough. Throws
/// ConfigError.
std::unique_ptr<Ops> make_ops_that_fit(const Config& config, std::span<const ProbeSet> sets, int ranks = 1,
                                       int local_rank = 0, bool one_host = true);

/// What a run of the config computes on and in: Ops::description(), "bf16 with FP8 products, NVIDIA H200, ..." with
/// those.
std::string device_description(const Config& config, const Ops& ops);

/// The decoder options that one of `ranks` of a run of this (completed) config uses on its device.
DecoderOptions decoder_options(const Config& config, int ranks = 1);

}  // namespace sinkscope
