// `sinkscope monitor RUN...` in a terminal.
#pragma once

#include <atomic>
#include <string>
#include <vector>

namespace sinkscope {

/// Throws std::runtime_error, as load_run does, for what cannot become a run directory: a file, a model, a folder of
/// runs; with `now` also for what is none yet.
void require_run_directory(const std::string& directory, bool now);

/// Prints one view of the runs as they are. Throws std::runtime_error for what is no run directory, and, after the
/// view, naming file and line where a log is malformed.
void print_view(const std::vector<std::string>& directories);

/// Draws the runs on the terminal, each second anew, until all are finished or `stop` is true; then the last view is
/// printed where the program was started.
void watch_runs(const std::vector<std::string>& directories, const std::atomic<bool>& stop);

}  // namespace sinkscope
