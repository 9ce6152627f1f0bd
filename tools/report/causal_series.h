// The causal tests that a run logged while it trained (probes.causal_every; METRICS.md section 3), over its steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/probes/causal.h"
#include "tools/report/report.h"
#include "tools/report/series.h"

namespace sinkscope {

struct ArmSummary;
struct TableRow;

struct CausalPoint {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  CausalRecord record;
};

/// Those of a run, in order. Throws std::runtime_error naming events.jsonl and the step of one that cannot be read.
std::vector<CausalPoint> causal_series(const RunData& run);

/// A knock-out is needed where more than this share of the sink is gone without it, over the whole interval.
inline constexpr double kNeededShare = 0.5;

/// First test with a sink -> last test, an interval each; no rows where no arm has such tests.
std::vector<TableRow> causal_rows(const std::vector<ArmSummary>& arms);
/// What the arm's sink needs, since when, and whether its state moves it; begins with a space, "" without tests.
std::string causal_sentence(const ArmSummary& arm);
/// How the tests are to be read; nothing where no arm has any.
std::vector<std::string> causal_notes(const std::vector<ArmSummary>& arms);

/// A curve over the steps, with its intervals; non-finite where no sink had formed, since shares of it mean nothing
/// then.
struct CausalCurve {
  std::size_t group = 0;
  std::string name;
  const char* style = "line";
  Series series;
};
/// What the MLP and the attention that the sink needs most remove. One group.
std::vector<CausalCurve> removed_curves(const std::vector<CausalPoint>& points);
/// What writing a state or isolating moves, next to what it is held against. Groups as in moved_groups().
std::vector<CausalCurve> moved_curves(const std::vector<CausalPoint>& points);
std::vector<std::string> moved_groups();
/// `removed` by layer of the knock-outs of `kind` ("knock_out_mlp", "knock_out_attention").
std::vector<double> removed_by_layer(const CausalRecord& record, const std::string& kind);

}  // namespace sinkscope
