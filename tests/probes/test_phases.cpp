// Scripted series: what each phase takes, and that a restored detector goes on as if never stopped.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/probes/phases.h"
#include "tests/catch.h"

using namespace sinkscope;

namespace {

PhaseConfig small_config() {
  PhaseConfig config;
  config.window = 5;
  config.confirm = 3;
  return config;
}

struct Point {
  double excess = 0;
  std::optional<std::int64_t> layer;
  bool led_by_first = true;
};

PhaseInput point_input(const Point& point, std::size_t index) {
  PhaseInput input;
  input.step = 50 * (static_cast<std::int64_t>(index) + 1);
  input.tokens = input.step * 100;
  input.loss = 5.0 - 0.01 * static_cast<double>(index);
  const double other = point.led_by_first ? point.excess / 2 : point.excess * 2;
  input.sink_excess = {point.excess, other, 0.1};
  input.sink_rate = 0.25;
  input.step_up_layer = point.layer;
  if (point.layer) input.concentration = 0.5;
  return input;
}

/// "40:wandering>transition", probe indices from 0.
std::vector<std::string> play(PhaseDetector& detector, const std::vector<Point>& series, std::size_t from = 0) {
  std::vector<std::string> changes;
  for (std::size_t i = from; i < series.size(); ++i)
    if (const auto change = detector.update(point_input(series[i], i)).change)
      changes.push_back(std::to_string(i) + ":" + std::string(name_of(change->from)) + ">" +
                        std::string(name_of(change->to)));
  return changes;
}

std::vector<Point> repeat(std::size_t count, const Point& point) { return std::vector<Point>(count, point); }

std::vector<Point> operator+(std::vector<Point> a, const std::vector<Point>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Forms, moves its layer, settles, is lost, and forms again.
std::vector<Point> eventful() {
  std::vector<Point> rising;
  for (int i = 0; i < 8; ++i) rising.push_back({2.0 + 0.5 * i, 1, true});
  return repeat(6, {0.9, {}, true}) + rising + repeat(9, {6.0, 1, true}) + repeat(9, {6.0, 2, true}) +
         repeat(6, {1.0, {}, true}) + repeat(12, {5.0, 2, true});
}

}  // namespace

TEST_CASE("a sink that never forms stays wandering") {
  PhaseDetector detector(small_config());
  CHECK(play(detector, repeat(100, {1.99, 3, true})).empty());
  CHECK(play(detector, repeat(100, {std::nan(""), {}, true})).empty());
  CHECK(detector.phase() == Phase::wandering);
}

TEST_CASE("a sink at another position stays wandering") {
  PhaseDetector detector(small_config());
  CHECK(play(detector, repeat(100, {5.0, 1, false})).empty());
}

TEST_CASE("a sink forms through transition, and settles once the window is flat") {
  PhaseDetector detector(small_config());
  std::vector<Point> series = repeat(10, {1.0, {}, true});
  for (int i = 0; i < 10; ++i) series.push_back({2.0 + i, 0, true});
  series = series + repeat(10, {11.0, 0, true});
  // Transition holds from probe 10. The fit through 9, 10, 11, 11, 11 (probe 21) rises by 0.19 of its mean,
  // that through 10, 11, 11, 11, 11 (probe 22) by 0.07: stable holds from 22.
  CHECK(play(detector, series) ==
        std::vector<std::string>{"12:wandering>transition", "24:transition>stable"});
}

TEST_CASE("a stable sink leaves when its excess falls, and may come back") {
  PhaseDetector detector(small_config());
  const auto series = repeat(10, {5.0, 1, true}) + repeat(5, {1.0, 1, true}) + repeat(12, {5.0, 1, true});
  CHECK(play(detector, series) ==
        std::vector<std::string>{"2:wandering>transition", "6:transition>stable", "12:stable>wandering",
                                 "17:wandering>transition", "21:transition>stable"});
}

TEST_CASE("a step-up layer that moves within the window is a transition") {
  PhaseDetector detector(small_config());
  const auto series = repeat(10, {5.0, 1, true}) + repeat(10, {5.0, 2, true});
  CHECK(play(detector, series) == std::vector<std::string>{"2:wandering>transition", "6:transition>stable",
                                                           "12:stable>transition", "16:transition>stable"});
}

TEST_CASE("a flat sink without a step-up layer is never stable") {
  PhaseDetector detector(small_config());
  CHECK(play(detector, repeat(60, {5.0, {}, true})) == std::vector<std::string>{"2:wandering>transition"});
}

TEST_CASE("one probe in five led by another position is forgiven, two are not") {
  const auto with = [](std::size_t others) {
    PhaseDetector detector(small_config());
    play(detector, repeat(10, {5.0, 1, true}));
    std::vector<Point> series;
    for (int round = 0; round < 6; ++round)
      series = series + repeat(others, {5.0, 1, false}) + repeat(5 - others, {5.0, 1, true});
    play(detector, series);
    return detector.phase();
  };
  CHECK(with(1) == Phase::stable);
  CHECK(with(2) == Phase::wandering);
}

TEST_CASE("a phase that holds for fewer probes than are asked for is not entered") {
  PhaseDetector detector(small_config());
  CHECK(play(detector, repeat(3, {1.0, {}, true}) + repeat(2, {5.0, 1, true}) + repeat(3, {1.0, {}, true})).empty());
}

TEST_CASE("the relative change is that of the fitted line over the mean") {
  CHECK(relative_change(std::vector<double>{2, 2, 2}) == 0);
  CHECK(relative_change(std::vector<double>{9, 10, 11}) == Approx(0.2));
  CHECK(relative_change(std::vector<double>{11, 10, 9}) == Approx(-0.2));
  CHECK(relative_change(std::vector<double>{10, 12, 8, 12, 8, 10}) < 0);  // ends equal, the fit still falls
}

TEST_CASE("a change states the values that decided it") {
  PhaseDetector detector(small_config());
  std::optional<PhaseChange> change;
  for (std::size_t i = 0; i < 7; ++i) {
    PhaseInput input = point_input({4.0, 2, true}, i);
    input.learning_rate_fraction = 0.05;
    change = detector.update(input).change;
  }
  REQUIRE(change.has_value());
  CHECK(change->to == Phase::stable);
  CHECK(change->step == 350);
  CHECK(change->tokens == 35000);
  CHECK(change->excess == 4.0);
  CHECK(*change->relative_change == Approx(0.0).margin(1e-12));
  CHECK(change->dominant_share == 1.0);
  CHECK_FALSE(change->step_up_moved);
  CHECK(change->step_up_layer == 2);
  CHECK(change->learning_rate_low);
  const EventRecord event = phase_event(*change);
  CHECK(event.kind == "phase");
  CHECK(event.step == 350);
  const auto data = nlohmann::json::parse(event.data);
  CHECK(data.at("from") == "transition");
  CHECK(data.at("to") == "stable");
  CHECK(data.at("sink_excess") == 4.0);
  CHECK(data.at("step_up_layer") == 2);
  CHECK_FALSE(learning_rate_is_low(0.1));
  CHECK_FALSE(learning_rate_is_low(0.1 * (1 - 1e-12)));
  CHECK(learning_rate_is_low(0.0999));
}

TEST_CASE("every pass reads the phase, the slope and the share that position 0 leads") {
  PhaseDetector detector(small_config());
  for (std::size_t i = 0; i < 12; ++i) {
    INFO("pass " << i);
    const PhaseReading reading = detector.update(point_input({4.0 + 0.01 * static_cast<double>(i), 1, i != 1}, i));
    CHECK(reading.phase == detector.phase());
    CHECK(reading.relative_change.has_value() == (i >= 4));  // once the window of five is full
    const double middle = 4.0 + 0.01 * (static_cast<double>(i) - 2);  // mean excess of the window
    if (reading.relative_change) CHECK(*reading.relative_change == Approx(0.04 / middle));
    const double others = i >= 1 && i <= 5 ? 1.0 : 0.0;  // pass 1 is led by another position
    CHECK(reading.dominant_share == Approx(1 - others / std::min(static_cast<double>(i + 1), 5.0)));
  }
  CHECK(detector.phase() == Phase::stable);
}

TEST_CASE("the signals of a pass stand in its record") {
  PhaseReading reading;
  reading.phase = Phase::transition;
  reading.relative_change = -0.25;
  reading.dominant_share = 0.9;
  ProbeRecord record;
  add_signals(reading, std::vector<double>{4, 3.5}, record);
  CHECK(record.phase == "transition");
  CHECK(record.excess_slope == -0.25);
  CHECK(record.dominant_share == 0.9);
  CHECK_FALSE(record.validation_loss_slope);  // two losses are no slope
  add_signals(reading, std::vector<double>{11, 10, 9}, record);
  CHECK(*record.validation_loss_slope == Approx(-0.2));
}

TEST_CASE("a detector restored at any probe goes on identically") {
  const std::vector<Point> series = eventful();
  PhaseDetector whole(small_config());
  const std::vector<std::string> expected = play(whole, series);
  REQUIRE(expected.size() >= 6);
  for (std::size_t cut = 0; cut <= series.size(); ++cut) {
    INFO("cut at " << cut);
    PhaseDetector before(small_config()), after(small_config());
    std::vector<std::string> changes =
        play(before, std::vector<Point>(series.begin(), series.begin() + static_cast<std::ptrdiff_t>(cut)));
    after.restore(before.state());
    CHECK(after.state() == before.state());
    for (const std::string& change : play(after, series, cut)) changes.push_back(change);
    CHECK(changes == expected);
    CHECK(after.state() == whole.state());
  }
}

TEST_CASE("a state that is not one is refused and changes nothing") {
  PhaseDetector detector(small_config());
  play(detector, eventful());
  const std::string state = detector.state();
  for (const char* bad : {"", "[]", "{}", R"({"phase":"asleep","candidate":null,"held":0,"window":[]})",
                          R"({"phase":"stable","candidate":null,"held":"x","window":[]})",
                          R"({"phase":"stable","candidate":null,"held":0,"window":{}})",
                          R"({"phase":"stable","candidate":null,"held":0,"window":[{"excess":1}]})"}) {
    INFO(bad);
    CHECK_THROWS_AS(detector.restore(bad), std::runtime_error);
    CHECK(detector.state() == state);
  }
  PhaseConfig config;
  config.window = 1;
  CHECK_THROWS_WITH(PhaseDetector(config), "probes.phase.window must be at least 2");
  config = {};
  config.confirm = 0;
  CHECK_THROWS_WITH(PhaseDetector(config), "probes.phase.confirm must be at least 1");
}
