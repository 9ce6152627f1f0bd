#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/comm/world.h"
#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/files/replacement.h"
#include "engine/metrics/gpu_peak.h"
#include "engine/metrics/json_lines.h"
#include "engine/train/gradient_sums.h"
#include "engine/train/run_files.h"
#include "engine/train/trainer.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/communication.h"
#include "tools/bench/kernels.h"
#include "tools/bench/step.h"
#include "tools/bench/step_stages.h"
#include "tools/arguments.h"
#include "tools/commands.h"
#include "tools/local_ranks.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kProbePasses = 9;
constexpr int kWarmUpSteps = 5;  // products are chosen, FP8 scales set, memory taken, passes recorded and launched

constexpr const char* kFlopsCounted =
    "6 N_matmul + 6 L H D T a token: matrices that multiply activations, the head once, causal attention at half";

struct BenchArguments {
  std::string config = "configs/quickstart.json";
  std::vector<std::string> overrides;
  int steps = 20;
  bool kernels = false;
  bool stages = false;
  bool communication = false;
  int repeats = 15;
  std::string json;
};

/// Whole steps; times in seconds, medians.
struct StepResult {
  double seconds = 0, fastest = 0;
  int steps = 0;
  double tokens = 0, flops = 0;            // of a step
  std::size_t peak_memory = 0;             // bytes, of one model
  std::optional<double> probes;            // what the per-step probes add to a step, as a share of it
  std::optional<double> probe_pass, fastest_probe_pass;  // seconds of a pass over the probe sets
  std::optional<double> measured;          // seconds that the step before a pass takes longer
  bool two_models_fit = true;
};

StepResult time_steps(Ops& ops, const Config& config, int steps) {
  StepResult result;
  result.steps = steps;
  result.tokens = static_cast<double>(config.train.micro_batch * config.train.gradient_accumulation *
                                      config.train.sequence_length);
  result.flops = result.tokens * training_flops_per_token(config.model, config.train.sequence_length);
  StepBench bench(ops, config, config.probes.enabled);
  bench.initialize();
  for (int i = 0; i < kWarmUpSteps; ++i) bench.step();
  std::vector<double> alone, with, without;
  for (int i = 0; i < steps; ++i) alone.push_back(bench.step());
  result.seconds = median(alone);
  result.fastest = *std::min_element(alone.begin(), alone.end());
  result.peak_memory = ops.peak_memory();
  if (!config.probes.enabled) return result;
  if (config.probes.every > 0) {
    bench.probe_pass();
    std::vector<double> passes;
    for (int i = 0; i < kProbePasses; ++i) passes.push_back(bench.probe_pass());
    result.probe_pass = median(passes);
    result.fastest_probe_pass = *std::min_element(passes.begin(), passes.end());
    std::vector<double> measured, plain;
    for (int i = 0; i < kProbePasses; ++i) {
      measured.push_back(bench.step(true));
      plain.push_back(bench.step());
    }
    result.measured = median(measured) - median(plain);
  }
  result.two_models_fit = static_cast<double>(result.peak_memory + StepBench::planned_bytes(ops, config, false)) <
                          0.95 * static_cast<double>(ops.total_memory());
  if (!result.two_models_fit) return result;
  // Steps with and without probes take turns, so that a machine's moods hit both alike.
  StepBench off(ops, config, false);
  off.copy_weights(bench);
  for (int i = 0; i < kWarmUpSteps; ++i) off.step();
  for (int i = 0; i < steps; ++i) {
    without.push_back(off.step());
    with.push_back(bench.step());
  }
  result.probes = median(with) / median(without) - 1;
  return result;
}

struct KernelResult {
  KernelCase kernel;
  double ms = 0;
  double floor = 0;  // ms
};

std::vector<KernelResult> time_kernels(Ops& ops, const Config& config, const Ceilings& ceilings, int repeats) {
  RandomSource source(ops);
  std::vector<KernelResult> results;
  const std::vector<KernelCase> kernels = kernel_cases(ops, config);
  for (std::size_t begin = 0, end = 0; begin < kernels.size(); begin = end) {
    for (end = begin + 1; end < kernels.size() && kernels[end].compared;) ++end;
    const std::span<const KernelCase> compared(kernels.data() + begin, end - begin);
    const std::vector<double> times = time_in_turns(ops, source, compared, repeats);
    for (std::size_t i = 0; i < compared.size(); ++i)
      results.push_back({.kernel = compared[i],
                         .ms = times[i],
                         .floor = floor_ms(ceilings, compared[i].bytes, compared[i].flops / compared[i].product_rate)});
  }
  return results;
}

/// Whether the matrix rate, not the copy rate, bounds the operation.
bool bound_by_matrix(const Ceilings& ceilings, const KernelCase& kernel) {
  return kernel.flops / kernel.product_rate / ceilings.matrix_rate > kernel.bytes / ceilings.copy_rate;
}

/// A pass over the steps from one to the next.
double pass_share(double pass, double step, const Config& config) {
  return pass / (step * static_cast<double>(config.probes.every));
}

void print_step(const StepResult& step, const Config& config, const Ops& ops, const Ceilings& ceilings,
                std::optional<double> datasheet) {
  const double rate = step.flops / step.seconds;
  const double parameters = static_cast<double>(ParameterLayout(config.model).parameter_count());
  std::printf("parameters          %10.3f M\n", parameters / 1e6);
  std::printf("training step       %10.2f ms (median of %d, fastest %.2f; %.0f tokens, %.3g FLOP)\n",
              step.seconds * 1e3, step.steps, step.fastest * 1e3, step.tokens, step.flops);
  std::printf("tokens              %10.0f /s\n", step.tokens / step.seconds);
  std::printf("rate                %10.3f TFLOP/s = %.1f %% of the measured matrix rate\n", rate / 1e12,
              100 * rate / ceilings.matrix_rate);
  if (datasheet)
    std::printf("MFU                 %10.1f %% of the datasheet's %.1f TFLOP/s, %.1f %% of the measured %.1f\n",
                100 * rate / *datasheet, *datasheet / 1e12, 100 * rate / ceilings.matrix_rate,
                ceilings.matrix_rate / 1e12);
  else if (!ops.gpu_name().empty())
    std::printf("MFU                 not given: no datasheet peak is known for \"%s\" in %s\n", ops.gpu_name().c_str(),
                name_of(ops.compute_dtype()));
  std::printf("FLOPs counted       %s\n", kFlopsCounted);
  if (step.probes)
    std::printf("probes              %+10.2f %% of the step (medians, taken in turns)\n", 100 * *step.probes);
  else if (!step.two_models_fit)
    std::printf("probes              not compared: a model with and one without do not fit at once\n");
  if (step.probe_pass)
    std::printf("probe pass          %10.2f ms (median of %d, fastest %.2f), every %lld steps: %.2f %% of their time "
                "(fastest %.2f %%)\n",
                *step.probe_pass * 1e3, kProbePasses, *step.fastest_probe_pass * 1e3,
                static_cast<long long>(config.probes.every), 100 * pass_share(*step.probe_pass, step.seconds, config),
                100 * pass_share(*step.fastest_probe_pass, step.fastest, config));
  if (step.measured)
    std::printf(
        "step before it      %+10.2f ms for attention entropy and key mass of its batch (medians of %d, taken in "
        "turns): %.2f %%\n",
        *step.measured * 1e3, kProbePasses, 100 * pass_share(*step.measured, step.seconds, config));
  std::printf("peak memory         %10.2f GiB\n", static_cast<double>(step.peak_memory) / (1024.0 * 1024.0 * 1024.0));
}

void print_kernels(const std::vector<KernelResult>& results, const Ceilings& ceilings) {
  std::printf("\n%-42s %7s %9s %9s %9s %8s %9s %8s %-6s\n", "operation", "calls", "ms", "floor ms", "MB", "GFLOP",
              "GB/s", "TFLOP/s", "of the");
  double total = 0, floor = 0;
  for (const KernelResult& r : results) {
    const KernelCase& k = r.kernel;
    std::printf("%-42s %7.5g %9.4f %9.4f %9.4g ", k.name.c_str(), k.calls, r.ms, r.floor, k.bytes / 1e6);
    if (k.flops > 0)
      std::printf("%8.4g %9.1f %8.3f ", k.flops / 1e9, k.bytes / r.ms / 1e6, k.flops / r.ms / 1e9);
    else
      std::printf("%8s %9.1f %8s ", "", k.bytes / r.ms / 1e6, "");
    std::printf("%3.0f %% %s\n", 100 * r.floor / r.ms, bound_by_matrix(ceilings, k) ? "matrix rate" : "copy rate");
    total += k.calls * r.ms;
    floor += k.calls * r.floor;
  }
  std::printf("%-42s %7s %9.3f %9.3f   = %.0f %% of what the rates allow\n", "a step, calls times ms", "", total, floor,
              100 * floor / total);
}

/// "12 %", or nothing.
std::string percent(std::optional<double> share) {
  char text[32] = "";
  if (share) std::snprintf(text, sizeof text, "%.0f %%", 100 * *share);
  return text;
}

void print_stages(const StepStages& stages) {
  std::printf("\n%-52s %6s %10s %8s %10s %9s\n", "a step's operations, where they stand in it", "calls", "ms",
              "of step", "floor ms", "floor/ms");
  const auto print = [&](const std::string& name, const std::string& calls, double ms, std::optional<double> floor) {
    char least[32] = "";
    if (floor) std::snprintf(least, sizeof least, "%.4f", *floor);
    std::printf("%-52s %6s %10.4f %6.1f %% %10s %9s\n", name.c_str(), calls.c_str(), ms, 100 * ms / stages.ms, least,
                percent(floor ? std::optional(*floor / ms) : std::nullopt).c_str());
  };
  for (int i = 0; i < kStages; ++i) {
    const auto stage = static_cast<Stage>(i);
    const StageRow total = stages.total(stage);
    if (total.calls == 0) continue;
    print(total.name, std::to_string(total.calls), total.ms, total.floor);
    for (const StageRow& row : stages.rows)
      if (row.stage == stage) print("  " + row.name, std::to_string(row.calls), row.ms, row.floor);
  }
  const StageRow all = stages.total();
  print("between operations", "", stages.between(), {});
  print("step", std::to_string(all.calls), stages.ms, all.floor);
  std::printf(
      "medians of %d steps with a mark before and after each operation; without marks a step takes %.4f ms; neither is "
      "launched as CUDA graphs\n"
      "between operations: the step, as the host sees it, less all rows: the host's work, gaps, the marks\n",
      stages.steps, stages.plain_ms);
}

Json to_json(const StepStages& stages) {
  const auto numbers = [&](Json entry, double ms, std::optional<double> floor) {
    entry["milliseconds"] = number_to_json(ms);
    entry["share_of_step"] = number_to_json(ms / stages.ms);
    entry["floor_milliseconds"] = floor ? number_to_json(*floor) : Json();
    entry["floor_share"] = floor ? number_to_json(*floor / ms) : Json();
    return entry;
  };
  Json list = Json::array();
  for (int i = 0; i < kStages; ++i) {
    const auto stage = static_cast<Stage>(i);
    const StageRow total = stages.total(stage);
    if (total.calls == 0) continue;
    Json entry = numbers({{"name", total.name}, {"calls", total.calls}}, total.ms, total.floor);
    for (const StageRow& row : stages.rows)
      if (row.stage == stage)
        entry["operations"].push_back(
            numbers({{"name", row.name}, {"kernels", row.kernels}, {"calls", row.calls}}, row.ms, row.floor));
    list.push_back(std::move(entry));
  }
  const StageRow all = stages.total();
  list.push_back(numbers({{"name", "between operations"}, {"calls", 0}}, stages.between(), {}));
  list.push_back(numbers({{"name", "step"}, {"calls", all.calls}}, stages.ms, all.floor));
  list.back()["steps"] = stages.steps;
  list.back()["milliseconds_without_marks"] = number_to_json(stages.plain_ms);
  return list;
}

Json to_json(const StepResult& step, const Config& config, const Ceilings& ceilings, std::optional<double> datasheet) {
  const double rate = step.flops / step.seconds;
  return {{"parameters", ParameterLayout(config.model).parameter_count()},
          {"milliseconds", number_to_json(step.seconds * 1e3)},
          {"fastest_milliseconds", number_to_json(step.fastest * 1e3)},
          {"steps", step.steps},
          {"tokens", step.tokens},
          {"tokens_per_second", number_to_json(step.tokens / step.seconds)},
          {"flops", number_to_json(step.flops)},
          {"flops_counted", kFlopsCounted},
          {"flops_per_second", number_to_json(rate)},
          {"mfu_datasheet", datasheet ? number_to_json(rate / *datasheet) : Json()},
          {"mfu_measured", number_to_json(rate / ceilings.matrix_rate)},
          {"probes_share", step.probes ? number_to_json(*step.probes) : Json()},
          {"probe_pass_milliseconds", step.probe_pass ? number_to_json(*step.probe_pass * 1e3) : Json()},
          {"probe_pass_fastest_milliseconds",
           step.fastest_probe_pass ? number_to_json(*step.fastest_probe_pass * 1e3) : Json()},
          {"probe_pass_share",
           step.probe_pass ? number_to_json(pass_share(*step.probe_pass, step.seconds, config)) : Json()},
          {"measured_step_milliseconds", step.measured ? number_to_json(*step.measured * 1e3) : Json()},
          {"measured_step_share",
           step.measured ? number_to_json(pass_share(*step.measured, step.seconds, config)) : Json()},
          {"peak_memory_bytes", step.peak_memory}};
}

Json to_json(const std::vector<KernelResult>& results, const Ceilings& ceilings) {
  Json list = Json::array();
  for (const KernelResult& r : results) {
    const KernelCase& k = r.kernel;
    list.push_back({{"name", k.name},
                    {"calls", k.calls},
                    {"milliseconds", number_to_json(r.ms)},
                    {"floor_milliseconds", number_to_json(r.floor)},
                    {"bytes", k.bytes},
                    {"flops", k.flops},
                    {"bytes_per_second", number_to_json(k.bytes / r.ms * 1e3)},
                    {"flops_per_second", number_to_json(k.flops / r.ms * 1e3)},
                    {"bound", bound_by_matrix(ceilings, k) ? "matrix" : "copy"},
                    {"share_of_bound", number_to_json(r.floor / r.ms)},
                    {"step_milliseconds", number_to_json(k.calls * r.ms)}});
  }
  return list;
}

/// Completes the config with a vocabulary, and says where that comes from.
std::string take_vocabulary(Config& config) {
  constexpr std::int64_t kAssumed = 1024;
  const std::string name = config.data.path.empty() ? "data.train" : "data.path \"" + config.data.path + "\"";
  std::int64_t size = config.model.vocab_size;
  std::string source = "model.vocab_size";
  if (size == 0 && dataset_absent(config.data)) {
    size = kAssumed;
    source = "assumed: model.vocab_size is 0, and the dataset that it is left to, " + name + ", is not there";
  } else if (size == 0) {
    size = dataset_vocab_size(config.data);
    source = "of the dataset, " + name;
  }
  resolve_with_dataset(config, size, 0, 1);
  return source;
}

/// The same for one of several ranks, of what is between them; rank 0 tells.
void run_communication(const BenchArguments& arguments, const Config& config, World& world) {
  const std::unique_ptr<Ops> ops = world.together([&] { return make_ops(config, world.local_rank()); });
  world.expect_equal("config", to_json(config).dump(), config_difference);
  const std::unique_ptr<Communicator> ranks = world.connect(
      *ops, carried_bytes(ParameterLayout(config.model), config.ranks, world.size(), ops->compute_dtype()));
  const std::vector<SumTime> sums = time_sums(*ranks, *ops, config, arguments.repeats);
  const OverlapTime overlap = time_overlap(*ranks, *ops, config, arguments.repeats);
  if (!world.leads()) return;
  const std::string device = device_description(config, *ops);
  std::printf("%s\n%s, %s\n\n%12s %12s %14s\n", build_description().c_str(), device.c_str(),
              ranks->description().c_str(), "sum, MiB", "ms", "bus GB/s");
  Json list = Json::array();
  for (const SumTime& sum : sums) {
    std::printf("%12.4g %12.4g %14.4g\n", static_cast<double>(sum.bytes) / (1024.0 * 1024.0), sum.seconds * 1e3,
                sum.bus_rate / 1e9);
    list.push_back({{"bytes", sum.bytes}, {"milliseconds", sum.seconds * 1e3}, {"bus_bytes_per_second", sum.bus_rate}});
  }
  std::printf(
      "\nbackward            %10.2f ms\nsums of gradients   %10.2f ms\nboth at once        %10.2f ms: %.0f %% of the "
      "shorter is hidden\n",
      overlap.backward * 1e3, overlap.sums * 1e3, overlap.together * 1e3, 100 * overlap.hidden());
  std::fflush(stdout);
  if (arguments.json.empty()) return;
  const Json json = {{"build", build_description()},
                     {"device", device},
                     {"ranks", ranks->size()},
                     {"communication", ranks->description()},
                     {"sums", list},
                     {"backward_milliseconds", overlap.backward * 1e3},
                     {"sums_milliseconds", overlap.sums * 1e3},
                     {"together_milliseconds", overlap.together * 1e3},
                     {"hidden_share", overlap.hidden()},
                     {"config", to_json(config)}};
  FileReplacement output(arguments.json);
  output.write(json.dump(2) + "\n");
  output.commit();
}

void run(const BenchArguments& arguments) {
  if (arguments.stages && arguments.communication)
    throw std::runtime_error("--step times a step of one rank, --comm what is between ranks; expected one of them");
  if (arguments.stages && arguments.steps == 0)
    throw std::runtime_error("--step times as many steps as --steps says; expected --steps of at least 1, found 0");
  Config config = load_config(arguments.config, arguments.overrides);
  const std::string vocabulary_source = take_vocabulary(config);
  if (arguments.communication) {
    const int alone = read_launch().launcher.empty() ? local_ranks(config, static_cast<int>(cuda_devices().size())) : 1;
    if (alone == 1) {
      World world(read_launch(), {.start = config.ranks.start_timeout, .usual = config.ranks.timeout});
      if (world.size() == 1)
        throw std::runtime_error(
            "--comm times what is between ranks, and here is one; start several with mpirun, or give ranks.gpus of at "
            "least 2");
      return run_rank(world, [&] { run_communication(arguments, config, world); });
    }
    std::vector<std::string> words = {"bench", arguments.config, "--comm", "--repeats",
                                      std::to_string(arguments.repeats)};
    for (const std::string& text : arguments.overrides) words.insert(words.end(), {"--set", text});
    if (!arguments.json.empty()) words.insert(words.end(), {"--json", arguments.json});
    return run_local_ranks(alone, words);
  }
  std::optional<FileReplacement> output;
  if (!arguments.json.empty()) output.emplace(arguments.json);  // refuses a bad place before any work
  const std::unique_ptr<Ops> ops = make_ops(config);
  const std::string device = device_description(config, *ops);
  std::printf("%s\n%s\n", build_description().c_str(), device.c_str());
  std::printf("vocabulary          %10lld tokens (%s)\n", static_cast<long long>(config.model.vocab_size),
              vocabulary_source.c_str());
  std::optional<double> datasheet;
  if (ops->compute_dtype() == DType::bf16) datasheet = datasheet_bf16_flops(ops->gpu_name());

  std::optional<StepResult> step;  // first, while the peak of memory is that of training
  if (arguments.steps > 0) step = time_steps(*ops, config, arguments.steps);
  const Ceilings ceilings = measure_ceilings(*ops);
  std::printf("copy                %10.1f GB/s read plus written (%zu MiB)\n", ceilings.copy_rate / 1e9,
              ceilings.copy_bytes >> 20);
  std::printf("matrix              %10.3f TFLOP/s (%lld^3, %s)\n", ceilings.matrix_rate / 1e12,
              static_cast<long long>(ceilings.matrix_size), name_of(ops->compute_dtype()));
  if (step) print_step(*step, config, *ops, ceilings, datasheet);
  std::fflush(stdout);
  std::optional<StepStages> stages;
  if (arguments.stages) {
    stages = time_stages(*ops, config, ceilings, arguments.steps);
    print_stages(*stages);
    std::fflush(stdout);
  }
  std::vector<KernelResult> kernels;
  if (arguments.kernels) {
    kernels = time_kernels(*ops, config, ceilings, arguments.repeats);
    print_kernels(kernels, ceilings);
    std::fflush(stdout);
  }
  if (!output) return;
  Json json = {{"build", build_description()},
               {"device", device},
               {"gpu", ops->gpu_name().empty() ? Json() : Json(ops->gpu_name())},
               {"ceilings",
                {{"copy_bytes_per_second", number_to_json(ceilings.copy_rate)},
                 {"copy_bytes", ceilings.copy_bytes},
                 {"matrix_flops_per_second", number_to_json(ceilings.matrix_rate)},
                 {"matrix_size", ceilings.matrix_size},
                 {"matrix_dtype", name_of(ops->compute_dtype())},
                 {"datasheet_flops_per_second", datasheet ? Json(*datasheet) : Json()}}}};
  if (step) json["step"] = to_json(*step, config, ceilings, datasheet);
  if (stages) json["stages"] = to_json(*stages);
  if (arguments.kernels) json["kernels"] = to_json(kernels, ceilings);
  json["vocabulary_source"] = vocabulary_source;
  json["config"] = to_json(config);
  output->write(json.dump(2) + "\n");
  output->commit();
}

}  // namespace

void add_bench_command(CLI::App& app) {
  const auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command = app.add_subcommand(
      "bench", "Time whole training steps on random tokens, and every operation, against the device's own rates");
  command->add_option("config", arguments->config, "config file, default configs/quickstart.json")->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override; may be repeated");
  command->add_option("--steps", arguments->steps, "steps to time, default 20; 0: none")->check(CLI::Range(0, 1000000));
  command->add_flag(
      "--step", arguments->stages,
      "also where a step goes: its operations by stage, timed where they stand in it, against their floors");
  command->add_flag("--kernels", arguments->kernels, "also every operation by itself, at the sizes of the config");
  command->add_option("--repeats", arguments->repeats, "timings of each operation, default 15")
      ->check(CLI::Range(1, 1000000));
  command->add_flag(
      "--comm", arguments->communication,
      "instead, sums over the ranks that `train` would run on: their rate, and how much of them backward hides");
  command->add_option("--json", arguments->json, "write everything to this file as well, in place of what it holds")
      ->type_name("FILE");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
