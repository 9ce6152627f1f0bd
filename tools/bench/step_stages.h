// Where a training step goes: the time of its operations where they stand in it, against what they must take at least.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "kernels/ops.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/timed_ops.h"

namespace sinkscope {

/// All calls of an operation in a step.
struct StageRow {
  Stage stage{};
  std::string name;
  std::vector<std::string> kernels{};  // the kernel cases that a call does
  int calls = 0;
  double ms = 0;                       // of all calls in a step: median over steps
  std::optional<double> floor{};       // ms, likewise; absent: none is known
};

struct StepStages {
  std::vector<StageRow> rows;  // by stage, then in the order of a step
  int steps = 0;               // that were timed
  double ms = 0;               // of a step as the host sees it, with marks: median
  double plain_ms = 0;         // and without: median of as many steps, taken in turns

  /// Sums over the rows of a stage, or over all.
  StageRow total(std::optional<Stage> stage = {}) const;
  /// What of a step is in no operation.
  double between() const { return ms - total().ms; }
};

/// `config` must be complete; `steps` at least 1. The device must hold one model.
StepStages time_stages(Ops& ops, const Config& config, const Ceilings& ceilings, int steps);

}  // namespace sinkscope
