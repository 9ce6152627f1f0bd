// Runs on the GPU: against the CPU's curves, and against themselves, bit for bit.
#include <atomic>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/train/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

namespace fs = std::filesystem;

/// The small run with heads of 32 and windows of several tiles, on the GPU unless told otherwise.
Config run_config(const fs::path& folder, const std::string& name, std::vector<std::string> overrides) {
  std::vector<std::string> all = {"name=" + name, "device=cuda", "model.channels=64", "model.heads=4",
                                  "model.kv_heads=2", "model.head_dim=32", "model.hidden=88", "train.micro_batch=4",
                                  "train.sequence_length=150", "train.optimizer.learning_rate=0.001",
                                  "train.schedule.warmup_steps=20", "probes.short_length=40", "probes.positions=8"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return small_config(folder, all);
}

/// Stops the run after a step.
class StopAfter final : public MetricSink {
 public:
  StopAfter(std::int64_t step, std::atomic<bool>& stop) : step_(step), stop_(&stop) {}
  void write(const StepRecord& record) override {
    if (record.step == step_) stop_->store(true);
  }
  void write(const ProbeRecord&) override {}
  void write(const EventRecord&) override {}
  void flush(bool) override {}

 private:
  std::int64_t step_;
  std::atomic<bool>* stop_;
};

void train_until(const Config& config, std::int64_t step, bool resume) {
  std::atomic<bool> stop = false;
  TrainOptions options;
  options.resume = resume;
  options.build = "test";
  options.console = std::make_unique<StopAfter>(step, stop);
  options.stop = &stop;
  const TrainResult result = train(config, std::move(options));
  REQUIRE(!result.finished);
  REQUIRE(result.steps == step);
}

fs::path last_checkpoint(const Config& config) {
  const std::string step = std::to_string(config.train.steps);
  return run_directory(config) / "checkpoints" / ("step_" + std::string(8 - step.size(), '0') + step);
}

/// Every line of what was measured, and every byte of the model and of the optimizer.
void check_same_run(const Config& found, const Config& expected) {
  for (const char* log : {"metrics.jsonl", "probes.jsonl"})
    CHECK(timeless_lines(run_directory(found) / log) == timeless_lines(run_directory(expected) / log));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    CHECK(read_file(last_checkpoint(found) / file) == read_file(last_checkpoint(expected) / file));
}

double relative(double a, double b) { return std::abs(a - b) / std::abs(b); }

}  // namespace

TEST_CASE("an fp32 run of 200 steps on the GPU follows the CPU's") {
  TemporaryFolder folder;
  make_dataset(folder.path());
  const std::vector<std::string> overrides = {"precision=fp32", "train.steps=200", "train.gradient_accumulation=1",
                                              "evaluation.every=50", "probes.every=50", "sample.every=0",
                                              "checkpoint.every=0"};
  const Config gpu = run_config(folder.path(), "gpu", overrides);
  Config cpu = run_config(folder.path(), "cpu", overrides);
  cpu.device = Device::cpu;
  const auto found = read_step_records(train_quietly(gpu).run_directory);
  const auto expected = read_step_records(train_quietly(cpu).run_directory);
  REQUIRE(found.size() == 200);
  REQUIRE(expected.size() == 200);
  CHECK(expected.back().loss < 0.8 * expected.front().loss);  // it learns something
  // Rounding parts the curves, a little more with every step: noise of 3e-7 of the size of every operation's
  // output, put on the CPU's own run, moved losses by up to 4e-5 and gradient norms by up to 2e-3.
  for (std::size_t i = 0; i < found.size(); ++i) {
    const StepRecord &a = found[i], &b = expected[i];
    INFO("step " << b.step);
    const double growth = 2e-5 + 5e-6 * static_cast<double>(b.step);
    CHECK(relative(a.loss, b.loss) < growth);
    CHECK(relative(a.loss_common, b.loss_common) < growth);
    CHECK(relative(a.gradient_norm, b.gradient_norm) < 10 * growth);
    REQUIRE(a.sink_score.size() == b.sink_score.size());
    REQUIRE(a.norm_ratio.size() == b.norm_ratio.size());
    for (std::size_t k = 0; k < b.sink_score.size(); ++k)
      CHECK(relative(a.sink_score[k], b.sink_score[k]) < growth);
    for (std::size_t l = 0; l < b.norm_ratio.size(); ++l)
      CHECK(relative(a.norm_ratio[l], b.norm_ratio[l]) < growth);
    REQUIRE(a.entropy.size() == b.entropy.size());
    REQUIRE(a.key_mass.size() == b.key_mass.size());
    CHECK(b.entropy.empty() == (b.step % 50 != 0));
    for (std::size_t h = 0; h < b.entropy.size(); ++h) CHECK(relative(a.entropy[h], b.entropy[h]) < growth);
    for (std::size_t k = 0; k < b.key_mass.size(); ++k) CHECK(relative(a.key_mass[k], b.key_mass[k]) < 10 * growth);
    REQUIRE(a.validation_loss.has_value() == b.validation_loss.has_value());
    if (b.validation_loss) CHECK(relative(*a.validation_loss, *b.validation_loss) < growth);
  }
}

TEST_CASE("two runs of one config on the GPU are the same, bit for bit") {
  for (const char* preset : {"llama", "gpt2", "qwen3", "qwen2", "gpt_neox"}) {
    INFO(preset);
    TemporaryFolder folder;
    make_dataset(folder.path());
    std::vector<std::string> overrides = {"precision=bf16", "train.steps=24", std::string("model.preset=") + preset};
    if (std::string(preset).starts_with("gpt"))
      overrides.insert(overrides.end(), {"model.kv_heads=4", "model.head_dim=16"});
    const Config first = run_config(folder.path(), "first", overrides);
    const Config second = run_config(folder.path(), "second", overrides);
    train_quietly(first);
    train_quietly(second);
    REQUIRE(read_step_records(run_directory(first)).size() == 24);
    check_same_run(second, first);
  }
}

TEST_CASE("a run on the GPU that was stopped and resumed equals one that was not, bit for bit") {
  for (const char* precision : {"bf16", "fp32", "fp8"}) {
    INFO(precision);
    TemporaryFolder folder;
    make_dataset(folder.path());
    const std::vector<std::string> overrides = {std::string("precision=") + precision, "train.steps=30",
                                                "model.hidden=96"};
    const Config whole = run_config(folder.path(), "whole", overrides);
    const Config stopped = run_config(folder.path(), "stopped", overrides);
    train_quietly(whole);
    train_until(stopped, 11, false);
    train_until(stopped, 17, true);
    CHECK(train_quietly(stopped, true).finished);
    check_same_run(stopped, whole);
  }
}

TEST_CASE("a run that is recorded as CUDA graphs is one that is not, bit for bit") {
  const auto precision = GENERATE(std::string("bf16"), std::string("fp8"));
  TemporaryFolder folder;
  make_dataset(folder.path());
  std::vector<std::string> overrides = {"precision=" + precision, "train.steps=24", "model.hidden=96"};
  const Config recorded = run_config(folder.path(), "recorded", overrides);
  overrides.emplace_back("train.cuda_graph=false");
  const Config called = run_config(folder.path(), "called", overrides);
  train_quietly(recorded);
  train_quietly(called);
  check_same_run(recorded, called);
}

TEST_CASE("a run with FP8 products on the GPU follows one in bf16") {
  for (const char* preset : {"llama", "gpt2"}) {
    INFO(preset);
    TemporaryFolder folder;
    make_dataset(folder.path());
    const auto records = [&](const std::string& precision) {
      std::vector<std::string> overrides = {"precision=" + precision, "train.steps=120", "model.hidden=96",
                                            std::string("model.preset=") + preset};
      if (std::string(preset) == "gpt2") overrides.insert(overrides.end(), {"model.kv_heads=4", "model.head_dim=16"});
      const Config config = run_config(folder.path(), precision, overrides);
      train_quietly(config);
      return read_step_records(run_directory(config));
    };
    const std::vector<StepRecord> exact = records("bf16"), rounded = records("fp8");
    REQUIRE(exact.size() == 120);
    CHECK(rounded[0].loss == exact[0].loss);
    double mean = 0;
    for (std::size_t i = 1; i < exact.size(); ++i)
      mean += std::abs(rounded[i].loss - exact[i].loss) / static_cast<double>(exact.size() - 1);
    CHECK(mean > 0);
    CHECK(mean < 0.02);
  }
}

TEST_CASE("probes change no bit of a run on the GPU") {
  const auto precision = GENERATE(std::string("bf16"), std::string("fp8"));
  TemporaryFolder folder;
  make_dataset(folder.path());
  const std::vector<std::string> overrides = {"precision=" + precision, "train.steps=24", "model.hidden=96"};
  std::vector<std::string> without = overrides;
  without.insert(without.end(), {"probes.enabled=false", "sample.every=0"});
  const Config on = run_config(folder.path(), "on", overrides), off = run_config(folder.path(), "off", without);
  train_quietly(on);
  train_quietly(off);
  const auto a = read_step_records(run_directory(on)), b = read_step_records(run_directory(off));
  REQUIRE(a.size() == 24);
  REQUIRE(b.size() == 24);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].loss == b[i].loss);
    CHECK(a[i].loss_common == b[i].loss_common);
    CHECK(a[i].gradient_norm == b[i].gradient_norm);
    CHECK(a[i].validation_loss == b[i].validation_loss);
    CHECK(!a[i].sink_score.empty());
    CHECK(b[i].sink_score.empty());
  }
  CHECK(!read_probe_records(run_directory(on)).empty());
  CHECK(read_file(last_checkpoint(on) / "model.safetensors") == read_file(last_checkpoint(off) / "model.safetensors"));
}
