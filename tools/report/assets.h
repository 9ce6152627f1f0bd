// The chart library of the page (uPlot), which the set-up fetches and the repository does not hold.
#pragma once

#include <string>

namespace sinkscope {

struct ChartLibrary {
  std::string script;
  std::string style;
  std::string licence;
};

/// Reads uplot/{uPlot.iife.min.js,uPlot.min.css,LICENSE} from the first of: the folder in the
/// environment variable SINKSCOPE_ASSETS (the only one tried when set), the build's asset folder,
/// ../share/sinkscope beside the program, the install folder, and the user's cache folder.
/// Throws std::runtime_error listing the folders tried and the command that fetches it.
ChartLibrary load_chart_library();

}  // namespace sinkscope
