// The training phases of the sink, from the series of one probe set at the training length.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"

namespace sinkscope {

enum class Phase : std::uint8_t { wandering, transition, stable };

/// "wandering", "transition", "stable".
std::string_view name_of(Phase phase);

/// True under a tenth of the peak rate: from there on the schedule itself flattens every curve. Takes the fraction
/// that is left after the peak; a warm-up is not low.
bool learning_rate_is_low(double fraction_of_peak);

/// What one probe pass says about the sink.
struct PhaseInput {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double loss = 0;
  std::vector<double> sink_excess;             // (K) mean sink score over u_k
  double sink_rate = 0;                        // Sink_0^eps
  std::optional<std::int64_t> step_up_layer;   // l*
  std::optional<double> concentration;         // C2
  double learning_rate_fraction = 1;           // of its peak; 1 before the peak
};

/// The input that a probe record of the phase set amounts to, fresh or read back from its line: the same bits. `loss`
/// is the caller's (validation or training), as is the learning rate.
PhaseInput phase_input(const ProbeRecord& record, double loss, double learning_rate_fraction);

/// A phase that was entered, and the values that decided it.
struct PhaseChange {
  Phase from = Phase::wandering;
  Phase to = Phase::wandering;
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double loss = 0;
  double excess = 0;                           // of position 0
  std::optional<double> relative_change;       // over the window, signed; absent until it is full
  double dominant_share = 0;                   // share of the window's probes led by position 0
  bool step_up_moved = false;                  // l* differs within the window
  double sink_rate = 0;
  std::optional<std::int64_t> step_up_layer;
  std::optional<double> concentration;
  bool learning_rate_low = false;
};

/// What one pass amounts to.
struct PhaseReading {
  Phase phase = Phase::wandering;              // after the pass
  std::optional<double> relative_change;       // as in PhaseChange, with or without a change
  double dominant_share = 0;
  std::optional<PhaseChange> change;           // when this pass confirmed one
};

/// Writes the signals of METRICS section 4 that one pass alone does not give into its record. `validation_losses`:
/// the run's last ones, oldest first.
void add_signals(const PhaseReading& reading, std::span<const double> validation_losses, ProbeRecord& record);

/// The event of a change: kind "phase", the deciding values as its data.
EventRecord phase_event(const PhaseChange& change);

/// Relative change of a series: the rise of its least-squares line from the first to the last value,
/// over the mean. A fit instead of the two end points, so that the noise of single probes does not
/// decide. Takes at least two values.
double relative_change(std::span<const double> values);

/// Decides the phase after every probe pass. With W = config.window, over the last W passes:
/// wandering:  the excess of position 0 is under config.onset (or not a number), or a position other
///             than 0 has the largest excess in more than a fifth of the window's passes.
/// transition: otherwise, when |relative_change| of the excess of position 0 exceeds config.plateau,
///             or l* differs between two passes of the window (undefined counts as a value).
/// stable:     otherwise, when l* is defined.
/// Until W passes were seen, nothing is known to be flat: what is not wandering is in transition. A
/// flat sink above onset without any l* in the window is neither; the phase then stays as it was.
/// A phase is entered once it has held for config.confirm passes in a row. Begins in wandering.
class PhaseDetector {
 public:
  /// Throws std::invalid_argument naming the key for a window below 2 or a confirm below 1.
  explicit PhaseDetector(const PhaseConfig& config);

  /// Takes the next probe pass.
  PhaseReading update(const PhaseInput& input);

  Phase phase() const { return phase_; }

  /// Everything update() depends on, as JSON text; a restored detector continues identically.
  std::string state() const;
  /// Throws std::runtime_error naming the key that is missing or malformed; the detector is then
  /// as it was.
  void restore(const std::string& state);

 private:
  struct Probe {
    double excess = 0;
    bool led_by_first = false;
    std::optional<std::int64_t> step_up_layer;
  };
  bool full() const { return static_cast<std::int64_t>(window_.size()) == config_.window; }

  PhaseConfig config_;
  Phase phase_ = Phase::wandering;
  std::optional<Phase> candidate_;  // what held at the last pass
  std::int64_t held_ = 0;           // passes in a row, counted up to config.confirm
  std::deque<Probe> window_;        // oldest first
};

}  // namespace sinkscope
