// Runs made up pass by pass, as the trainer makes them, and their replay from what the logs hold.
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/optim/schedule.h"
#include "engine/probes/phase_replay.h"
#include "tests/catch.h"
#include "tests/files.h"

using namespace sinkscope;
using sinkscope::test::contains;

namespace {

constexpr std::int64_t kPasses = 60, kEvery = 10, kSteps = (kPasses - 1) * kEvery, kTokens = 100;

PhaseConfig thresholds() { return {.onset = 2.0, .plateau = 0.1, .window = 5, .confirm = 2}; }

ScheduleConfig schedule() {
  ScheduleConfig config;
  config.type = ScheduleType::linear;
  config.warmup_steps = 20;
  config.final_fraction = 0;
  return config;
}

struct Logs {
  std::vector<StepRecord> steps;
  std::vector<ProbeRecord> probes;
  std::vector<EventRecord> events;
};

template <class Record>
Record logged(const Record& record, Record (*read)(const nlohmann::ordered_json&)) {
  return read(nlohmann::ordered_json::parse(to_json(record).dump()));
}

/// Rises through the onset, settles, and collapses at pass 45; with more digits than a float has.
double excess_of(std::int64_t pass) {
  if (pass >= 45) return 0.9 + 0.001 / 3;
  return 1 + 4 / (1 + std::exp(-(static_cast<double>(pass) - 15) / 2.3)) + 0.01 * std::sin(static_cast<double>(pass));
}

struct MakeOptions {
  std::int64_t evaluate_every = 40;
  std::int64_t log_every = 1;
  bool ended = true;
};

/// What the trainer's loop does between its log and its detector, with lines that were written and read again.
Logs make_logs(const MakeOptions& options = {}) {
  Logs logs;
  PhaseDetector detector(thresholds());
  std::optional<double> validation;
  std::vector<double> validations;
  for (std::int64_t step = 0; step <= kSteps; ++step) {
    StepRecord record;
    record.step = step;
    record.loss = 6 - std::log(static_cast<double>(step + 1)) / 3;
    if (options.evaluate_every > 0 && step > 0 && step % options.evaluate_every == 0) {
      validation = record.validation_loss = record.loss + 1.0 / 7;
      validations.push_back(*validation);
      if (validations.size() > 5) validations.erase(validations.begin());
    }
    if (step > 0 && (step % options.log_every == 0 || step == kSteps || record.validation_loss))
      logs.steps.push_back(logged(record, step_record_from_json));
    if (step % kEvery != 0) continue;
    for (const char* set : {"natural", "natural_bos", "random"}) {
      const std::int64_t pass = step / kEvery;
      ProbeRecord probe;
      probe.step = step;
      probe.tokens = step * kTokens;
      probe.set = set;
      probe.loss = 7 + 1.0 / 3;
      probe.sink_excess = {probe.set == "natural_bos" ? excess_of(pass) : 9.0, 1.0 / 3, 0.7};
      probe.sink_rate = {static_cast<double>(pass) / 77};
      if (pass > 12) probe.step_up_layer = 1;
      if (pass > 12) probe.concentration = 0.1 + static_cast<double>(pass) / 300;
      if (probe.set == "natural_bos") {
        const double loss = step == 0 ? probe.loss : validation.value_or(record.loss);
        const PhaseReading reading =
            detector.update(phase_input(probe, loss, remaining_rate(schedule(), step, kSteps)));
        add_signals(reading, validations, probe);
        if (reading.change) logs.events.push_back(logged(phase_event(*reading.change), event_record_from_json));
      }
      logs.probes.push_back(logged(probe, probe_record_from_json));
    }
  }
  if (options.ended) logs.events.push_back({kSteps, kSteps * kTokens, "end", "training ends", "{}"});
  return logs;
}

PhaseReplay replay(const Logs& logs, const PhaseConfig& config = thresholds()) {
  return replay_phases(logs.probes, "natural_bos", logs.steps, schedule(), kSteps, config);
}

ReplayCheck check(const Logs& logs) { return check_replay(replay(logs), logs.probes, "natural_bos", logs.events); }

std::vector<PhaseChange> changes_of(const PhaseReplay& replay) {
  std::vector<PhaseChange> changes;
  for (const ReplayPass& pass : replay.passes)
    if (pass.reading.change) changes.push_back(*pass.reading.change);
  return changes;
}

std::vector<EventRecord> phase_events(const Logs& logs) {
  std::vector<EventRecord> events;
  for (const EventRecord& event : logs.events)
    if (event.kind == "phase") events.push_back(event);
  return events;
}

}  // namespace

TEST_CASE("a replay gives every event and signal of the run, bit for bit") {
  const Logs logs = make_logs();
  const std::vector<PhaseChange> changes = changes_of(replay(logs));
  const std::vector<EventRecord> events = phase_events(logs);
  REQUIRE(events.size() == 3);  // formed, settled, lost
  REQUIRE(changes.size() == events.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    const EventRecord replayed = phase_event(changes[i]);
    CHECK(replayed.step == events[i].step);
    CHECK(replayed.tokens == events[i].tokens);
    CHECK(replayed.message == events[i].message);
    CHECK(replayed.data == events[i].data);
  }
  const ReplayCheck compared = check(logs);
  CHECK(compared.changes == 3);
  CHECK(compared.passes == kPasses);
  CHECK(compared.differences.empty());
  CHECK(compared.rounded == 0);
}

TEST_CASE("the losses of a replay are those that the trainer gave the detector") {
  const auto loss_at = [](const PhaseReplay& replayed, std::int64_t step) {
    return replayed.passes[static_cast<std::size_t>(step / kEvery)];
  };
  const Logs logs = make_logs();
  const PhaseReplay replayed = replay(logs);
  const auto training = [&](std::int64_t step) { return logs.steps[static_cast<std::size_t>(step - 1)].loss; };
  CHECK(loss_at(replayed, 0).input.loss == 7 + 1.0 / 3);          // of the set, before the first step
  CHECK(loss_at(replayed, 30).input.loss == training(30));        // before the first evaluation
  CHECK(loss_at(replayed, 40).input.loss == training(40) + 1.0 / 7);   // of the same step
  CHECK(loss_at(replayed, 70).input.loss == training(40) + 1.0 / 7);   // the last one
  CHECK(loss_at(replayed, 0).input.learning_rate_fraction == 1);
  CHECK(loss_at(replayed, 10).input.learning_rate_fraction == 1);  // a warm-up is not low
  CHECK(loss_at(replayed, 300).input.learning_rate_fraction == remaining_rate(schedule(), 300, kSteps));
  CHECK_FALSE(loss_at(replayed, 80).validation_loss_slope);        // two evaluations
  CHECK(loss_at(replayed, 120).validation_loss_slope);

  // Steps that log.every leaves out take their training loss with them, and nothing else.
  const Logs sparse = make_logs({.evaluate_every = 0, .log_every = 100});
  const PhaseReplay gaps = replay(sparse);
  CHECK(loss_at(gaps, 100).loss_logged);
  CHECK_FALSE(loss_at(gaps, 110).loss_logged);
  CHECK(std::isnan(loss_at(gaps, 110).input.loss));
  CHECK(phase_events(sparse).size() == 3);
  CHECK(check(sparse).differences.empty());
}

TEST_CASE("other thresholds move the changes, and nothing is read from other sets") {
  const Logs logs = make_logs();
  const auto steps = [&](PhaseConfig config) {
    std::vector<std::int64_t> result;
    for (const PhaseChange& change : changes_of(replay(logs, config))) result.push_back(change.step);
    return result;
  };
  const std::vector<std::int64_t> own = steps(thresholds());
  PhaseConfig config = thresholds();
  config.onset = 4;
  CHECK(steps(config).front() > own.front());
  config.onset = 6;
  CHECK(steps(config).empty());
  config = thresholds();
  config.confirm = 4;
  CHECK(steps(config).front() == own.front() + 2 * kEvery);
  config = thresholds();
  config.plateau = 0.5;
  CHECK(steps(config)[1] < own[1]);
  config = thresholds();
  config.window = 12;
  CHECK(steps(config)[1] > own[1]);
  CHECK(replay_phases(logs.probes, "natural_bos", logs.steps, schedule(), kSteps, config).passes.size() == kPasses);
  CHECK(replay_phases(logs.probes, "natural_short", logs.steps, schedule(), kSteps, config).passes.empty());
  CHECK(phase_bands(replay_phases({}, "natural_bos", {}, schedule(), kSteps, config)).empty());
  config.confirm = 0;
  CHECK_THROWS_WITH(replay(logs, config), "probes.phase.confirm must be at least 1");
}

TEST_CASE("the onset of a replay is the first pass of a whole window at or above the threshold") {
  const Logs logs = make_logs();
  const PhaseReplay replayed = replay(logs);
  REQUIRE(replayed.onset);
  const std::size_t first = *replayed.onset;
  CHECK(replayed.passes[first - 1].input.sink_excess[0] < 2);
  for (std::size_t i = first; i < first + 5; ++i) CHECK(replayed.passes[i].input.sink_excess[0] >= 2);
  PhaseConfig config = thresholds();
  config.window = 60;  // longer than the sink lives
  CHECK_FALSE(replay(logs, config).onset);
}

TEST_CASE("the bands of a replay meet, and cover the run") {
  const Logs logs = make_logs();
  const std::vector<PhaseBand> bands = phase_bands(replay(logs));
  const std::vector<EventRecord> events = phase_events(logs);
  REQUIRE(bands.size() == 4);
  CHECK(bands[0].phase == Phase::wandering);
  CHECK(bands[1].phase == Phase::transition);
  CHECK(bands[2].phase == Phase::stable);
  CHECK(bands[3].phase == Phase::wandering);
  CHECK(bands.front().from == 0);
  CHECK(bands.back().to == kSteps);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(bands[i].to == events[i].step);
    CHECK(bands[i + 1].from == events[i].step);
  }
  Logs at_once = logs;  // a phase entered at step 0 leaves no empty band before it
  for (ProbeRecord& probe : at_once.probes) probe.sink_excess[0] = 5;
  PhaseConfig config = thresholds();
  config.confirm = 1;
  const std::vector<PhaseBand> begun = phase_bands(replay(at_once, config));
  REQUIRE(!begun.empty());
  CHECK(begun.front().phase == Phase::transition);
  CHECK(begun.front().from == 0);
}

TEST_CASE("what differs between log and replay is named") {
  const auto only = [](Logs& logs, const std::string& part) {
    const ReplayCheck compared = check(logs);
    INFO(part);
    REQUIRE(compared.differences.size() == 1);
    INFO(compared.differences.front());
    CHECK(contains(compared.differences.front(), part));
  };
  const Logs logs = make_logs();
  const auto first_event = [](Logs& changed, const char* key, const nlohmann::ordered_json& value) {
    auto data = nlohmann::ordered_json::parse(changed.events.front().data);
    data[key] = value;
    changed.events.front().data = data.dump();
  };
  const std::string step = "step " + std::to_string(logs.events.front().step) + ": ";
  Logs changed = logs;
  first_event(changed, "loss", 1.5);
  only(changed, step + "loss is 1.5 in the log, ");
  changed = logs;
  first_event(changed, "to", "stable");
  only(changed, step + "to is \"stable\" in the log, \"transition\" in the replay");
  changed = logs;
  first_event(changed, "step_up_layer", 7);
  only(changed, step + "step_up_layer is 7");
  changed = logs;
  changed.events.front().tokens += 1;
  only(changed, step + "tokens is ");
  changed = logs;
  changed.events.erase(changed.events.begin());
  only(changed, step + "wandering -> transition is in the replay and not in the log");
  changed = logs;
  changed.events.insert(changed.events.begin(), {5, 500, "phase", "", R"({"from":"stable","to":"wandering"})"});
  only(changed, "step 5: stable -> wandering is in the log and not in the replay");
  changed = logs;
  for (ProbeRecord& probe : changed.probes)
    if (probe.step == 300 && probe.phase) probe.phase = "asleep";
  only(changed, "step 300: the phase is asleep in the log, stable in the replay");
  changed = logs;
  for (ProbeRecord& probe : changed.probes)
    if (probe.step == 300 && probe.phase) probe.excess_slope.reset();
  only(changed, "step 300: excess_slope is nothing in the log, ");
  changed = logs;
  for (ProbeRecord& probe : changed.probes)
    if (probe.step == 300 && probe.phase) *probe.validation_loss_slope += 1e-3;
  only(changed, "step 300: validation_loss_slope is ");

  // Last digits beyond float are told apart from a difference; a log without signals has none to compare.
  changed = logs;
  first_event(changed, "sink_excess",
              nlohmann::ordered_json::parse(logs.events.front().data)["sink_excess"].get<double>() + 1e-8);
  CHECK(check(changed).differences.empty());
  CHECK(check(changed).rounded == 1);
  changed = logs;
  for (ProbeRecord& probe : changed.probes) probe.phase.reset();
  CHECK(check(changed).passes == 0);
  CHECK(check(changed).differences.empty());
}

TEST_CASE("of a run that has not ended the last changes may not be logged yet") {
  Logs logs = make_logs({.ended = false});
  REQUIRE(check(logs).differences.empty());
  logs.events.pop_back();
  CHECK(check(logs).changes == 2);
  CHECK(check(logs).differences.empty());
  logs.events.erase(logs.events.begin());  // one in the middle is a difference all the same
  CHECK(check(logs).differences.size() == 1);
}

TEST_CASE("a logged number, read and rounded again, stays as it is") {
  for (const double value : {1.0 / 3, 2.0, 1e-30, 123456789.123, 1 + 1e-12, 0.0, -0.1}) {
    CHECK(as_logged(as_logged(value)) == as_logged(value));
    CHECK(as_logged(value) == Approx(value).epsilon(1e-7));
  }
  CHECK(as_logged(1 + 1e-12) == 1);
  CHECK(std::isnan(as_logged(std::numeric_limits<double>::quiet_NaN())));
}
