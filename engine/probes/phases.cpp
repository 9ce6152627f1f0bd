#include "engine/probes/phases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "engine/metrics/json_lines.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kOtherLeaderShare = 0.2;
constexpr double kLowLearningRate = 0.1;
constexpr std::size_t kLeastLosses = 3;  // that have a slope

// JSON has no NaN and no infinities: they travel as strings, as in the logs (number_to_json).
double number_from_json(const Json& json) {
  if (json == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (json == "Infinity") return std::numeric_limits<double>::infinity();
  if (json == "-Infinity") return -std::numeric_limits<double>::infinity();
  return json.get<double>();
}

template <class Value>
Json optional_to_json(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Phase phase_from_name(const std::string& name) {
  const auto found = std::find(kPhaseNames.begin(), kPhaseNames.end(), name);
  if (found == kPhaseNames.end()) throw std::runtime_error("\"" + name + "\" is no phase");
  return static_cast<Phase>(found - kPhaseNames.begin());
}

// `read(state.at(key))` with the key in every error.
template <class Read>
auto read_key(const Json& state, const char* key, Read read) {
  try {
    return read(state.at(key));
  } catch (const std::exception& error) {
    throw std::runtime_error("phase detector state, key \"" + std::string(key) + "\": " + error.what());
  }
}

}  // namespace

std::string_view name_of(Phase phase) { return kPhaseNames.at(static_cast<std::size_t>(phase)); }

bool learning_rate_is_low(double fraction_of_peak) {
  // A schedule that ends at exactly a tenth may land a rounding error below it.
  return fraction_of_peak < kLowLearningRate * (1 - 1e-9);
}

PhaseInput phase_input(const ProbeRecord& record, double loss, double learning_rate_fraction) {
  PhaseInput input;
  input.step = record.step;
  input.tokens = record.tokens;
  input.loss = loss;
  for (const double excess : record.sink_excess) input.sink_excess.push_back(as_logged(excess));
  input.sink_rate = record.sink_rate.empty() ? 0.0 : as_logged(record.sink_rate.front());
  input.step_up_layer = record.step_up_layer;
  input.concentration = record.concentration;
  input.learning_rate_fraction = learning_rate_fraction;
  return input;
}

EventRecord phase_event(const PhaseChange& change) {
  EventRecord event;
  event.step = change.step;
  event.tokens = change.tokens;
  event.kind = "phase";
  event.message = "sink phase: " + std::string(name_of(change.from)) + " -> " + std::string(name_of(change.to));
  Json data;
  data["from"] = name_of(change.from);
  data["to"] = name_of(change.to);
  data["loss"] = number_to_json(change.loss);
  data["sink_excess"] = number_to_json(change.excess);
  data["relative_change"] = change.relative_change ? number_to_json(*change.relative_change) : Json(nullptr);
  data["dominant_share"] = change.dominant_share;
  data["step_up_moved"] = change.step_up_moved;
  data["sink_rate"] = number_to_json(change.sink_rate);
  data["step_up_layer"] = optional_to_json(change.step_up_layer);
  data["concentration"] = optional_to_json(change.concentration);
  data["learning_rate_low"] = change.learning_rate_low;
  event.data = data.dump();
  return event;
}

void add_signals(const PhaseReading& reading, std::span<const double> validation_losses, ProbeRecord& record) {
  record.phase = std::string(name_of(reading.phase));
  record.excess_slope = reading.relative_change;
  record.dominant_share = reading.dominant_share;
  if (validation_losses.size() >= kLeastLosses) record.validation_loss_slope = relative_change(validation_losses);
}

double relative_change(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double covariance = 0;
  double variance = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double x = static_cast<double>(i) - (n - 1) / 2;
    covariance += x * (values[i] - mean);
    variance += x * x;
  }
  return covariance / variance * (n - 1) / mean;
}

PhaseDetector::PhaseDetector(const PhaseConfig& config) : config_(config) {
  if (config.window < 2) throw std::invalid_argument("probes.phase.window must be at least 2");
  if (config.confirm < 1) throw std::invalid_argument("probes.phase.confirm must be at least 1");
}

PhaseReading PhaseDetector::update(const PhaseInput& input) {
  if (input.sink_excess.empty()) throw std::invalid_argument("PhaseDetector::update: sink_excess is empty");
  const double excess = input.sink_excess.front();
  window_.push_back({excess, dominant_position(input.sink_excess) == 0, input.step_up_layer});
  if (static_cast<std::int64_t>(window_.size()) > config_.window) window_.pop_front();

  const auto passes = static_cast<std::int64_t>(window_.size());
  const auto led = std::count_if(window_.begin(), window_.end(), [](const Probe& probe) { return probe.led_by_first; });
  const bool moved = std::any_of(window_.begin(), window_.end(), [&](const Probe& probe) {
    return probe.step_up_layer != window_.front().step_up_layer;
  });
  std::optional<double> change;
  if (full()) {
    std::vector<double> series;
    for (const Probe& probe : window_) series.push_back(probe.excess);
    change = relative_change(series);
  }

  std::optional<Phase> holds;
  const bool other_leads = static_cast<double>(passes - led) > kOtherLeaderShare * static_cast<double>(passes);
  if (!(excess >= config_.onset) || other_leads)
    holds = Phase::wandering;
  else if (!change || !(std::abs(*change) <= config_.plateau) || moved)
    holds = Phase::transition;
  else if (input.step_up_layer)
    holds = Phase::stable;

  held_ = holds == candidate_ ? std::min(held_ + 1, config_.confirm) : 1;
  candidate_ = holds;
  PhaseReading reading;
  reading.phase = phase_;
  reading.relative_change = change;
  reading.dominant_share = static_cast<double>(led) / static_cast<double>(passes);
  if (!holds || *holds == phase_ || held_ < config_.confirm) return reading;

  PhaseChange& event = reading.change.emplace();
  event.from = phase_;
  event.to = *holds;
  event.step = input.step;
  event.tokens = input.tokens;
  event.loss = input.loss;
  event.excess = excess;
  event.relative_change = change;
  event.dominant_share = reading.dominant_share;
  event.step_up_moved = moved;
  event.sink_rate = input.sink_rate;
  event.step_up_layer = input.step_up_layer;
  event.concentration = input.concentration;
  event.learning_rate_low = learning_rate_is_low(input.learning_rate_fraction);
  phase_ = reading.phase = *holds;
  return reading;
}

std::string PhaseDetector::state() const {
  Json state;
  state["phase"] = name_of(phase_);
  state["candidate"] = candidate_ ? Json(name_of(*candidate_)) : Json(nullptr);
  state["held"] = held_;
  Json window = Json::array();
  for (const Probe& probe : window_)
    window.push_back({{"excess", number_to_json(probe.excess)},
                      {"led_by_first", probe.led_by_first},
                      {"step_up_layer", optional_to_json(probe.step_up_layer)}});
  state["window"] = std::move(window);
  return state.dump();
}

void PhaseDetector::restore(const std::string& text) {
  Json state;
  try {
    state = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw std::runtime_error(std::string("phase detector state is not JSON: ") + error.what());
  }
  PhaseDetector restored(config_);
  restored.phase_ = read_key(state, "phase", [](const Json& json) { return phase_from_name(json.get<std::string>()); });
  restored.candidate_ = read_key(state, "candidate", [](const Json& json) -> std::optional<Phase> {
    if (json.is_null()) return std::nullopt;
    return phase_from_name(json.get<std::string>());
  });
  restored.held_ = read_key(state, "held", [](const Json& json) { return json.get<std::int64_t>(); });
  restored.window_ = read_key(state, "window", [](const Json& json) {
    if (!json.is_array()) throw std::runtime_error("expected an array");
    std::deque<Probe> window;
    for (const Json& entry : json) {
      Probe probe;
      probe.excess = number_from_json(entry.at("excess"));
      probe.led_by_first = entry.at("led_by_first").get<bool>();
      if (!entry.at("step_up_layer").is_null()) probe.step_up_layer = entry.at("step_up_layer").get<std::int64_t>();
      window.push_back(probe);
    }
    return window;
  });
  // A state of a longer window (the config was changed) keeps its newest passes.
  while (static_cast<std::int64_t>(restored.window_.size()) > config_.window) restored.window_.pop_front();
  *this = std::move(restored);
}

}  // namespace sinkscope
