#include <nlohmann/json.hpp>

#include "support.h"
#include "tests/catch.h"
#include "tools/report/chart.h"
#include "tools/report/format.h"
#include "tools/report/phase_report.h"
#include "tools/report/summary.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

Config config_of(const std::string& bos) {
  Config config;
  config.train.steps = 100;
  config.data.bos = bos == "none" ? BosPolicy::none : BosPolicy::sequence;
  config.probes.phase = {.onset = 1.5, .plateau = 0.05, .window = 3, .confirm = 3};
  return config;
}

/// The excess of support.h's runs: 1 + sink * step, a pass every 5 steps of 1000 tokens.
PhaseReport report_of(const ExampleRun& example, const Config& config, const PhaseConfig& thresholds) {
  TemporaryFolder folder;
  write_run(folder.path() / "run", example);
  return report_phases(load_run(folder.path() / "run"), config, thresholds);
}
/// With the run's own thresholds. The example's signals are made up, and left out.
PhaseReport report_without_signals(const ExampleRun& example, bool with_events = true) {
  TemporaryFolder folder;
  write_run(folder.path() / "run", example);
  RunData run = load_run(folder.path() / "run");
  for (ProbeRecord& probe : run.probes) probe.phase.reset();
  if (with_events) {
    EventRecord start;
    start.kind = "start";
    run.events.insert(run.events.begin(), start);
  } else {
    run.events.clear();
  }
  const Config config = config_of(example.bos);
  return report_phases(run, config, config.probes.phase);
}
PhaseReport report_of(const ExampleRun& example = {}) {
  const Config config = config_of(example.bos);
  return report_of(example, config, config.probes.phase);
}

std::size_t longest_line(const std::string& text) {
  std::size_t longest = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    longest = std::max(longest, text_width(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return longest;
}

}  // namespace

TEST_CASE("a phase report states set, thresholds, changes, onset, bands and the end") {
  const std::string text = phase_text(report_of(), 80);
  INFO(text);
  CHECK(contains(text, ": step 100, unfinished\n"));
  CHECK(contains(text, "natural_bos (data.bos sequence): 4 sequences of 128 tokens, 20 passes, steps 5 to 100\n"));
  CHECK(contains(text, "onset 1.500, plateau 5.000 %, window 3, confirm 3 (the run's own)\n"));
  // 1.5 is reached at step 50, and held for the third time at 60; the fit over three passes rises by 0.1 of about 1.6.
  CHECK(contains(
      text, "\n60    60 k    wandering → transition  3.650  1.600   +6.452 %  100 %     1   0.5000  0.2500     no\n"));
  CHECK(contains(text,
                 "onset        step 50 (50 k tokens): from there the excess is 1.500 or more for 3 passes in a row\n"));
  CHECK(contains(text, "phases       wandering 0-60 (60.00 %), transition 60-"));
  CHECK(contains(text, "at the end   "));
}

TEST_CASE("an undefined l* is a dash in the table of changes, and said at the end") {
  const Config config = config_of("sequence");
  TemporaryFolder folder;
  write_run(folder.path() / "run", {});
  RunData run = load_run(folder.path() / "run");
  for (ProbeRecord& probe : run.probes) {
    probe.step_up_layer.reset();
    probe.concentration.reset();
  }
  const std::string text = phase_text(report_phases(run, config, config.probes.phase), 80);
  INFO(text);
  CHECK(contains(text, "wandering → transition  3.650  1.600   +6.452 %  100 %     -   -   0.2500     no\n"));
  CHECK(contains(text, ", l* undefined, C2 undefined, sink rate 0.2500"));
}

TEST_CASE("a phase report's chart fits the width that is given, and marks the onset") {
  const PhaseReport report = report_of();
  for (const std::size_t width : {40U, 80U, 132U}) {
    const std::string text = phase_text(report, width);
    CHECK(longest_line(text.substr(text.find("dashed: the onset\n") + 18)) == width);
  }
  const std::vector<std::int64_t> steps = {0, 10, 20, 30};
  const std::string chart = block_chart(steps, std::vector<double>{0, 1, 2, 4}, 2, 4, 19);
  INFO(chart);
  CHECK(chart ==
        "4.000 ┤          ▂█\n"
        "2.000 ┤┄┄┄┄┄┄┄┄┄▆██\n"
        "      │     ▃▅▇████\n"
        "    0 ┤ ▃▅▇████████\n"
        "       0         30\n");
  CHECK(contains(block_chart(steps, std::vector<double>{1, std::nan(""), 1, 1}, 2, 4, 20), "?"));
  CHECK(longest_line(block_chart(steps, std::vector<double>{1, 1, 1, 1}, 2, 4, 0)) == 17);  // 10 columns at least
}

TEST_CASE("a series is resampled by means where it is dense and by lines where it is sparse") {
  const std::vector<std::int64_t> steps = {0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(resample(steps, std::vector<double>{1, 3, 5, 7, 2, 4, 6, 8}, 1) == std::vector<double>{4.5});
  const std::vector<double> halves = resample(steps, std::vector<double>{1, 3, 5, 7, 2, 4, 6, 8}, 2);
  CHECK(halves == std::vector<double>{4, 5});
  const std::vector<double> line = resample(std::vector<std::int64_t>{0, 100}, std::vector<double>{0, 10}, 5);
  REQUIRE(line.size() == 5);
  CHECK(line.front() == 0);
  CHECK(line[2] == Approx(5));
  CHECK(line.back() == 10);
  CHECK(resample(std::vector<std::int64_t>{3}, std::vector<double>{7}, 4).size() == 4);
}

TEST_CASE("a run without a sink says that it stayed wandering") {
  ExampleRun example;
  example.sink = 0;
  const std::string text = phase_text(report_without_signals(example), 80);
  INFO(text);
  CHECK(contains(text, "No sink formed so far: the run stayed wandering. The excess of position 0 was at most 1.000"));
  CHECK(contains(text, "under the onset of 1.500."));
  CHECK(contains(text, "onset        none"));
  CHECK(contains(text, "wandering 0-100 (100 %)"));
  CHECK(contains(text, "the run logged no phase change, and the replay gives none"));
}

TEST_CASE("a phase report claims no agreement with events that are not there, or not yet") {
  const std::string missing = phase_text(report_without_signals({}, false), 80);
  INFO(missing);
  CHECK(contains(missing, "NOT AGAINST events.jsonl, which is missing or empty"));
  CHECK_FALSE(contains(missing, "the replay gives"));
}

TEST_CASE("a run with fewer passes than a window says so") {
  ExampleRun example;
  example.steps = 12;
  const std::string text = phase_text(report_of(example), 80);
  INFO(text);
  CHECK(contains(text, "Only 2 passes: onset and the phase stable take a window of 3."));
  CHECK(contains(text, "change over the window not known yet"));
}

TEST_CASE("a report under other thresholds is not held against the log, under the run's it is") {
  const Config config = config_of("sequence");
  PhaseConfig other = config.probes.phase;
  other.onset = 1.8;
  const PhaseReport moved = report_of({}, config, other);
  CHECK_FALSE(moved.check);
  CHECK(contains(phase_text(moved, 80), "not held against the log"));
  CHECK(moved.replay.passes[*moved.replay.onset].input.step == 80);
  const PhaseReport own = report_of();
  REQUIRE(own.check);
  // The example's events and signals are made up, so that the comparison must find fault with them.
  CHECK(contains(phase_text(own, 80), "THE REPLAY DIFFERS FROM THE LOG"));
  CHECK(contains(phase_text(own, 80), "- step 60: loss is null in the log, 3.65 in the replay"));
}

TEST_CASE("onset in the report and in the comparison of runs is one") {
  TemporaryFolder folder;
  write_run(folder.path() / "run", {});
  const std::vector<RunData> runs = {load_run(folder.path() / "run")};
  const Config config = config_of("sequence");
  const PhaseReport report = report_phases(runs.front(), config, config.probes.phase);
  CHECK(summarize(runs).front().onset->step == report.replay.passes[*report.replay.onset].input.step);
}

TEST_CASE("the JSON of a phase report holds every pass, change and band") {
  const PhaseReport report = report_of();
  const auto json = phase_json(report);
  CHECK(json["set"] == "natural_bos");
  CHECK(json["thresholds"] == json["run_thresholds"]);
  CHECK(json["onset"]["step"] == 50);
  CHECK(json["onset"]["tokens"] == 50000);
  CHECK(json["passes"].size() == 20);
  CHECK(json["passes"][19]["sink_excess"][0] == 2.0);
  CHECK(json["changes"][0]["step"] == 60);
  CHECK(json["changes"][0]["to"] == "transition");
  CHECK(json["phases"][0]["to"] == 60);
  CHECK_FALSE(json["check"]["differences"].empty());
}

TEST_CASE("a run whose phases cannot be read names the log and why") {
  const Config config = config_of("sequence");
  const auto message = [&](const ExampleRun& example, const Config& of) {
    return message_of([&] { report_of(example, of, of.probes.phase); });
  };
  ExampleRun example;
  example.probes = false;
  CHECK(contains(message(example, config), "probes.jsonl: holds no probe pass"));
  Config off = config;
  off.probes.enabled = false;
  CHECK(contains(message(example, off), "probes.enabled is false"));
  example = {};
  example.bos = "none";
  CHECK(contains(message(example, config), "probes.jsonl: holds no pass over natural_bos"));
  Config shorter = config;
  shorter.train.steps = 20;
  CHECK(contains(message({}, shorter), "probes.jsonl: step 25 is not one of the run's 20 (train.steps)"));
}
