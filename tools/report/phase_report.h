// The phases of one run, replayed from its logs: as text for the terminal and as JSON. What they mean is METRICS
// section 4.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "engine/config/config.h"
#include "engine/probes/phase_replay.h"
#include "tools/report/report.h"

namespace sinkscope {

struct PhaseReport {
  std::string directory, name;
  std::string bos;                    // data.bos
  std::string set;                    // the probe set that the phases are read from
  std::int64_t length = 0, sequences = 0;  // of the set
  std::int64_t steps = 0, planned_steps = 0;  // logged, and of the run
  bool ended = false;
  bool events_logged = true;          // events.jsonl holds something; a run writes there before its first step
  PhaseConfig own, used;              // the run's thresholds, and those of the replay
  PhaseReplay replay;
  std::optional<ReplayCheck> check;   // where they are the same
};

/// Whether two detectors are given the same thresholds.
bool same_thresholds(const PhaseConfig& a, const PhaseConfig& b);

/// Replays `run`, whose config is `config`, with `thresholds`. Throws std::runtime_error naming the log when it holds
/// no pass over the set that the phases are read from.
PhaseReport report_phases(const RunData& run, const Config& config, const PhaseConfig& thresholds);

/// Where the phases are read, the changes as a table, onset, bands, a chart of the excess, and the state at the end;
/// the chart is at most `width` columns wide.
std::string phase_text(const PhaseReport& report, std::size_t width);

/// Everything that the text tells, and every pass.
nlohmann::ordered_json phase_json(const PhaseReport& report);

}  // namespace sinkscope
