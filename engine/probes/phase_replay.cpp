#include "engine/probes/phase_replay.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/optim/schedule.h"
#include "engine/probes/circuit.h"

namespace sinkscope {

namespace {

using Json = nlohmann::ordered_json;

// What float keeps of a number near 1, with room for a few operations on such numbers.
constexpr double kFloatPrecision = 1e-6;

std::string at_step(std::int64_t step) { return "step " + std::to_string(step) + ": "; }

std::string text_of(const std::optional<double>& value) { return value ? Json(*value).dump() : "nothing"; }

/// Compares one number or word of the log with its replay, and keeps the account.
class Comparison {
 public:
  explicit Comparison(ReplayCheck& check) : check_(check) {}

  void number(std::int64_t step, const std::string& what, std::optional<double> logged,
              std::optional<double> replayed) {
    if (logged == replayed) return;
    if (logged && replayed) {
      if (std::isnan(*logged) && std::isnan(*replayed)) return;
      if (std::abs(*logged - *replayed) <= kFloatPrecision * std::max(1.0, std::abs(*logged))) {
        ++check_.rounded;
        return;
      }
    }
    word(step, what, text_of(logged), text_of(replayed));
  }
  void word(std::int64_t step, const std::string& what, const std::string& logged, const std::string& replayed) {
    if (logged != replayed)
      check_.differences.push_back(at_step(step) + what + " is " + logged + " in the log, " + replayed +
                                   " in the replay");
  }

 private:
  ReplayCheck& check_;
};

std::optional<double> number_of(const Json& json) {
  if (json.is_number()) return json.get<double>();
  if (json == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (json == "Infinity") return std::numeric_limits<double>::infinity();
  if (json == "-Infinity") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

/// Every value of the data of one change, key by key.
void compare_change(const EventRecord& logged, const ReplayPass& pass, Comparison& comparison) {
  const EventRecord replayed = phase_event(*pass.reading.change);
  const Json before = Json::parse(logged.data), now = Json::parse(replayed.data);
  const std::int64_t step = logged.step;
  comparison.number(step, "tokens", static_cast<double>(logged.tokens), static_cast<double>(replayed.tokens));
  for (const auto& [key, value] : now.items()) {
    if (key == "loss" && !pass.loss_logged) continue;
    const Json found = before.contains(key) ? before.at(key) : Json(nullptr);
    const auto a = number_of(found), b = number_of(value);
    if (a && b)
      comparison.number(step, key, a, b);
    else
      comparison.word(step, key, found.dump(), value.dump());
  }
}

std::string change_text(const Json& data) {
  const auto word = [&](const char* key) {
    const auto found = data.find(key);
    return found != data.end() && found->is_string() ? found->get<std::string>() : std::string("?");
  };
  return word("from") + " -> " + word("to");
}

void compare_changes(const PhaseReplay& replay, std::span<const EventRecord> events, ReplayCheck& check) {
  const bool ended = std::any_of(events.begin(), events.end(), [](const EventRecord& e) { return e.kind == "end"; });
  Comparison comparison(check);
  std::vector<const ReplayPass*> changes;
  for (const ReplayPass& pass : replay.passes)
    if (pass.reading.change) changes.push_back(&pass);
  auto next = changes.begin();
  const auto only_replayed = [&](const ReplayPass& pass) {
    check.differences.push_back(at_step(pass.input.step) +
                                change_text(Json::parse(phase_event(*pass.reading.change).data)) +
                                " is in the replay and not in the log");
  };
  for (const EventRecord& event : events) {
    if (event.kind != "phase") continue;
    ++check.changes;
    while (next != changes.end() && (*next)->input.step < event.step) only_replayed(**next++);
    if (next == changes.end() || (*next)->input.step > event.step)
      check.differences.push_back(at_step(event.step) + change_text(Json::parse(event.data)) +
                                  " is in the log and not in the replay");
    else
      compare_change(event, **next++, comparison);
  }
  if (!ended) return;  // the events of a running run are read before its passes
  for (; next != changes.end(); ++next) only_replayed(**next);
}

}  // namespace

PhaseReplay replay_phases(std::span<const ProbeRecord> probes, std::string_view set, std::span<const StepRecord> steps,
                          const ScheduleConfig& schedule, std::int64_t total_steps, const PhaseConfig& config) {
  PhaseDetector detector(config);
  PhaseReplay replay;
  std::vector<double> series;
  std::vector<double> validation;  // the last config.window losses, as the trainer keeps them
  auto step = steps.begin();
  for (const ProbeRecord& probe : probes) {
    if (probe.set != set) continue;
    std::optional<double> training;
    for (; step != steps.end() && step->step <= probe.step; ++step) {
      training.reset();
      if (step->step == probe.step) training = step->loss;
      if (!step->validation_loss) continue;
      validation.push_back(*step->validation_loss);
      if (std::ssize(validation) > config.window) validation.erase(validation.begin());
    }
    std::optional<double> loss;
    if (probe.step == 0)
      loss = probe.loss;
    else if (!validation.empty())
      loss = validation.back();
    else
      loss = training;

    ReplayPass pass;
    pass.loss_logged = loss.has_value();
    pass.input = phase_input(probe, loss.value_or(std::numeric_limits<double>::quiet_NaN()),
                             remaining_rate(schedule, probe.step, total_steps));
    pass.reading = detector.update(pass.input);
    ProbeRecord signals;
    add_signals(pass.reading, validation, signals);
    pass.validation_loss_slope = signals.validation_loss_slope;
    series.push_back(pass.input.sink_excess.front());
    replay.passes.push_back(std::move(pass));
  }
  replay.onset = onset_index(series, config.onset, config.window);
  return replay;
}

std::vector<PhaseBand> phase_bands(const PhaseReplay& replay) {
  std::vector<PhaseBand> bands;
  for (const ReplayPass& pass : replay.passes) {
    if (bands.empty()) bands.push_back({.phase = Phase::wandering, .from = 0, .to = 0});
    bands.back().to = pass.input.step;
    if (!pass.reading.change) continue;
    if (bands.back().from == pass.input.step) bands.pop_back();  // entered at step 0
    bands.push_back({.phase = pass.reading.change->to, .from = pass.input.step, .to = pass.input.step});
  }
  return bands;
}

ReplayCheck check_replay(const PhaseReplay& replay, std::span<const ProbeRecord> probes, std::string_view set,
                         std::span<const EventRecord> events) {
  ReplayCheck check;
  compare_changes(replay, events, check);
  Comparison comparison(check);
  auto pass = replay.passes.begin();
  for (const ProbeRecord& probe : probes) {
    if (probe.set != set) continue;
    const ReplayPass& replayed = *pass++;
    if (!probe.phase) continue;  // of a program that did not log the signals yet
    ++check.passes;
    comparison.word(probe.step, "the phase", *probe.phase, std::string(name_of(replayed.reading.phase)));
    comparison.number(probe.step, "excess_slope", probe.excess_slope, replayed.reading.relative_change);
    comparison.number(probe.step, "dominant_share", probe.dominant_share, replayed.reading.dominant_share);
    comparison.number(probe.step, "validation_loss_slope", probe.validation_loss_slope, replayed.validation_loss_slope);
  }
  return check;
}

}  // namespace sinkscope
