// What a server tells of the runs that it watches: the page, and the state that the page asks for.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tools/watch/runs_follower.h"

namespace sinkscope {

/// The state of all runs as JSON text (page.h, live_page_html), and its name: another when anything in it is.
struct Snapshot {
  std::string tag;   // in quotes, as HTTP's ETag
  std::string data;
};

/// One thread looks at the logs, others ask for what is known. A state is put together when it is asked for, and not
/// more often than its making allows: of very long runs it may be a few times as old as the making takes.
class LiveState {
 public:
  explicit LiveState(const std::vector<std::string>& directories);

  /// Reads what is new in the logs, about `limit` bytes of each. Returns whether all is read.
  bool look(std::int64_t limit);

  std::shared_ptr<const Snapshot> snapshot();
  /// Throws as live_page_html does.
  std::string page();

 private:
  using Clock = RunsFollower::Clock;

  std::shared_ptr<const Snapshot> make_snapshot() const;

  std::mutex mutex_;         // of everything below
  RunsFollower follower_;
  std::string server_name_;  // differs between servers, so that a tag of another one is never taken for ours
  std::int64_t version_ = 0, shown_version_ = -1;
  std::shared_ptr<const Snapshot> shown_;
  Clock::time_point made_;
  Clock::duration making_{};
};

}  // namespace sinkscope
