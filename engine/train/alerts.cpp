#include "engine/train/alerts.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "engine/metrics/json_lines.h"
#include "engine/train/format.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kNormalDeviation = 1.4826;     // standard deviation over median distance, of normal noise
constexpr double kLeastDeviation = 1.0 / 400;   // of the median
constexpr std::int64_t kCalmSteps = 10;
constexpr std::int64_t kSlowSteps = 10;
constexpr double kSlowSeconds = 5;
constexpr std::int64_t kWarmUpSteps = 10;

/// `state.at(key)` as a Value; throws naming the key.
template <class Value>
Value take(const Json& state, const char* key) {
  try {
    return state.at(key).get<Value>();
  } catch (const std::exception& error) {
    throw std::runtime_error("alert state, key \"" + std::string(key) + "\": " + error.what());
  }
}

}  // namespace

EventRecord alert_event(const Alert& alert) {
  Json data;
  data["name"] = alert.name;
  data["value"] = number_to_json(alert.value);
  data["threshold"] = alert.threshold ? number_to_json(*alert.threshold) : Json(nullptr);
  data.update(Json::parse(alert.details));
  return {.step = alert.step, .tokens = alert.tokens, .kind = "alert", .message = alert.message, .data = data.dump()};
}

RecentValues::RecentValues(std::int64_t size)
    : values_(static_cast<std::size_t>(size)), scratch_(static_cast<std::size_t>(size)) {}

void RecentValues::add(double value) {
  values_[next_] = value;
  next_ = (next_ + 1) % values_.size();
  count_ = std::min(count_ + 1, values_.size());
}

double RecentValues::median() {
  std::copy_n(values_.begin(), count_, scratch_.begin());
  return median_of_scratch();
}

double RecentValues::median_distance(double center) {
  for (std::size_t i = 0; i < count_; ++i) scratch_[i] = std::abs(values_[i] - center);
  return median_of_scratch();
}

double RecentValues::median_of_scratch() {
  const auto begin = scratch_.begin();
  const auto middle = begin + static_cast<std::ptrdiff_t>(count_ / 2);
  std::nth_element(begin, middle, begin + static_cast<std::ptrdiff_t>(count_));
  if (count_ % 2 == 1) return *middle;
  return (*std::max_element(begin, middle) + *middle) / 2;
}

std::vector<double> RecentValues::in_order() const {
  std::vector<double> values;
  const std::size_t first = next_ + values_.size() - count_;
  for (std::size_t i = 0; i < count_; ++i) values.push_back(values_[(first + i) % values_.size()]);
  return values;
}

LossSpikes::LossSpikes(std::int64_t window, double deviations) : deviations_(deviations), losses_(window) {}

std::optional<LossSpikes::Spike> LossSpikes::update(double loss) {
  std::optional<Spike> spike;
  if (losses_.enough()) {
    const double median = losses_.median();
    const double deviation =
        std::max(kNormalDeviation * losses_.median_distance(median), kLeastDeviation * std::abs(median));
    const double threshold = median + deviations_ * deviation;
    if (open_) {
      calm_ = loss <= median + deviations_ / 2 * deviation ? calm_ + 1 : 0;
      open_ = calm_ < kCalmSteps;
    } else if (loss > threshold) {
      open_ = true;
      calm_ = 0;
      spike = {.median = median, .deviation = deviation, .threshold = threshold};
    }
  }
  losses_.add(loss);
  return spike;
}

Json LossSpikes::state() const { return {{"losses", losses_.in_order()}, {"open", open_}, {"calm", calm_}}; }

void LossSpikes::restore(const Json& state) {
  // A state of a longer window (the config was changed) keeps its newest losses: the ring drops the others.
  for (const double loss : take<std::vector<double>>(state, "losses")) losses_.add(loss);
  open_ = take<bool>(state, "open");
  calm_ = take<std::int64_t>(state, "calm");
}

SinkCollapses::SinkCollapses(double share, double onset) : share_(share), onset_(onset) {}

std::optional<SinkCollapses::Collapse> SinkCollapses::update(double excess) {
  if (!std::isfinite(excess)) return std::nullopt;
  if (open_) {
    lowest_ = std::min(lowest_, excess);
    if (excess * share_ < lowest_) return std::nullopt;
    open_ = false;
    largest_ = excess;
    return std::nullopt;
  }
  largest_ = std::max(largest_, excess);
  const double threshold = share_ * largest_;
  if (largest_ < onset_ || excess >= threshold) return std::nullopt;
  open_ = true;
  lowest_ = excess;
  return Collapse{.largest = largest_, .threshold = threshold};
}

Json SinkCollapses::state() const { return {{"largest", largest_}, {"lowest", lowest_}, {"open", open_}}; }

void SinkCollapses::restore(const Json& state) {
  largest_ = take<double>(state, "largest");
  lowest_ = take<double>(state, "lowest");
  open_ = take<bool>(state, "open");
}

ThroughputDrops::ThroughputDrops(std::int64_t window, double share) : share_(share), rates_(window) {}

std::optional<ThroughputDrops::Drop> ThroughputDrops::update(double rate, double seconds) {
  if (steps_ < kWarmUpSteps) {
    ++steps_;
    return std::nullopt;
  }
  std::optional<Drop> drop;
  if (rates_.enough()) {
    const double median = rates_.median();
    const double threshold = share_ * median;
    const bool counts = open_ ? rate > (threshold + median) / 2 : rate < threshold;
    in_row_ = counts ? in_row_ + 1 : 0;
    tokens_ = counts ? tokens_ + rate * seconds : 0;
    seconds_ = counts ? seconds_ + seconds : 0;
    if (in_row_ >= kSlowSteps && seconds_ >= kSlowSeconds) {
      if (!open_) drop = {.steps = in_row_, .rate = tokens_ / seconds_, .median = median, .threshold = threshold};
      open_ = !open_;
      in_row_ = 0;
      tokens_ = seconds_ = 0;
    }
  }
  rates_.add(rate);
  return drop;
}

AlertDetector::AlertDetector(const Config& config)
    : config_(config.alerts),
      onset_(config.probes.phase.onset),
      losses_(config_.window, config_.loss_spike),
      sinks_(config_.sink_collapse, onset_),
      rates_(config_.window, config_.throughput_drop) {}

std::vector<Alert> AlertDetector::step(const StepRecord& record) {
  std::vector<Alert> alerts;
  const auto add = [&](const char* name, double value, double threshold, std::string message, const Json& details) {
    alerts.push_back({.step = record.step, .tokens = record.tokens, .name = name, .value = value,
                      .threshold = threshold, .message = std::move(message), .details = details.dump()});
  };
  if (config_.loss_spike > 0)
    if (const auto spike = losses_.update(record.loss))
      add("loss_spike", record.loss, spike->threshold,
          format("loss spike: %.4f, which is %.1f deviations of %.4f above the recent median %.4f", record.loss,
                 (record.loss - spike->median) / spike->deviation, spike->deviation, spike->median),
          {{"median", spike->median}, {"deviation", spike->deviation}});
  if (config_.throughput_drop > 0)
    if (const auto drop = rates_.update(record.tokens_per_second, record.step_seconds))
      add("throughput_drop", drop->rate, drop->threshold,
          format("throughput dropped: %.5g tokens/s in the last %lld steps, %.0f %% of the recent median %.5g",
                 drop->rate, static_cast<long long>(drop->steps), 100 * drop->rate / drop->median, drop->median),
          {{"median", drop->median}});
  return alerts;
}

std::vector<Alert> AlertDetector::probe(const PhaseInput& input, const std::optional<PhaseChange>& change) {
  std::vector<Alert> alerts;
  if (config_.sink_collapse > 0)
    if (const auto collapse = sinks_.update(input.sink_excess.front()))
      alerts.push_back({.step = input.step, .tokens = input.tokens, .name = "sink_collapse",
                        .value = input.sink_excess.front(), .threshold = collapse->threshold,
                        .message = format("sink collapse: the excess of position 0 is %.3g, after %.3g at its largest",
                                          input.sink_excess.front(), collapse->largest),
                        .details = Json{{"largest", collapse->largest}}.dump()});
  if (config_.phase_change && change)
    alerts.push_back({.step = change->step, .tokens = change->tokens, .name = "phase_change", .value = change->excess,
                      .threshold = onset_, .message = phase_event(*change).message,
                      .details = Json{{"from", name_of(change->from)}, {"to", name_of(change->to)}}.dump()});
  return alerts;
}

std::optional<Alert> AlertDetector::non_finite(std::int64_t step, std::int64_t tokens, double value,
                                               const std::string& message, const std::string& tensor) const {
  if (!config_.non_finite) return std::nullopt;
  return Alert{.step = step, .tokens = tokens, .name = "non_finite", .value = value, .threshold = std::nullopt,
               .message = message, .details = Json{{"tensor", tensor}}.dump()};
}

std::string AlertDetector::state() const { return Json{{"loss", losses_.state()}, {"sink", sinks_.state()}}.dump(); }

void AlertDetector::restore(const std::string& text) {
  Json state;
  try {
    state = Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw std::runtime_error(std::string("alert state is not JSON: ") + error.what());
  }
  LossSpikes losses(config_.window, config_.loss_spike);
  SinkCollapses sinks(config_.sink_collapse, onset_);
  losses.restore(take<Json>(state, "loss"));
  sinks.restore(take<Json>(state, "sink"));
  losses_ = std::move(losses);
  sinks_ = std::move(sinks);
}

}  // namespace sinkscope
