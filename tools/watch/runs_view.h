// Runs in a terminal: a block of a few lines each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tools/watch/runs_follower.h"

namespace sinkscope {

struct ViewOptions {
  std::size_t width = 80;   // columns; every line is cut to them
  std::size_t rows = 0;     // lines that there are; 0: any number
  bool colour = false;
};

/// What is known of every run: name and state, step, time left, loss, speed, sink, phase; curves of loss and excess
/// over a band of phases; the last events. Where `rows` are few, events go first, then curves, then whatever is left at
/// the end. Ends with a newline.
std::string runs_view(const std::vector<RunData>& runs, const std::vector<RunStatus>& status,
                      const ViewOptions& options);

}  // namespace sinkscope
