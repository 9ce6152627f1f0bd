#include "tools/watch/live_view.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <thread>

#include "tools/report/report.h"
#include "tools/watch/runs_follower.h"
#include "tools/watch/runs_view.h"
#include "tools/watch/terminal.h"

namespace sinkscope {
namespace {

using Clock = RunsFollower::Clock;

constexpr std::chrono::milliseconds kViewInterval{1000};  // between two views
constexpr std::chrono::milliseconds kViewNap{50};         // between two looks at `stop`
constexpr std::int64_t kViewLookBytes = std::int64_t{64} << 20;

std::string view_of(const RunsFollower& follower, std::size_t rows) {
  return runs_view(
      follower.runs(), follower.status(),
      {.width = static_cast<std::size_t>(terminal_width()), .rows = rows, .colour = stdout_takes_colour()});
}

}  // namespace

void require_run_directory(const std::string& directory, bool now) {
  const std::filesystem::path path = directory;
  std::error_code ignored;
  const bool nothing_yet =
      !std::filesystem::exists(path, ignored) ||
      (std::filesystem::is_directory(path, ignored) && !std::filesystem::exists(path / "config.json", ignored) &&
       hint_of_runs(path, true).empty());
  if (now || !nothing_yet) open_run(path);
}

void print_view(const std::vector<std::string>& directories) {
  for (const std::string& directory : directories) require_run_directory(directory, true);
  RunsFollower follower(directories);
  follower.look(std::numeric_limits<std::int64_t>::max(), Clock::now());
  std::cout << view_of(follower, 0) << std::flush;
  for (const RunStatus& status : follower.status())
    if (!status.problem.empty()) throw std::runtime_error(status.problem);
}

void watch_runs(const std::vector<std::string>& directories, const std::atomic<bool>& stop) {
  for (const std::string& directory : directories) require_run_directory(directory, false);
  RunsFollower follower(directories);
  {
    Screen screen;
    while (!stop.load()) {
      const Clock::time_point next = Clock::now() + kViewInterval;
      follower.look(kViewLookBytes, Clock::now());
      screen.draw(view_of(follower, static_cast<std::size_t>(std::max(2, terminal_height() - 1))));
      if (!follower.caught_up()) continue;
      if (follower.all_finished()) break;
      while (!stop.load() && Clock::now() < next) std::this_thread::sleep_for(kViewNap);
    }
  }
  std::cout << view_of(follower, 0) << std::flush;
}

}  // namespace sinkscope
