#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/model/arena.h"
#include "engine/model/random.h"
#include "engine/optim/adamw.h"
#include "engine/probes/step_probe.h"
#include "engine/train/trainer.h"
#include "tools/commands.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

struct BenchArguments {
  std::string config = "configs/quickstart.json";
  std::vector<std::string> overrides;
  int steps = 20;
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// The best of several products of n x n matrices, in FLOP/s: what this machine's GEMM can do.
double measure_gemm(Ops& ops, std::int64_t n) {
  Arena arena("gemm");
  const std::size_t a = arena.request("a", DType::f32, n * n), b = arena.request("b", DType::f32, n * n);
  const std::size_t c = arena.request("c", DType::f32, n * n);
  arena.allocate(ops);
  std::vector<float> values(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random_normal(1, i));
  ops.copy_from_host(arena.tensor(a, {n, n}), values.data());
  ops.copy_from_host(arena.tensor(b, {n, n}), values.data());
  double best = 1e30;
  for (int i = 0; i < 8; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    ops.linear_forward(
        {.out = arena.tensor(c, {n, n}), .x = arena.tensor(a, {n, n}), .weight = arena.tensor(b, {n, n}), .bias = {}});
    ops.synchronize();
    best = std::min(best, seconds_since(begin));
  }
  return 2.0 * static_cast<double>(n * n) * static_cast<double>(n) / best;
}

/// Whole training steps on random tokens, with or without the per-step probes.
class StepBench {
 public:
  StepBench(Ops& ops, const Config& config, bool probes)
      : ops_(ops), config_(with_probes(config, probes)), decoder_(ops, config_.model, decoder_options(config_)),
        optimizer_(ops, decoder_.layout(), config_.train.optimizer) {
    std::vector<float> values(static_cast<std::size_t>(decoder_.layout().flat_size()));
    initialize_parameters(decoder_.layout(), 1, values);
    ops.copy_from_host(decoder_.parameters(), values.data());
    const std::int64_t N = config_.train.micro_batch * config_.train.sequence_length;
    for (std::int64_t i = 0; i <= N; ++i)
      tokens_.push_back(static_cast<std::int32_t>(random_bits(2, static_cast<std::uint64_t>(i)) %
                                                  static_cast<std::uint64_t>(config_.model.vocab_size)));
    losses_.resize(static_cast<std::size_t>(N));
  }

  /// Seconds of one step.
  double step() {
    const auto begin = std::chrono::steady_clock::now();
    const std::int64_t B = config_.train.micro_batch, T = config_.train.sequence_length;
    const auto scale = static_cast<float>(1.0 / static_cast<double>(B * T * config_.train.gradient_accumulation));
    StepAccumulator probes;
    decoder_.zero_gradients();
    for (std::int64_t micro = 0; micro < config_.train.gradient_accumulation; ++micro) {
      decoder_.forward(B, T, tokens_.data());
      if (config_.probes.enabled)
        summarize_step(decoder_.sink_scores(), decoder_.residual_norms(),
                       {.layers = config_.model.layers,
                        .sequences = B,
                        .heads = config_.model.heads,
                        .positions = config_.probes.positions,
                        .length = T},
                       config_.probes.sink_threshold, probes);
      decoder_.loss(tokens_.data() + 1, losses_.data(), scale);
      decoder_.backward();
    }
    StepRecord record;
    if (config_.probes.enabled) probes.fill(record);
    optimizer_.step(decoder_.parameters(), decoder_.gradients(), 1e-4, ++steps_);
    ops_.synchronize();
    return seconds_since(begin);
  }

 private:
  static Config with_probes(Config config, bool probes) {
    config.probes.enabled = probes;
    return config;
  }

  Ops& ops_;
  Config config_;
  Decoder decoder_;
  AdamW optimizer_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> losses_;
  std::int64_t steps_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

long peak_kibibytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

void run(const BenchArguments& arguments) {
  Config config = load_config(arguments.config, arguments.overrides);
  // No dataset is read: a vocabulary that the config leaves to it is taken as 1024 tokens.
  resolve_with_dataset(config, std::max<std::int64_t>(config.model.vocab_size, 1024), 0, 1);
  const std::unique_ptr<Ops> ops = make_ops(config);
  std::printf("%s\n%s\n", build_description().c_str(), ops->description().c_str());
  const double gemm = measure_gemm(*ops, 2048);
  std::printf("sgemm 2048^3        %8.1f GFLOP/s\n", gemm / 1e9);

  const double tokens = static_cast<double>(config.train.micro_batch * config.train.gradient_accumulation *
                                            config.train.sequence_length);
  const double flops = tokens * training_flops_per_token(config.model, config.train.sequence_length);
  std::vector<double> alone, with, without;
  {
    StepBench bench(*ops, config, config.probes.enabled);
    bench.step();
    for (int i = 0; i < arguments.steps; ++i) alone.push_back(bench.step());
  }
  const long one_model = peak_kibibytes();
  if (config.probes.enabled) {
    // Steps with and without probes take turns, so that a machine's moods hit both alike.
    StepBench off(*ops, config, false), on(*ops, config, true);
    off.step();
    on.step();
    for (int i = 0; i < arguments.steps; ++i) {
      without.push_back(off.step());
      with.push_back(on.step());
    }
  }
  const double seconds = median(alone);
  std::printf("parameters          %8.3f M\n", static_cast<double>(ParameterLayout(config.model).parameter_count()) / 1e6);
  std::printf("training step       %8.2f ms (median of %d, %.0f tokens, %.3g FLOP)\n", seconds * 1e3, arguments.steps,
              tokens, flops);
  std::printf("tokens              %8.0f /s\n", tokens / seconds);
  std::printf("rate                %8.1f GFLOP/s = %.1f %% of sgemm\n", flops / seconds / 1e9, 100 * flops / seconds / gemm);
  if (!with.empty())
    std::printf("probes              %+8.2f %% of the step (medians, taken in turns)\n",
                100 * (median(with) / median(without) - 1));
  std::printf("peak memory         %8.2f GiB\n", static_cast<double>(one_model) / (1024.0 * 1024.0));
  std::fflush(stdout);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  const auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command = app.add_subcommand(
      "bench", "Time whole training steps of a config on random tokens, against the machine's own sgemm rate");
  command->add_option("config", arguments->config, "config file, default configs/quickstart.json")->type_name("CONFIG");
  command->add_option("--set", arguments->overrides, "override; may be repeated")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--steps", arguments->steps, "steps to time, default 20")->check(CLI::Range(1, 1000000));
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
