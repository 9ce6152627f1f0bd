// Properties of the phase detector over many made-up runs and thresholds: what must hold whatever the numbers are.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/model/random.h"
#include "engine/probes/phases.h"
#include "tests/catch.h"

using namespace sinkscope;

namespace {

constexpr std::uint64_t kSeeds = 300;

/// Uniform numbers that depend on the seed alone.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : key_(random_key(seed, "phases")) {}
  /// In [low, high).
  double between(double low, double high) { return low + (high - low) * random_uniform(key_, next_++); }
  /// In low..high.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(between(0, static_cast<double>(high - low + 1)));
  }

 private:
  std::uint64_t key_;
  std::uint64_t next_ = 0;
};

PhaseConfig random_thresholds(Dice& dice) {
  return {.onset = dice.between(1.5, 3),
          .plateau = dice.between(0.05, 0.2),
          .window = dice.integer(2, 12),
          .confirm = dice.integer(1, 5)};
}

struct Pass {
  double excess = 0;
  double other = 0;  // excess of position 1
  std::optional<std::int64_t> layer;
};

/// `passes` of a sink of this excess, led by position 0.
std::vector<Pass> flat(std::int64_t passes, double excess, std::optional<std::int64_t> layer = 1) {
  return std::vector<Pass>(static_cast<std::size_t>(passes), {excess, excess / 2, layer});
}

std::vector<Pass> operator+(std::vector<Pass> a, const std::vector<Pass>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

PhaseInput input_of(const Pass& pass, std::size_t index) {
  PhaseInput input;
  input.step = static_cast<std::int64_t>(index);
  input.tokens = 1000 * input.step;
  input.sink_excess = {pass.excess, pass.other};
  input.step_up_layer = pass.layer;
  return input;
}

struct Change {
  std::int64_t at = 0;  // pass
  Phase to = Phase::wandering;
  bool operator==(const Change&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Change& change) {
  return out << change.at << ":" << name_of(change.to);
}

std::vector<Change> changes_of(const PhaseConfig& config, const std::vector<Pass>& series) {
  PhaseDetector detector(config);
  std::vector<Change> changes;
  for (std::size_t i = 0; i < series.size(); ++i)
    if (const auto change = detector.update(input_of(series[i], i)).change)
      changes.push_back({static_cast<std::int64_t>(i), change->to});
  return changes;
}

/// The phase that holds at pass `last`, read off METRICS section 4 word by word; nothing where no line of it applies.
std::optional<Phase> holding(const PhaseConfig& config, const std::vector<Pass>& series, std::size_t last) {
  const auto window = static_cast<std::size_t>(config.window);
  const std::size_t first = last + 1 < window ? 0 : last + 1 - window;
  const bool full = last + 1 >= window;
  double others = 0, mean = 0, top = 0, bottom = 0;
  bool moved = false;
  const auto count = static_cast<double>(last + 1 - first);
  for (std::size_t i = first; i <= last; ++i) {
    const bool led = !std::isnan(series[i].excess) && !(series[i].other > series[i].excess);
    others += led ? 0 : 1;
    mean += series[i].excess / count;
    for (std::size_t j = first; j < i; ++j) moved = moved || series[i].layer != series[j].layer;
  }
  for (std::size_t i = first; i <= last; ++i) {
    const double x = static_cast<double>(i - first) - (count - 1) / 2;
    top += x * series[i].excess;
    bottom += x * x;
  }
  const double change = top / bottom * (count - 1) / mean;
  if (!(series[last].excess >= config.onset) || others / count > 0.2) return Phase::wandering;
  if (!full || !(std::abs(change) <= config.plateau) || moved) return Phase::transition;
  if (series[last].layer) return Phase::stable;
  return std::nullopt;
}

/// Noise around levels that jump now and then to either side of the onset, leaders and layers that come and go, and a
/// value that is no number now and then.
std::vector<Pass> wild(Dice& dice, const PhaseConfig& config) {
  std::vector<Pass> series;
  double level = 1;
  std::optional<std::int64_t> layer;
  bool led = true;
  for (int i = 0; i < 150; ++i) {
    if (dice.between(0, 1) < 0.08) level = config.onset * dice.between(0.5, 3);
    if (dice.between(0, 1) < 0.05) layer = dice.integer(0, 2);
    if (dice.between(0, 1) < 0.02) layer.reset();
    if (dice.between(0, 1) < 0.1) led = dice.between(0, 1) < 0.8;
    const double noise = dice.between(0, 1) < 0.5 ? 0.01 : 0.1;
    Pass pass{level * dice.between(1 - noise, 1 + noise), 0, layer};
    pass.other = pass.excess * (led ? 0.5 : 1.5);
    if (dice.between(0, 1) < 0.01) pass.excess = std::numeric_limits<double>::quiet_NaN();
    series.push_back(pass);
  }
  return series;
}

}  // namespace

TEST_CASE("a phase is entered when it has held for as many passes in a row as are asked for, and never else") {
  std::int64_t changes = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const std::vector<Pass> series = wild(dice, config);
    PhaseDetector detector(config);
    Phase before = Phase::wandering;
    std::int64_t held = 0;
    std::optional<Phase> candidate;
    for (std::size_t i = 0; i < series.size(); ++i) {
      INFO("pass " << i);
      const std::optional<Phase> holds = holding(config, series, i);
      held = i > 0 && holds == candidate ? held + 1 : 1;
      candidate = holds;
      const bool entered = holds && *holds != before && held >= config.confirm;
      const PhaseReading reading = detector.update(input_of(series[i], i));
      REQUIRE(reading.change.has_value() == entered);
      if (entered) {
        REQUIRE(reading.change->from == before);
        REQUIRE(reading.change->to == *holds);
        before = *holds;
        ++changes;
      }
      REQUIRE(reading.phase == before);
      REQUIRE(detector.phase() == before);
      REQUIRE(reading.relative_change.has_value() == (static_cast<std::int64_t>(i) + 1 >= config.window));
    }
  }
  CHECK(changes > 5 * static_cast<std::int64_t>(kSeeds));  // the runs were eventful
}

TEST_CASE("nothing but wandering is entered below the onset or under another lead") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const std::vector<Pass> series = wild(dice, config);
    for (const Change& change : changes_of(config, series)) {
      if (change.to == Phase::wandering) continue;
      for (std::int64_t i = change.at - config.confirm + 1; i <= change.at; ++i)
        REQUIRE(series[static_cast<std::size_t>(i)].excess >= config.onset);
    }
    std::vector<Pass> under = series, led = series;
    for (Pass& pass : under) pass.excess = std::min(pass.excess, config.onset * (1 - 1e-12));
    REQUIRE(changes_of(config, under).empty());
    for (Pass& pass : led) pass.other = 2 * std::max(pass.excess, 1.0);
    REQUIRE(changes_of(config, led).empty());
  }
}

TEST_CASE("a detector saved and restored at every pass reads and decides as one that never was") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const std::vector<Pass> series = wild(dice, config);
    PhaseDetector whole(config);
    std::string state = whole.state();
    for (std::size_t i = 0; i < series.size(); ++i) {
      INFO("pass " << i);
      PhaseDetector restored(config);
      restored.restore(state);
      const PhaseReading a = whole.update(input_of(series[i], i)), b = restored.update(input_of(series[i], i));
      state = restored.state();
      REQUIRE(state == whole.state());
      REQUIRE(a.phase == b.phase);
      REQUIRE(a.dominant_share == b.dominant_share);
      REQUIRE(a.change.has_value() == b.change.has_value());
      if (a.change) REQUIRE(phase_event(*a.change).data == phase_event(*b.change).data);
      REQUIRE(a.relative_change.has_value() == b.relative_change.has_value());
      if (a.relative_change) REQUIRE((*a.relative_change == *b.relative_change || std::isnan(*a.relative_change)));
    }
  }
}

TEST_CASE("noise within the plateau never makes a phase flap") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    // Noise e of at most a moves a fit over any window by at most 3 a over the mean, which is at least 1 - a.
    const double noise = config.plateau / 4;
    const double level = config.onset * dice.between(1.1, 4);
    std::vector<Pass> above = flat(200, level);
    for (Pass& pass : above) pass.excess *= dice.between(1 - noise, 1 + noise);
    // Until the window is full a sink is in transition, which is entered where that lasts long enough.
    std::vector<Change> expected;
    if (config.confirm < config.window) expected.push_back({config.confirm - 1, Phase::transition});
    expected.push_back({config.window - 1 + config.confirm - 1, Phase::stable});
    REQUIRE(changes_of(config, above) == expected);

    std::vector<Pass> below = flat(200, config.onset * 0.9);
    for (Pass& pass : below) pass.excess *= dice.between(1 - noise, 1 + noise);
    REQUIRE(changes_of(config, below).empty());
  }
}

TEST_CASE("a late sink is in transition from its onset on, and stable a window after it is flat") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const std::int64_t onset = dice.integer(0, 60), rise = dice.integer(config.confirm, 30);
    std::vector<Pass> series = flat(onset, config.onset * dice.between(0.3, 0.99), std::nullopt);
    double excess = config.onset;
    // Two passes of it alone differ by 2 p / (1 + p) of their mean, more than the plateau p.
    for (std::int64_t i = 0; i < rise; ++i, excess *= 1 + 2 * config.plateau) series = series + flat(1, excess);
    series = series + flat(60, excess);
    const std::vector<Change> changes = changes_of(config, series);
    REQUIRE(changes.size() == 2);
    REQUIRE(changes[0] == Change{onset + config.confirm - 1, Phase::transition});
    REQUIRE(changes[1].to == Phase::stable);
    REQUIRE(changes[1].at >= onset + rise + config.confirm - 1);
    REQUIRE(changes[1].at <= onset + rise + config.window - 1 + config.confirm - 1);
  }
}

TEST_CASE("a collapse is wandering as soon as it is confirmed, and a shorter dip is none") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const double level = config.onset * dice.between(1.1, 4), low = config.onset * dice.between(0.2, 0.99);
    const std::int64_t alive = config.window + config.confirm + dice.integer(0, 30);
    const std::vector<Pass> stable = flat(alive, level);
    REQUIRE(changes_of(config, stable).back().to == Phase::stable);
    const std::vector<Change> changes = changes_of(config, stable + flat(50, low));
    REQUIRE(changes.back() == Change{alive + config.confirm - 1, Phase::wandering});
    for (const Change& change : changes_of(config, stable + flat(config.confirm - 1, low) + flat(50, level)))
      REQUIRE((change.to != Phase::wandering));
  }
}

TEST_CASE("a lead that another position takes is lost once it has a fifth of the window, and won back within one") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const double level = config.onset * dice.between(1.1, 4);
    const std::int64_t alive = config.window + config.confirm + dice.integer(0, 30);
    std::vector<Pass> led = flat(config.window + config.confirm, level);
    for (Pass& pass : led) pass.other = 2 * pass.excess;
    const std::vector<Pass> lost = flat(alive, level) + led;
    const std::int64_t most = config.window / 5;  // passes of another lead that are forgiven
    REQUIRE(changes_of(config, lost).back() == Change{alive + most + config.confirm - 1, Phase::wandering});
    const std::vector<Change> back = changes_of(config, lost + flat(60, level));
    REQUIRE(back.back().to == Phase::stable);
    // It leaves wandering when all but `most` of the window are its own again.
    const auto left =
        std::find(back.begin(), back.end(), Change{alive + most + config.confirm - 1, Phase::wandering}) + 1;
    REQUIRE(left->at == static_cast<std::int64_t>(lost.size()) + config.window - most - 1 + config.confirm - 1);
  }
}

TEST_CASE("a step-up layer that moves while the excess is flat is a transition of one window") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    INFO("seed " << seed);
    Dice dice(seed);
    const PhaseConfig config = random_thresholds(dice);
    const double level = config.onset * dice.between(1, 4);
    const std::int64_t alive = config.window + config.confirm + dice.integer(0, 30);
    std::vector<Change> expected = changes_of(config, flat(alive, level, 1));
    REQUIRE(expected.back().to == Phase::stable);
    if (config.confirm < config.window) {
      expected.push_back({alive + config.confirm - 1, Phase::transition});
      expected.push_back({alive + config.window - 1 + config.confirm - 1, Phase::stable});
    }
    REQUIRE(changes_of(config, flat(alive, level, 1) + flat(60, level, dice.integer(2, 5))) == expected);
    // To no layer at all it is a transition as well, and not stable again.
    if (config.confirm < config.window) expected.pop_back();
    REQUIRE(changes_of(config, flat(alive, level, 1) + flat(60, level, std::nullopt)) == expected);
  }
}
