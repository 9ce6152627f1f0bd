// The parts that the HTML page is put together from.
#pragma once

#include <string>
#include <vector>

#include "tools/report/comparison.h"
#include "tools/report/summary.h"

namespace sinkscope {

/// The curves, maps and bands of the page as JSON text; numbers that are not finite are null. It is
/// safe inside a <script> element: every '<' is written as \u003c. The format:
///   arms:     [{label, bos, colour: from 0, one for the seeds of an arm, phases: [{phase, from, to}],
///               low_rate: [{from, to}], onset: step or null}]
///   last_step: largest step of any arm
///   charts:   [{id, title, note, x: "step"|"layer", y, log, lines: [y...], groups: [name...],
///               series: [{arm, group, name, style: "line"|"faint"|"points"|"dashed", x: [...], y: [...], low: [...],
///               high: [...]}]}]; low and high, the interval of y, only where there is one
///   events:   [{step, arm, kind, message}], the newest first, 200 at most
///   heatmaps: [{id, title, note, unit, log, low, high, maps: [{arm, from: [...], to: [...], values: [[...]]}]}]
std::string page_payload(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms);

/// What the page says beside the payload: the title is text, the other parts are HTML.
struct PageContent {
  std::string title, reading, summary, pairs, comparability, differences, notes;
};
PageContent page_content(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                         const Comparison& comparison);

/// The same page for a server: it holds `content` and no payload, and asks the server for `data` over and over:
///   {title, status, problem: bool, parts: {reading, summary, pairs, comparability, differences, notes}, payload}
/// `data?shown=TAG`, the ETag of what it shows, lets the server leave out parts and payload where they are the same.
/// Throws as page_html.
std::string live_page_html(const PageContent& content);

/// The whole page: text and tables as HTML, the payload, style, scripts and the chart library.
/// Throws std::runtime_error when the chart library is not found (assets.h).
std::string page_html(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                      const Comparison& comparison);

}  // namespace sinkscope
