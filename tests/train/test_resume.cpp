#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/metrics/sinks.h"
#include "engine/train/run_files.h"
#include "tests/catch.h"
#include "tests/event_reader.h"
#include "tests/train/support.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::small_config;
using test::TemporaryFolder;
using test::timeless_lines;
using test::train_error;
using test::train_quietly;

const std::vector<std::string> kLogs = {"metrics.jsonl", "probes.jsonl", "events.jsonl"};

/// Throws when step `at` is reached, as a crash between two writes would.
class CrashAt final : public MetricSink {
 public:
  explicit CrashAt(std::int64_t at) : at_(at) {}
  void write(const StepRecord& record) override {
    if (record.step == at_) throw std::runtime_error("crash");
  }
  void write(const ProbeRecord&) override {}
  void write(const EventRecord&) override {}
  void flush(bool) override {}

 private:
  std::int64_t at_;
};

void crash_at(const Config& config, std::int64_t step, bool resume = false) {
  TrainOptions options;
  options.resume = resume;
  options.build = "test";
  options.console = std::make_unique<CrashAt>(step);
  CHECK_THROWS_WITH(train(config, std::move(options)), "crash");
}

TEST_CASE("a run that crashed anywhere and was resumed equals one that was not, bit for bit") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  // Validation losses at every second step, so that their slope reaches over a resume; pictures at every third pass;
  // alerts that depend on what was before.
  const auto named = [&](const std::string& name) {
    return small_config(folder.path(),
                        {"name=" + name, "evaluation.every=2", "log.heatmap_every=3", "probes.phase.window=4",
                         "alerts.window=4", "alerts.loss_spike=0.01", "probes.phase.onset=0.1",
                         "alerts.sink_collapse=0.6", "train.optimizer.learning_rate=0.1"});
  };
  const fs::path whole = train_quietly(named("whole")).run_directory;
  std::set<std::string> alerts;
  for (const EventRecord& event : read_event_records(whole))
    if (event.kind == "alert" && event.step > 5) alerts.insert(nlohmann::json::parse(event.data).at("name"));
  CHECK(alerts == std::set<std::string>{"loss_spike", "sink_collapse"});
  CHECK(read_probe_records(whole).back().set == "repeated");
  for (const ProbeRecord& record : read_probe_records(whole)) {
    CHECK(record.phase.has_value() == (record.set == "natural_bos"));
    CHECK(record.excess_slope.has_value() == (record.set == "natural_bos" && record.step >= 9));
    CHECK(record.validation_loss_slope.has_value() == (record.set == "natural_bos" && record.step >= 6));
  }
  for (const std::int64_t step : {1, 4, 5, 6, 7, 10, 11, 12}) {
    const Config config = named("crashed-" + std::to_string(step));
    crash_at(config, step);
    if (step == 7) crash_at(config, 9, true);
    const TrainResult result = train_quietly(config, true);
    CHECK(result.finished);
    for (const std::string& log : kLogs) {
      auto expected = timeless_lines(whole / log), found = timeless_lines(result.run_directory / log);
      if (log == "events.jsonl" && step <= 5) {  // no checkpoint yet: the start event says so
        expected.erase(expected.begin());
        found.erase(found.begin());
      }
      INFO("crash at " << step << ", " << log);
      CHECK(found == expected);
    }
    CHECK(test::event_outline(result.run_directory) == test::event_outline(whole));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      CHECK(test::read_file(result.run_directory / "checkpoints/step_00000012" / file) ==
            test::read_file(whole / "checkpoints/step_00000012" / file));
  }
}

TEST_CASE("a run with learned sink logits that crashed and was resumed equals one that was not, bit for bit") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto named = [&](const std::string& name) {
    return small_config(folder.path(), {"name=" + name, "model.attention.sink=learned"});
  };
  const fs::path whole = train_quietly(named("whole")).run_directory;
  crash_at(named("crashed"), 7);
  const fs::path resumed = train_quietly(named("crashed"), true).run_directory;
  for (const std::string& log : kLogs) CHECK(timeless_lines(resumed / log) == timeless_lines(whole / log));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    CHECK(test::read_file(resumed / "checkpoints/step_00000012" / file) ==
          test::read_file(whole / "checkpoints/step_00000012" / file));
}

TEST_CASE("a run with FP8 products that crashed and was resumed equals one that was not, bit for bit") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto named = [&](const std::string& name, const std::string& precision = "fp8") {
    return small_config(folder.path(), {"name=" + name, "model.hidden=32", "precision=" + precision});
  };
  const fs::path whole = train_quietly(named("whole")).run_directory;
  for (const std::int64_t step : {3, 7, 12}) {
    const std::string name = "crashed-" + std::to_string(step);
    crash_at(named(name), step);
    const fs::path resumed = train_quietly(named(name), true).run_directory;
    for (const char* log : {"metrics.jsonl", "probes.jsonl"})
      CHECK(timeless_lines(resumed / log) == timeless_lines(whole / log));
    for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"})
      CHECK(test::read_file(resumed / "checkpoints/step_00000012" / file) ==
            test::read_file(whole / "checkpoints/step_00000012" / file));
  }
  CHECK(test::contains(test::read_file(whole / "config.json"), "\"device\": \"fp32 with FP8 products, "));
  CHECK(nlohmann::json::parse(test::read_file(whole / "checkpoints/step_00000012/state.json")).at("fp8_amax").size() ==
        12);
  // The first step is that of fp32; later ones are near it.
  const std::vector<StepRecord> exact = read_step_records(train_quietly(named("exact", "fp32")).run_directory),
                                rounded = read_step_records(whole);
  CHECK(rounded[0].loss == exact[0].loss);
  CHECK(rounded[0].gradient_norm == exact[0].gradient_norm);
  for (std::size_t i = 1; i < exact.size(); ++i) {
    CHECK(rounded[i].loss != exact[i].loss);
    CHECK(std::abs(rounded[i].loss - exact[i].loss) < 0.05);
  }
  CHECK(test::contains(train_error(named("whole", "fp32"), true), "precision"));  // which is part of the run
}

TEST_CASE("a checkpoint whose FP8 magnitudes do not fit the model is refused by name") {
  const std::string state = R"({"step": 1, "sample": 1, "phase_detector": "")";
  const auto error = [&](const std::string& amax) -> std::string {
    try {
      check_fp8(loop_state_from_text(state + amax + "}", "state.json").fp8, 1, "state.json");
    } catch (const std::runtime_error& failure) {
      return failure.what();
    }
    return "";
  };
  const std::string twelve = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]";
  CHECK(error(", \"fp8_amax\": [" + twelve + ", " + twelve + "]").empty());
  std::string seventeen = twelve;
  for (int i = 1; i < 17; ++i) seventeen += ", " + twelve;
  for (const std::string& amax : {"[" + twelve + ", [3]]", std::string("[]"), std::string("[1]"),
                                  std::string("[[null]]"), "[" + seventeen + "]"}) {
    INFO(amax);
    CHECK(error(", \"fp8_amax\": " + amax).starts_with("state.json: fp8_amax"));
  }
  CHECK(error("").starts_with("state.json: fp8_amax"));
}

TEST_CASE("a run without validation data that begins again warns of it again") {
  TemporaryFolder folder;
  test::make_dataset(folder.path(), 0);
  const auto named = [&](const std::string& name) {
    return small_config(folder.path(), {"name=" + name, "probes.every=0"});
  };
  const fs::path whole = train_quietly(named("whole")).run_directory;
  crash_at(named("crashed"), 2);
  const fs::path again = train_quietly(named("crashed"), true).run_directory;
  auto expected = timeless_lines(whole / "events.jsonl"), found = timeless_lines(again / "events.jsonl");
  REQUIRE(expected.size() > 1);
  CHECK(test::contains(expected[1], "no validation data"));
  expected.erase(expected.begin());  // the start event says that the run begins again
  found.erase(found.begin());
  CHECK(found == expected);
}

TEST_CASE("a resume falls back to the newest checkpoint that verifies") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const fs::path whole = train_quietly(small_config(folder.path(), {"name=whole"})).run_directory;
  const Config config = small_config(folder.path(), {"name=flipped"});
  crash_at(config, 12);
  const fs::path run = folder.path() / "runs/flipped";
  {
    std::fstream file(run / "checkpoints/step_00000010/optimizer.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x55');
  }
  train_quietly(config, true);
  const auto events = read_event_records(run);
  const auto resumed =
      std::find_if(events.begin(), events.end(), [](const EventRecord& e) { return e.kind == "resume"; });
  REQUIRE(resumed != events.end());
  CHECK(resumed->step == 5);
  REQUIRE(resumed + 1 != events.end());
  CHECK(resumed[1].kind == "warning");
  CHECK(resumed[1].step == 5);
  CHECK(test::contains(resumed[1].message, "checkpoint left aside: "));
  CHECK(test::contains(resumed[1].message, "step_00000010"));
  for (const std::string& log : kLogs) {
    auto found = timeless_lines(run / log);
    std::erase_if(found, [](const std::string& line) { return test::contains(line, "checkpoint left aside"); });
    CHECK(found == timeless_lines(whole / log));
  }
}

TEST_CASE("a run that begins again does so with the settings of now") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  crash_at(small_config(folder.path()), 2);
  const fs::path run = train_quietly(small_config(folder.path(), {"checkpoint.every=4"}), true).run_directory;
  const auto config = nlohmann::json::parse(test::read_file(run / "config.json"));
  CHECK(config.at("checkpoint").at("every") == 4);
}

TEST_CASE("resuming a finished run changes nothing") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path());
  const fs::path run = train_quietly(config).run_directory;
  std::vector<std::string> before;
  for (const std::string& log : kLogs) before.push_back(test::read_file(run / log));
  const TrainResult result = train_quietly(config, true);
  CHECK(result.finished);
  CHECK(result.steps == 12);
  for (std::size_t i = 0; i < kLogs.size(); ++i) CHECK(test::read_file(run / kLogs[i]) == before[i]);
}

TEST_CASE("a run whose checkpoints are gone is refused, and its logs stay, and one that never saved any begins anew") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto check_refused = [&](const Config& config, const std::string& reached, const std::string& saved) {
    const fs::path run = folder.path() / "runs" / config.name;
    fs::remove_all(run / "checkpoints");
    std::vector<std::string> before;
    for (const std::string& log : kLogs) before.push_back(test::read_file(run / log));
    CHECK(train_error(config, true) ==
          run.string() + ": its logs reach step " + reached + " and tell of a checkpoint at step " + saved +
              ", but there is none in checkpoints/, and to begin again would drop the logs; put the checkpoints back, "
              "give another name with --set name=..., or delete the folder");
    for (std::size_t i = 0; i < kLogs.size(); ++i) CHECK(test::read_file(run / kLogs[i]) == before[i]);
  };
  const Config crashed = small_config(folder.path(), {"name=crashed"});
  crash_at(crashed, 7);
  check_refused(crashed, "7", "5");
  const Config finished = small_config(folder.path(), {"name=finished", "checkpoint.every=0"});
  train_quietly(finished);
  check_refused(finished, "12", "12");

  // Killed while the first checkpoint was being saved: its event is there already.
  const Config saving = small_config(folder.path(), {"name=saving", "checkpoint.every=0"});
  const fs::path run = train_quietly(saving).run_directory;
  const std::string events = test::read_file(run / "events.jsonl");
  fs::remove_all(run / "checkpoints");
  test::write_file(run / "events.jsonl", events.substr(0, events.rfind('\n', events.size() - 2) + 1));
  CHECK(read_event_records(run).back().kind == "checkpoint");
  CHECK(train_quietly(saving, true).finished);
}

TEST_CASE("a run killed between its last checkpoint and the end of its log ends it when resumed") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path());
  const fs::path run = train_quietly(config).run_directory;
  const std::string events = test::read_file(run / "events.jsonl");
  test::write_file(run / "events.jsonl", events.substr(0, events.rfind('\n', events.size() - 2) + 1));
  CHECK(train_quietly(config, true).finished);
  CHECK(test::read_file(run / "events.jsonl") == events);
}

TEST_CASE("a stop saves a checkpoint after the step, and the run goes on from it") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const fs::path whole = train_quietly(small_config(folder.path(), {"name=whole"})).run_directory;
  const Config config = small_config(folder.path(), {"name=stopped"});
  const std::atomic<bool> stop = true;
  TrainOptions options;
  options.stop = &stop;
  const TrainResult first = train(config, std::move(options));
  CHECK(!first.finished);
  CHECK(first.steps == 1);
  train_quietly(config, true);
  CHECK(timeless_lines(folder.path() / "runs/stopped/metrics.jsonl") == timeless_lines(whole / "metrics.jsonl"));
}

TEST_CASE("a run of before ranks.shard is read, and goes on") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path(), {"checkpoint.every=2"});
  crash_at(config, 5);
  const fs::path file = run_directory(config) / "config.json";
  for (const bool sharded : {true, false}) {
    auto stored = nlohmann::json::parse(test::read_file(file));
    stored["ranks"].erase("shard");
    stored["ranks"].erase("reduce_dtype");
    stored["ranks"].erase("copy_engines");
    stored["ranks"]["shard_optimizer"] = sharded;
    std::ofstream(file) << stored.dump();
    const RanksConfig read = read_run_config(file.parent_path()).ranks;
    CHECK(read.shard == (sharded ? Shard::optimizer : Shard::none));
    CHECK_FALSE(read.copy_engines);
  }
  TrainOptions options;
  options.resume = true;
  options.build = "test";
  CHECK(train(config, std::move(options)).finished);
}

TEST_CASE("a resume with another config or without a run is refused") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::string file = (folder.path() / "runs/small/config.json").string();
  CHECK(train_error(small_config(folder.path()), true) == file + ": cannot be read; there is no run to resume");
  crash_at(small_config(folder.path()), 7);
  CHECK(train_error(small_config(folder.path(), {"train.optimizer.beta2=0.9"}), true) ==
        file + ": the run was begun with train.optimizer.beta2 = 0.95, not 0.9; give the config it was begun with, or "
               "another name");
  CHECK(train_error(small_config(folder.path(), {"checkpoint.every=3", "threads=1", "alerts.loss_spike=9"}), true)
            .empty());
  const auto events = read_event_records(folder.path() / "runs/small");
  const auto resumed =
      std::find_if(events.begin(), events.end(), [](const EventRecord& e) { return e.kind == "resume"; });
  REQUIRE(resumed != events.end());
  CHECK(nlohmann::json::parse(resumed->data).at("changed") ==
        nlohmann::json::parse(R"({"threads": {"before": 2, "now": 1}, "checkpoint.every": {"before": 5, "now": 3},
                                 "alerts.loss_spike": {"before": 8.0, "now": 9.0}})"));
}

}  // namespace
}  // namespace sinkscope
