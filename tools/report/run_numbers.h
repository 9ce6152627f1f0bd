// The numbers of a run that comparisons are made of.
#pragma once

#include <optional>
#include <span>

#include "tools/report/summary.h"

namespace sinkscope {

inline constexpr const char* kOnsetTokens = "sink onset, tokens";
inline constexpr const char* kStepUpLayer = "step-up layer l*";

/// A number of a run, at its end; nothing where the run does not have it.
struct RunNumber {
  const char* name;
  bool same_length;  // compared at one sequence length only
  std::optional<double> (*get)(const RunData& run, const ArmSummary& summary);
};

/// All of them, in the order of tables.
std::span<const RunNumber> run_numbers();

/// The sink rate of position 0 at the last pass of the short set of the run's own kind of text.
std::optional<double> short_set_rate(const RunData& run, const ArmSummary& arm);

}  // namespace sinkscope
