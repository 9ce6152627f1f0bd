// One arm's numbers at a glance, computed once and shown by the terminal table, the sentences and the page.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/report/causal_series.h"
#include "tools/report/report.h"

namespace sinkscope {

inline constexpr std::size_t kShownPositions = 4;  // P0..P3

struct FirstLast {
  double first = 0;
  double last = 0;
};

/// The largest P0 norm ratio over the blocks (METRICS.md section 2).
struct NormRatioPeak {
  double ratio = 0;
  std::int64_t layer = 0;
};

struct Point {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
};

struct PhaseSpan {
  std::string phase;
  std::int64_t from = 0;
  std::int64_t to = 0;
};

struct LayerNorms {        // blocks 0..L-1, at the end
  std::vector<double> first;  // position 0
  std::vector<double> rest;   // mean over t >= K
  std::vector<double> ratio;  // R: position 0 over the mean of t >= 1, mean over sequences
};

struct ArmSummary {
  std::string label;         // the name without the folders that all arms share
  std::size_t colour = 0;    // one for the runs that differ in their seed alone
  std::string bos = "unknown";
  std::int64_t steps = 0, tokens = 0;
  std::int64_t planned_steps = 0;   // 0: unknown
  std::int64_t sequence_length = 0;  // 0: unknown
  double tokens_per_step = 0;
  std::int64_t tail = 0;            // step records averaged for "last" training values
  std::int64_t bad_losses = 0;      // steps whose loss is not finite
  std::int64_t first_bad_loss = 0;
  std::string stopped_by;           // what was not finite where the run ended; empty when nothing was
  std::int64_t stopped_step = 0;    // the step that this was met in
  std::optional<FirstLast> train_loss, train_loss_common, validation_loss, validation_loss_common;
  std::string score_source;         // "probe set natural_bos" or "training batches"
  std::array<std::optional<FirstLast>, kShownPositions> sink_score, sink_rate, sink_excess;
  std::optional<NormRatioPeak> norm_ratio_first, norm_ratio;
  std::optional<LayerNorms> layer_norms;
  std::optional<double> value_ratio;         // smallest over layers of ||v_0|| / rest, at the end
  std::optional<std::int64_t> value_ratio_layer;
  std::optional<std::int64_t> step_up_layer;
  std::optional<double> concentration;
  std::string phase;                // at the end; "not measured" without probe passes
  std::vector<PhaseSpan> phases;
  std::optional<double> excess_slope, validation_loss_slope;  // of the last pass: relative change over their windows
  std::optional<FirstLast> sink_rate_late;  // of position 0 in the layers from late_layers_from on
  std::int64_t late_layers_from = 0;
  std::optional<Point> onset;       // METRICS.md section 3
  std::optional<Point> first_crossing;  // first probe with the excess at or above the threshold
  double onset_threshold = 2.0;
  std::int64_t onset_window = 10;
  double sink_threshold = 0.3;
  double highest_excess = 0;        // of position 0, over all probes
  double tokens_per_second = 0;     // median
  double training_seconds = 0;
  std::string probe_set;            // the one the phases are read from; empty: no probe pass
  std::vector<const ProbeRecord*> probes;  // of that set, in order of steps; owned by the RunData
  std::vector<CausalPoint> causal;  // tests while training, in order of steps
  std::vector<PhaseSpan> low_rate;  // where the rate has fallen under a tenth of its peak
};

/// Summaries of all runs, with labels made distinct. The runs must outlive the result.
std::vector<ArmSummary> summarize(const std::vector<RunData>& runs);

struct TableRow {
  std::string label;
  std::vector<std::string> values;  // one an arm
};
std::vector<TableRow> summary_rows(const std::vector<ArmSummary>& arms);

/// The largest R over the blocks, of the norm_ratio (L+1) of a step or a probe pass; NaN without blocks.
NormRatioPeak norm_ratio_peak(const std::vector<double>& norm_ratio);
/// The probe set that the phases of an arm with this data.bos are read from.
std::string phase_set_of(const std::string& bos);
/// ||v_0|| over the others, mean over the KV heads of each layer.
std::vector<double> value_ratios(const ProbeRecord& probe);
/// Mean sink score over layers and heads of key position `position`.
double mean_sink_score(const ProbeRecord& probe, std::int64_t position);

// ---- reading.cpp -----------------------------------------------------------------------------

struct Difference {
  std::string key;
  std::vector<std::string> values;  // JSON text, "(absent)" where an arm lacks the key
};
/// The settings in which the arms differ; names, output folders and start times are left out.
std::vector<Difference> differences(const std::vector<RunData>& runs);

struct Statement {
  bool good = true;
  std::string text;
};
struct Comparison;  // comparison.h
/// Whether the arms may be compared: the same data, seeds, tokens, length and counted targets, and nothing else that
/// differs but what was to vary.
std::vector<Statement> comparability(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                                     const Comparison& comparison);

/// "ended in step 2: the loss is not finite; ...", of a run that stopped so.
std::string stopped_text(const ArmSummary& arm);
/// The result in sentences, one paragraph an entry.
std::vector<std::string> reading(const std::vector<ArmSummary>& arms);
/// What to keep in mind when reading the numbers.
std::vector<std::string> reading_notes(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms);

}  // namespace sinkscope
