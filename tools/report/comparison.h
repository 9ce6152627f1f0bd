// Which runs are one arm with several seeds, in what the arms differ, whether that leaves a comparison, and the
// differences between arms, paired by seed.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "tools/report/setting_influence.h"
#include "tools/report/summary.h"

namespace sinkscope {

/// The runs that differ in nothing that can influence the numbers but the seed, and in rounding.
struct ComparedArm {
  std::string label;
  std::vector<std::size_t> runs;   // in the order given
  std::vector<std::string> seeds;  // of each, JSON text
};

/// A number of both arms of a pair, over the seeds where both have it.
struct PairedNumber {
  std::string name;
  std::vector<std::string> seeds;
  std::vector<double> from, to;  // one a seed
  double mean_from = 0, mean_to = 0, difference = 0;
  std::optional<double> half_width;  // of the interval; from two seeds on
};

/// Two arms that differ in one factor.
struct ArmPair {
  std::size_t from = 0, to = 0;       // arms
  std::string factor;                 // "data.bos", or the name of keys that change together
  std::vector<std::string> seeds;     // that both have
  std::vector<std::string> left_out;  // sentences: seeds and runs that are not compared, and numbers that may not be
  std::vector<PairedNumber> numbers;
};

struct Comparison {
  std::vector<SettingDifference> settings;  // the bookkeeping left out
  std::vector<ComparedArm> arms;
  std::vector<AblationFactor> factors;  // what was to vary, less the seed
  bool declared = false;                // as the ablation or the user says; else each setting that differs
  std::vector<std::string> unexpected;  // keys that differ beside them
  std::vector<std::string> unpaired;    // labels of arms that no pair holds, where there are several arms
  std::vector<ArmPair> pairs;  // each arm against the first that differs from it in one factor, for each factor
};

/// The confidence of every interval here.
inline constexpr double kConfidence = 0.95;

/// `arms`: summarize(runs). `factors`: what was to vary; nothing when it is not known.
Comparison compare_runs(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                        const std::optional<std::vector<AblationFactor>>& factors = std::nullopt);

/// For each run the arm that it belongs to, counted from 0.
std::vector<std::size_t> arms_of(const std::vector<RunData>& runs);

/// Mean and range over the seeds of each arm: losses, onset, phases, circuit, sink, speed; a column an arm.
std::vector<TableRow> arm_rows(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                               const Comparison& comparison);

/// "none → sequence (data.bos), seeds 1, 2" and the table of a pair, its head first.
std::string pair_title(const Comparison& comparison, const ArmPair& pair);
std::vector<std::vector<std::string>> pair_cells(const Comparison& comparison, const ArmPair& pair);
/// How the intervals are made, and what they need; empty without pairs.
std::string pair_method(const Comparison& comparison);

/// All of it, with the numbers of every run.
nlohmann::ordered_json comparison_json(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                                       const Comparison& comparison);

}  // namespace sinkscope
