#include "tests/report/support.h"

#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "engine/metrics/sinks.h"

namespace sinkscope::test {
namespace {

constexpr std::size_t kRunLayers = 2, kRunHeads = 2, kRunPositions = 8;

StepRecord step_record(const ExampleRun& run, int step) {
  StepRecord record;
  record.step = step;
  record.tokens = step * 1000;
  record.loss = 4.0 + run.loss - step / 100.0;
  record.loss_common = record.loss - 0.5;
  if (step == run.bad_step) record.loss = record.loss_common = std::numeric_limits<double>::quiet_NaN();
  if (step % 10 == 0) {
    record.validation_loss = 4.25 + run.loss - step / 100.0;
    record.validation_loss_common = 3.75 + run.loss - step / 100.0;
  }
  record.learning_rate = step <= 90 ? 1e-3 : 5e-5;
  record.gradient_norm = 1.5;
  record.step_seconds = 0.5;
  record.tokens_per_second = 2000;
  if (run.step_probes) {
    record.sink_score.assign(kRunPositions, 0.05);
    record.sink_score[0] = 0.05 * (1 + run.sink * step);
    record.sink_rate.assign(kRunPositions, 0.0);
    record.sink_score_layer.assign(kRunLayers, record.sink_score[0]);
    record.residual_norm.assign((kRunLayers + 1) * kRunPositions, 10.0);
    record.residual_norm[kRunPositions] = 20;
    record.residual_norm[2 * kRunPositions] = 40;
    record.residual_norm_rest = {10, 10, 10};
    record.norm_ratio = {1, 2, 5};  // of each sequence by itself: not the ratio of the means
  }
  return record;
}

ProbeRecord probe_record(const ExampleRun& run, int step, const std::string& set) {
  const double excess = 1 + run.sink * step;
  ProbeRecord record;
  record.step = step;
  record.tokens = step * 1000;
  record.set = set;
  record.length = 128;
  record.sequences = 4;
  record.with_bos = set == "natural_bos";
  record.layers = kRunLayers;
  record.heads = kRunHeads;
  record.kv_heads = 1;
  record.positions = kRunPositions;
  record.sink_score.assign(kRunLayers * kRunHeads * kRunPositions, 0.02);
  for (std::size_t i = 0; i < kRunLayers * kRunHeads; ++i) record.sink_score[i * kRunPositions] = 0.05 * excess;
  record.sink_rate.assign(kRunPositions, 0.0);
  record.sink_rate[0] = 0.25;
  record.sink_excess.assign(kRunPositions, 0.5);
  record.sink_excess[0] = set == "random" ? 0.9 : excess;
  record.residual_norm.assign((kRunLayers + 1) * kRunPositions, 10.0);
  record.residual_norm[kRunPositions] = 20;
  record.residual_norm[2 * kRunPositions] = 40;
  record.residual_norm_rest = {10, 10, 10};
  record.norm_ratio = {1, 2, 4};
  record.value_norm_first = {0.5, 0.25};
  record.value_norm_rest = {1, 1};
  record.step_up_layer = 1;
  record.concentration = 0.5;
  record.sink_rate_from.assign(kRunPositions, 0.5);
  if (set == "random") return record;
  record.phase = excess >= 1.5 ? "transition" : "wandering";
  record.excess_slope = 0.125;
  record.validation_loss_slope = -step / 1000.0;
  return record;
}

}  // namespace

AssetFolder::AssetFolder(const std::filesystem::path& folder) { ::setenv("SINKSCOPE_ASSETS", folder.c_str(), 1); }
AssetFolder::~AssetFolder() { ::unsetenv("SINKSCOPE_ASSETS"); }

void write_run(const std::filesystem::path& folder, const ExampleRun& run) {
  nlohmann::ordered_json config = {
      {"name", run.name},
      {"output", "runs"},
      {"data", {{"path", "corpus"}, {"bos", run.bos}, {"common_targets", {"none", "sequence"}}}},
      {"train", {{"steps", 100}, {"sequence_length", 128}, {"seed", run.seed}}},
      {"probes", {{"sink_threshold", 0.3}, {"from_layer", 1}, {"phase", {{"onset", 1.5}, {"window", 3}}}}},
      {"run", {{"started", run.name + " at noon"}, {"dataset_fingerprint", "abc"}}}};
  config.merge_patch(nlohmann::ordered_json::parse(run.patch));
  write_file(folder / "config.json", config.dump());
  const auto sink = make_jsonl_sink(folder, std::nullopt);
  const std::string set = run.bos == "none" ? "natural" : "natural_bos";
  for (int step = 1; step <= run.steps; ++step) {
    sink->write(step_record(run, step));
    if (!run.probes || step % 5 != 0) continue;
    sink->write(probe_record(run, step, set));
    sink->write(probe_record(run, step, "random"));
  }
  if (run.probes && run.sink > 0 && run.steps >= 60)
    sink->write(EventRecord{60, 60000, "phase", "sink phase", R"({"from":"wandering","to":"transition"})"});
  sink->flush(false);
}

Estimate around(double value) { return {value, value - 0.1, value + 0.1}; }

void write_chart_library(const std::filesystem::path& folder) {
  write_file(folder / "uplot" / "uPlot.iife.min.js", "var uPlot = 1;");
  write_file(folder / "uplot" / "uPlot.min.css", ".uplot {}");
  write_file(folder / "uplot" / "LICENSE", "The licence");
}

RunData example(const TemporaryFolder& folder, const std::string& place, const ExampleRun& run) {
  write_run(folder.path() / place, run);
  return load_run(folder.path() / place);
}

}  // namespace sinkscope::test
