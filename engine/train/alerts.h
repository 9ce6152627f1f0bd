// When something in a run deserves a look: from the numbers of its steps and probe passes to alerts.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"
#include "engine/probes/phases.h"

namespace sinkscope {

/// One thing to look at.
struct Alert {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  std::string name;                  // "loss_spike", "non_finite", "sink_collapse", "phase_change", "throughput_drop"
  double value = 0;                  // what was seen
  std::optional<double> threshold;   // what it was held against, in the same unit
  std::string message;               // both in words
  std::string details = "{}";        // JSON text of an object: what else decided it
};

/// The line of events.jsonl: kind "alert", the alert's message, and data {name, value, threshold, ...details}.
EventRecord alert_event(const Alert& alert);

/// The last values of a series, at most `size`; allocates nothing after its construction.
class RecentValues {
 public:
  explicit RecentValues(std::int64_t size);
  void add(double value);
  /// Whether there are at least half as many values as there may be.
  bool enough() const { return 2 * count_ >= values_.size(); }
  /// The mean of the two middle ones where their number is even. Neither may be asked while there is none.
  double median();
  /// Median of the distances from `center`.
  double median_distance(double center);
  std::vector<double> in_order() const;  // oldest first

 private:
  double median_of_scratch();

  std::vector<double> values_, scratch_;  // a ring
  std::size_t next_ = 0, count_ = 0;
};

/// Training losses that jump. With m the median of the last alerts.window losses before this one and d = max(1.4826 *
/// median |loss - m|, m / 400), a spike begins at a loss above m + alerts.loss_spike * d. It is over once the loss was
/// at most m + alerts.loss_spike / 2 * d for ten steps in a row; until then no other begins. 1.4826 makes d the
/// standard deviation of normal noise. A series on a line, however steep, lies 1.4 d from m and never spikes.
class LossSpikes {
 public:
  LossSpikes(std::int64_t window, double deviations);

  struct Spike {
    double median = 0, deviation = 0, threshold = 0;
  };
  /// Takes the next loss, which is finite.
  std::optional<Spike> update(double loss);

  nlohmann::ordered_json state() const;
  void restore(const nlohmann::ordered_json& state);

 private:
  double deviations_;
  RecentValues losses_;
  bool open_ = false;
  std::int64_t calm_ = 0;  // steps in a row, while open
};

/// A sink that was there and goes: the excess of position 0 falls under alerts.sink_collapse times its largest value so
/// far, which is at or above probes.phase.onset. The collapse is over once the excess is at its lowest value since,
/// divided by alerts.sink_collapse; the largest value then counts anew.
class SinkCollapses {
 public:
  SinkCollapses(double share, double onset);

  struct Collapse {
    double largest = 0, threshold = 0;
  };
  /// Takes the excess of the next probe pass; what is not finite is passed over.
  std::optional<Collapse> update(double excess);

  nlohmann::ordered_json state() const;
  void restore(const nlohmann::ordered_json& state);

 private:
  double share_, onset_;
  double largest_ = 0;
  double lowest_ = 0;  // since the collapse, while open
  bool open_ = false;
};

/// Training that becomes slow: steps in a row, ten and five seconds of them or more, are each under
/// alerts.throughput_drop times the median rate of the alerts.window steps before. It is over once as many in a row are
/// above the middle between that and the median. The first ten steps of a process warm up and count for nothing. Rates
/// are those of training steps alone, so that evaluation, probes, samples and checkpoints do not slow them.
class ThroughputDrops {
 public:
  ThroughputDrops(std::int64_t window, double share);

  struct Drop {
    std::int64_t steps = 0;  // in a row
    double rate = 0;         // tokens per second of them together
    double median = 0, threshold = 0;
  };
  /// Takes the tokens per second of the next step, and the seconds it took.
  std::optional<Drop> update(double rate, double seconds);

 private:
  double share_;
  RecentValues rates_;
  std::int64_t steps_ = 0;            // that warmed up
  std::int64_t in_row_ = 0;           // slow ones; while open, fast ones
  double tokens_ = 0, seconds_ = 0;   // of those in a row
  bool open_ = false;
};

/// All alerts of a run, each unless its key in `alerts` says off. All but the throughput depend on nothing but what a
/// run computes, and a restored detector goes on as one never stopped; the throughput begins anew with each process.
class AlertDetector {
 public:
  explicit AlertDetector(const Config& config);

  /// What the next step gives cause for; mostly nothing.
  std::vector<Alert> step(const StepRecord& record);
  /// The same of the next probe pass of the set that the phases are read from.
  std::vector<Alert> probe(const PhaseInput& input, const std::optional<PhaseChange>& change);
  /// For the number that stops the run: `message` names it and `tensor`, the first that is not finite. Nothing when
  /// off.
  std::optional<Alert> non_finite(std::int64_t step, std::int64_t tokens, double value, const std::string& message,
                                  const std::string& tensor) const;

  /// Everything that the next alerts depend on but the throughput, as JSON text.
  std::string state() const;
  /// Throws std::runtime_error naming the key that is missing or malformed; the detector is then as it was.
  void restore(const std::string& state);

 private:
  AlertConfig config_;
  double onset_;
  LossSpikes losses_;
  SinkCollapses sinks_;
  ThroughputDrops rates_;
};

}  // namespace sinkscope
