// How far one long piece of work is, told while it lasts.
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

#include "engine/metrics/console.h"

namespace sinkscope {

struct ProgressOptions {
  std::string title;      // "causal tests"
  std::string unit;       // "passes"
  bool terminal = false;
  int width = 80;         // columns of the terminal
};

/// On a terminal one line that is drawn anew, at most ten times a second, and erased at the end; elsewhere a line every
/// ten seconds at most: "causal tests: 12 of 41 passes, 14 s left".
class ProgressLine {
 public:
  /// `output` must outlive the line; what it cannot take is lost, and no error.
  ProgressLine(const ProgressOptions& options, std::ostream& output, ConsoleClock clock);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// `done` of `all` units, `share` (0..1) of the work. The time left is that of the share since the first call.
  void update(std::int64_t done, std::int64_t all, double share);

 private:
  ProgressOptions options_;
  std::ostream& output_;
  ConsoleClock clock_;
  std::optional<std::chrono::steady_clock::time_point> begun_, told_;
  double share_at_begin_ = 0;
  bool is_shown_ = false;
};

}  // namespace sinkscope
