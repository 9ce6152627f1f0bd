// A static figure of runs, for papers and READMEs: what the sink, the norms and the loss do over the tokens seen.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/report/summary.h"

namespace sinkscope {

/// How a run is drawn. Runs that differ in `train.seed` alone share a colour.
struct RunStyle {
  std::size_t colour = 0;  // of the settings, in order of appearance
  std::size_t dash = 0;    // 0: solid; of the seeds
};
std::vector<RunStyle> run_styles(const std::vector<RunData>& runs);

/// Panels over tokens, one colour a setting: phases and sink excess of position 0, its largest norm ratio, the step-up
/// layer, the validation loss on common targets. What no run measured has no panel. A self-contained SVG file's text;
/// throws std::runtime_error when there is nothing to draw.
std::string figure_svg(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms);

/// Throws std::runtime_error naming --figure and the file, which may replace an older figure, and no other file.
void require_figure_possible(const std::filesystem::path& file);

/// Writes the figure (by a temporary file and a rename). Throws std::runtime_error naming the file.
void write_figure(const std::vector<RunData>& runs, const std::filesystem::path& file);

}  // namespace sinkscope
