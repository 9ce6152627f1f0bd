#include "engine/metrics/progress_line.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>

namespace sinkscope {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr std::chrono::milliseconds kLineInterval{10'000};

}  // namespace

ProgressLine::ProgressLine(const ProgressOptions& options, std::ostream& output, ConsoleClock clock)
    : options_(options), output_(output), clock_(std::move(clock)) {}

ProgressLine::~ProgressLine() {
  if (!is_shown_) return;
  try {
    output_ << kEraseLine << std::flush;
  } catch (...) {  // a stream may be set to throw; there is nobody left to tell
  }
}

void ProgressLine::update(std::int64_t done, std::int64_t all, double share) {
  const auto now = clock_();
  if (!begun_) {
    begun_ = now;
    share_at_begin_ = share;
    if (!options_.terminal) told_ = now;  // what ends within the interval needs no line
  }
  if (told_ && now - *told_ < (options_.terminal ? kRedrawInterval : kLineInterval)) return;
  told_ = now;
  std::string line = options_.title + ": " + std::to_string(done) + " of " + std::to_string(all) + " " + options_.unit;
  if (const double passed = share - share_at_begin_; passed > 0)
    line += ", " +
            format_duration(std::chrono::duration<double>(now - *begun_).count() / passed * std::max(0.0, 1 - share)) +
            " left";
  if (!options_.terminal) {
    output_ << line << '\n' << std::flush;
    return;
  }
  // One column stays free: a full line would wrap.
  output_ << kEraseLine << line.substr(0, static_cast<std::size_t>(std::max(options_.width - 1, 1))) << std::flush;
  is_shown_ = true;
}

}  // namespace sinkscope
