// The definitions of alerts, by hand-made series, and what must hold for random ones.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "engine/train/alerts.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;
using Series = std::vector<double>;

constexpr std::int64_t kSeeds = 20;

/// `length` values of `curve`, each with normal noise of `deviation`.
Series noisy(std::int64_t seed, std::size_t length, double deviation, const std::function<double(double)>& curve) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(seed));
  std::normal_distribution<double> noise(0, deviation);
  Series series;
  for (std::size_t i = 0; i < length; ++i) series.push_back(curve(static_cast<double>(i)) + noise(generator));
  return series;
}

/// As the loss of a pretraining falls: from 10.8 towards 3.
double falling(double step) { return 3 + 7.8 / (1 + step / 40); }

/// Where a fresh detector alerts, and after how many values.
template <class Detector>
std::vector<std::size_t> places(Detector detector, const Series& series) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < series.size(); ++i)
    if (detector.update(series[i])) found.push_back(i);
  return found;
}

LossSpikes default_spikes() { return {AlertConfig{}.window, AlertConfig{}.loss_spike}; }
SinkCollapses default_collapses() { return {AlertConfig{}.sink_collapse, PhaseConfig{}.onset}; }
/// Of steps that all take as long.
struct Drops {
  std::optional<ThroughputDrops::Drop> update(double rate) { return drops.update(rate, seconds); }
  ThroughputDrops drops{AlertConfig{}.window, AlertConfig{}.throughput_drop};
  double seconds = 1;
};

TEST_CASE("the threshold of a loss spike is that of its definition") {
  LossSpikes spikes(4, 2);
  for (const double loss : {4.0, 3.0, 2.0, 1.0}) CHECK(!spikes.update(loss));
  // Median 2.5, distances 1.5 0.5 1.5 0.5, so 2.5 + 2 * 1.4826.
  LossSpikes below = spikes;
  CHECK(!below.update(5.465));
  const auto spike = spikes.update(5.466);
  REQUIRE(spike);
  CHECK(spike->median == 2.5);
  CHECK(spike->deviation == Approx(1.4826));
  CHECK(spike->threshold == Approx(5.4652));

  LossSpikes constant(4, 8);  // of which the least deviation is a four-hundredth of the median
  for (int i = 0; i < 4; ++i) CHECK(!constant.update(4.0));
  LossSpikes under = constant;
  CHECK(!under.update(4.079));
  CHECK(constant.update(4.081));
}

TEST_CASE("no loss is a spike before half of the window is there") {
  for (const std::int64_t window : {4, 7, 100}) {
    const auto half = static_cast<std::size_t>((window + 1) / 2);
    for (std::size_t before = 0; before <= half; ++before) {
      Series series(before, 3.0);
      series.push_back(30.0);
      INFO(window << ", " << before);
      CHECK(places(LossSpikes(window, 8), series).size() == (before == half ? 1 : 0));
    }
  }
}

TEST_CASE("noise is no loss spike at the defaults, whatever its size, nor is a loss that falls") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed)
    for (const double deviation : {0.0, 0.003, 0.05, 0.3}) {
      INFO(seed << ", " << deviation);
      CHECK(places(default_spikes(), noisy(seed, 3000, deviation, [](double) { return 3.0; })).empty());
      CHECK(places(default_spikes(), noisy(seed, 3000, deviation, falling)).empty());
    }
}

TEST_CASE("a slow drift upwards is no loss spike, nor is a steep one that does not bend") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed)
    for (const double slope : {1e-4, 1e-3, 0.03, 1.0})
      for (const double deviation : {0.0, 0.05}) {
        INFO(seed << ", " << slope << ", " << deviation);
        CHECK(places(default_spikes(), noisy(seed, 1000, deviation, [&](double step) { return 3 + slope * step; }))
                  .empty());
      }
}

TEST_CASE("a spike gives one alert, at its first step, and a second after a recovery another") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed)
    for (const double height : {0.8, 1.0, 5.0})         // 16 deviations and more
      for (const double fading : {0.01, 3.0, 20.0, 60.0}) {  // steps in which it falls to 1/e
        const std::size_t first = 300 + static_cast<std::size_t>(seed) * 7, second = first + 400;
        Series series = noisy(seed, 1200, 0.05, [&](double step) { return height < 5 ? 3.0 : falling(step); });
        const auto add = [&](std::size_t from) {
          for (std::size_t i = from; i < series.size(); ++i)
            series[i] += height * std::exp(-static_cast<double>(i - from) / fading);
        };
        INFO(seed << ", " << height << ", " << fading);
        add(first);
        const auto one = places(default_spikes(), series);
        CHECK(one == std::vector<std::size_t>{first});
        add(second);
        CHECK(places(default_spikes(), series) == std::vector<std::size_t>{first, second});
      }
}

TEST_CASE("a spike is over after ten calm steps in a row, and not before") {
  const auto series = [](std::size_t calm, double between) {
    Series losses(60, 3.0);
    losses.push_back(4.0);
    losses.insert(losses.end(), calm, between);
    losses.push_back(4.0);
    return losses;
  };
  CHECK(places(default_spikes(), series(9, 3.0)).size() == 1);
  CHECK(places(default_spikes(), series(10, 3.0)).size() == 2);
  // Calm is half of the threshold, 3 + 8 * 3 / 400, or less.
  CHECK(places(default_spikes(), series(10, 3.029)).size() == 2);
  CHECK(places(default_spikes(), series(10, 3.031)).size() == 1);
}

TEST_CASE("a loss that jumps and stays gives one alert, and spikes from its new level are seen") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed) {
    Series series = noisy(seed, 800, 0.05, [](double step) { return step < 200 ? 3.0 : 6.0; });
    INFO(seed);
    CHECK(places(default_spikes(), series) == std::vector<std::size_t>{200});
    series[600] += 2;
    CHECK(places(default_spikes(), series) == std::vector<std::size_t>{200, 600});
  }
}

TEST_CASE("a sink that goes gives one alert, and the next only after it was back") {
  const auto at = [](const Series& series) { return places(default_collapses(), series); };
  CHECK(at({1, 2, 4, 8, 4.01, 3.99}) == std::vector<std::size_t>{5});
  CHECK(at({1, 1.99, 0.5}).empty());                     // was never there
  CHECK(at({2, 0.99}) == std::vector<std::size_t>{1});
  CHECK(at({14, 6.5, 3, 0.5, 0.2, 0.4, 0.3}) == std::vector<std::size_t>{1});    // goes on going
  CHECK(at({14, 6.5, 7.5, 6.4, 7.2, 6.3}) == std::vector<std::size_t>{1});       // about the threshold
  CHECK(at({14, 6.5, 0.5, 1.9, 0.1, 1.9, 0.1}) == std::vector<std::size_t>{1});  // not back at the onset
  CHECK(at({14, 6.5, 12.9, 6.0}) == std::vector<std::size_t>{1});                // not twice its lowest
  CHECK(at({14, 6.5, 13.0, 6.4}) == std::vector<std::size_t>{1, 3});
  CHECK(at({14, 0.5, 2, 6, 2.9}) == std::vector<std::size_t>{1, 4});             // another sink
  CHECK(at({14, 6.5, 0.5, 2, 6, 2.9}) == std::vector<std::size_t>{1, 5});        // after the first went on going
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(at({8, nan, 5, nan, 3}) == std::vector<std::size_t>{4});
  SinkCollapses collapses = default_collapses();
  collapses.update(8);
  const auto collapse = collapses.update(3);
  REQUIRE(collapse);
  CHECK(collapse->largest == 8);
  CHECK(collapse->threshold == 4);
}

TEST_CASE("a sink that forms and wavers has not collapsed") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed) {
    Series series = noisy(seed, 2000, 0.05, [](double pass) { return 1 + 9 / (1 + std::exp((100 - pass) / 15)); });
    for (std::size_t i = 0; i < series.size(); ++i) series[i] *= 1 + 0.25 * std::sin(static_cast<double>(i) / 9);
    INFO(seed);
    CHECK(places(default_collapses(), series).empty());
    for (std::size_t i = 1000; i < series.size(); ++i) series[i] *= 0.2;
    CHECK(places(default_collapses(), series).size() == 1);
  }
}

/// Tokens per second whose logarithm is normal about `rate`.
Series rates(std::int64_t seed, std::size_t length, const std::function<double(std::size_t)>& rate) {
  Series series = noisy(seed, length, 0.1, [](double) { return 0; });
  for (std::size_t i = 0; i < series.size(); ++i) series[i] = rate(i) * std::exp(series[i]);
  return series;
}

TEST_CASE("the throughput drops after ten slow steps in a row") {
  const auto series = [](std::size_t slow, double rate) {
    Series values(200, 1000.0);
    values.insert(values.end(), slow, rate);
    values.insert(values.end(), 60, 1000.0);
    return values;
  };
  CHECK(places(Drops{}, series(9, 100)).empty());
  CHECK(places(Drops{}, series(10, 499)) == std::vector<std::size_t>{209});
  CHECK(places(Drops{}, series(40, 501)).empty());
  // Ten steps and five seconds.
  const auto place_of = [&](double seconds) { return places(Drops{.seconds = seconds}, series(40, 100)); };
  CHECK(place_of(0.5) == std::vector<std::size_t>{209});
  CHECK(place_of(0.25) == std::vector<std::size_t>{219});
  CHECK(place_of(0.124).empty());
  ThroughputDrops drops(100, 0.5);
  for (int i = 0; i < 200; ++i) CHECK(!drops.update(1000, 0.1));
  for (int i = 0; i < 5; ++i) CHECK(!drops.update(100, 1));
  for (int i = 0; i < 4; ++i) CHECK(!drops.update(400, 0.25));
  const auto drop = drops.update(400, 0.25);
  REQUIRE(drop);
  CHECK(drop->steps == 10);
  CHECK(drop->rate == Approx(160));  // a thousand tokens in 6.25 seconds
  CHECK(drop->median == 1000);
  CHECK(drop->threshold == 500);
}

TEST_CASE("neither noise, single slow steps nor the first steps are a drop of the throughput") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed) {
    INFO(seed);
    CHECK(places(Drops{}, rates(seed, 3000, [](std::size_t) { return 1e6; })).empty());
    // As passes and checkpoints would show if a step were charged with them.
    CHECK(places(Drops{}, rates(seed, 3000, [](std::size_t i) { return i % 5 == 0 ? 1e4 : 1e6; })).empty());
    CHECK(places(Drops{}, rates(seed, 3000, [](std::size_t i) { return i < 10 ? 1e9 : 1e6; })).empty());
  }
}

TEST_CASE("a drop of the throughput gives one alert, and the next one another") {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed) {
    INFO(seed);
    const auto slow = [](std::size_t i) { return (i >= 300 && i < 340) || (i >= 700 && i < 730); };
    CHECK(places(Drops{}, rates(seed, 1000, [&](std::size_t i) { return slow(i) ? 3e5 : 1e6; })).size() == 2);
    CHECK(places(Drops{}, rates(seed, 1000, [](std::size_t i) { return i < 300 ? 1e6 : 3e5; })).size() == 1);
    // Half-way back is not back.
    CHECK(places(Drops{}, rates(seed, 340, [](std::size_t i) {
            return i < 300 ? 1e6 : i < 315 ? 3e5 : i < 325 ? 6e5 : 3e5;
          })).size() == 1);
  }
}

StepRecord step_of(std::int64_t step, double loss, double rate = 1000) {
  StepRecord record;
  record.step = step;
  record.tokens = 64 * step;
  record.loss = loss;
  record.tokens_per_second = rate;
  record.step_seconds = 1;
  return record;
}

PhaseInput pass_of(std::int64_t step, double excess) {
  PhaseInput input;
  input.step = step;
  input.tokens = 64 * step;
  input.sink_excess = {excess, 1.0};
  return input;
}

PhaseChange change_at(std::int64_t step) {
  PhaseChange change;
  change.to = Phase::transition;
  change.step = step;
  change.tokens = 64 * step;
  change.excess = 2.5;
  return change;
}

/// Every alert of a run with a spike, a collapse, a change of phase and a drop, by name and step.
std::vector<std::string> told(AlertDetector detector) {
  std::vector<std::string> names;
  const auto add = [&](const std::vector<Alert>& alerts) {
    for (const Alert& alert : alerts) names.push_back(alert.name + " " + std::to_string(alert.step));
  };
  for (std::int64_t step = 1; step <= 200; ++step) {
    add(detector.step(step_of(step, step == 150 ? 5.0 : 3.0, step > 170 ? 100 : 1000)));
    if (step % 10 != 0) continue;
    const bool changes = step == 100;
    add(detector.probe(pass_of(step, step < 160 ? 4.0 : 1.0), changes ? std::optional(change_at(step)) : std::nullopt));
  }
  if (const auto stop = detector.non_finite(200, 1, 0, "it stops", "t")) add({*stop});
  return names;
}

TEST_CASE("every alert is told by name, and each can be off") {
  const std::vector<std::string> all = {"phase_change 100", "loss_spike 150", "sink_collapse 160",
                                        "throughput_drop 180", "non_finite 200"};
  CHECK(told(AlertDetector(Config{})) == all);
  const std::vector<std::function<void(AlertConfig&)>> off = {
      [](AlertConfig& c) { c.phase_change = false; }, [](AlertConfig& c) { c.loss_spike = 0; },
      [](AlertConfig& c) { c.sink_collapse = 0; },    [](AlertConfig& c) { c.throughput_drop = 0; },
      [](AlertConfig& c) { c.non_finite = false; }};
  for (std::size_t i = 0; i < off.size(); ++i) {
    Config config;
    off[i](config.alerts);
    std::vector<std::string> rest = all;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK(told(AlertDetector(config)) == rest);
  }
}

TEST_CASE("an alert's event holds its name, value and threshold, and says them in words") {
  AlertDetector detector{Config{}};
  for (std::int64_t step = 1; step <= 100; ++step)
    REQUIRE(detector.step(step_of(step, step % 2 == 0 ? 2.9 : 3.1)).empty());
  const auto spikes = detector.step(step_of(101, 5.25));
  REQUIRE(spikes.size() == 1);
  const EventRecord event = alert_event(spikes[0]);
  CHECK(event.kind == "alert");
  CHECK(event.step == 101);
  CHECK(event.tokens == 6464);
  CHECK(event.message == "loss spike: 5.2500, which is 15.2 deviations of 0.1483 above the recent median 3.0000");
  const Json data = Json::parse(event.data);
  CHECK(data.at("name") == "loss_spike");
  CHECK(data.at("value") == 5.25);
  CHECK(data.at("threshold").get<double>() == Approx(3.0 + 8 * 0.14826));
  CHECK(data.at("median").get<double>() == Approx(3.0));
  CHECK(data.at("deviation").get<double>() == Approx(0.14826));

  CHECK(detector.probe(pass_of(110, 8), std::nullopt).empty());
  const auto both = detector.probe(pass_of(120, 3.5), change_at(120));
  REQUIRE(both.size() == 2);
  CHECK(both[0].message == "sink collapse: the excess of position 0 is 3.5, after 8 at its largest");
  CHECK(both[0].threshold == 4.0);
  CHECK(both[1].message == "sink phase: wandering -> transition");
  CHECK(Json::parse(alert_event(both[1]).data) ==
        Json::parse(
            R"({"name": "phase_change", "value": 2.5, "threshold": 2.0, "from": "wandering", "to": "transition"})"));

  const auto stop = detector.non_finite(7, 8, std::numeric_limits<double>::quiet_NaN(), "stops", "head.weight");
  REQUIRE(stop);
  CHECK(Json::parse(alert_event(*stop).data) ==
        Json::parse(R"({"name": "non_finite", "value": "NaN", "threshold": null, "tensor": "head.weight"})"));
}

TEST_CASE("a detector restored at any step alerts as one that was never stopped") {
  Config config;
  config.alerts.window = 20;
  config.alerts.throughput_drop = 0;  // begins anew
  config.alerts.loss_spike = 2;       // so that noise makes many
  config.alerts.sink_collapse = 0.9;
  config.probes.phase.onset = 0.5;
  const Series losses = noisy(3, 300, 0.05, [](double) { return 3.0; }),
               excess = noisy(4, 300, 0.3, [](double) { return 2.0; });
  const auto run = [&](AlertDetector& detector, std::size_t from, std::size_t to) {
    std::vector<std::string> lines;
    for (std::size_t i = from; i < to; ++i) {
      for (const Alert& alert : detector.step(step_of(static_cast<std::int64_t>(i), losses[i])))
        lines.push_back(alert_event(alert).data);
      for (const Alert& alert : detector.probe(pass_of(static_cast<std::int64_t>(i), excess[i]), std::nullopt))
        lines.push_back(alert_event(alert).data);
    }
    return lines;
  };
  AlertDetector whole(config);
  const auto expected = run(whole, 0, losses.size());
  CHECK(std::count_if(expected.begin(), expected.end(), [](const auto& l) { return test::contains(l, "loss_spike"); }) >
        2);
  CHECK(std::count_if(expected.begin(), expected.end(), [](const auto& l) { return test::contains(l, "sink_coll"); }) >
        3);
  for (std::size_t stop = 0; stop < losses.size(); ++stop) {
    AlertDetector first(config), second(config);
    auto lines = run(first, 0, stop);
    second.restore(first.state());
    const auto rest = run(second, stop, losses.size());
    lines.insert(lines.end(), rest.begin(), rest.end());
    INFO(stop);
    REQUIRE(lines == expected);
    REQUIRE(second.state() == whole.state());
  }
}

TEST_CASE("a state of a longer window keeps its newest losses") {
  Config config;
  config.alerts.window = 8;
  AlertDetector longer(config);
  for (std::int64_t step = 1; step <= 11; ++step) longer.step(step_of(step, static_cast<double>(step)));
  config.alerts.window = 4;
  AlertDetector shorter(config);
  shorter.restore(longer.state());
  CHECK(Json::parse(shorter.state()).at("loss").at("losses") == Json::parse("[8.0, 9.0, 10.0, 11.0]"));
}

TEST_CASE("a malformed alert state names the key and changes nothing") {
  AlertDetector detector{Config{}};
  detector.step(step_of(1, 2.5));
  const std::string before = detector.state();
  CHECK(test::contains(test::message_of([&] { detector.restore("{"); }), "alert state is not JSON"));
  for (const char* key : {"losses", "open", "calm"}) {
    Json state = Json::parse(before);
    state["loss"].erase(key);
    CHECK(test::contains(test::message_of([&] { detector.restore(state.dump()); }),
                         "alert state, key \"" + std::string(key) + "\""));
  }
  Json state = Json::parse(before);
  state["sink"]["largest"] = "x";
  CHECK(test::contains(test::message_of([&] { detector.restore(state.dump()); }), "key \"largest\""));
  CHECK(detector.state() == before);
}

}  // namespace
}  // namespace sinkscope
