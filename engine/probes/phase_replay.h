// The phase detector over a run's logs: the phases that the run met, or would have met under other thresholds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"
#include "engine/probes/phases.h"

namespace sinkscope {

/// What the detector is given at a pass, as the trainer gives it.
struct ReplayPass {
  PhaseInput input;                             // loss NaN where `loss_logged` is false
  bool loss_logged = true;                      // false: a training loss of a step that log.every left out
  PhaseReading reading;
  std::optional<double> validation_loss_slope;  // over as many evaluations as the window has passes
};

struct PhaseReplay {
  std::vector<ReplayPass> passes;    // of the phase set, in the order of the log
  std::optional<std::size_t> onset;  // index of its pass (METRICS section 3), with the window of the detector
};

/// Replays the passes over `set`, the one that phase_probe_set names, among `probes`. The loss of a pass is the last
/// validation loss up to its step, before the first evaluation the training loss of the step, at step 0 that of the
/// set; the rate is what `schedule` leaves of its peak at the step of `total_steps`. Records in the order of their
/// logs. Throws std::invalid_argument naming the threshold that PhaseDetector refuses.
PhaseReplay replay_phases(std::span<const ProbeRecord> probes, std::string_view set, std::span<const StepRecord> steps,
                          const ScheduleConfig& schedule, std::int64_t total_steps, const PhaseConfig& config);

/// A stretch of passes that ended in one phase. Spans meet: each begins at the step whose pass entered it.
struct PhaseBand {
  Phase phase = Phase::wandering;
  std::int64_t from = 0, to = 0;  // steps
};

/// The bands of a replay, from step 0 to its last pass; empty without passes.
std::vector<PhaseBand> phase_bands(const PhaseReplay& replay);

/// How a replay with the run's own thresholds compares with what the run logged.
struct ReplayCheck {
  std::int64_t changes = 0, passes = 0;  // that the run logged: events of the phase, passes with a phase
  /// One sentence each. Numbers that agree to the precision of float are no difference: see `rounded`.
  std::vector<std::string> differences;
  std::int64_t rounded = 0;  // numbers that are equal only so: of a detector that was fed more digits than were logged
};

/// Holds changes against the events of kind "phase", every number of them, and readings against the signals in the
/// probe records of `set`. Of a run that has not ended, the last changes may not be logged yet.
ReplayCheck check_replay(const PhaseReplay& replay, std::span<const ProbeRecord> probes, std::string_view set,
                         std::span<const EventRecord> events);

}  // namespace sinkscope
