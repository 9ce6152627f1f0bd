// What a server tells of the runs that it watches: the page, and the state that the page asks for.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "tools/report/summary.h"
#include "tools/watch/runs_follower.h"

namespace sinkscope {

/// The state of all runs as JSON text (page.h, live_page_html), and its name: another when anything in it is.
struct Snapshot {
  std::string tag;   // in quotes, as HTTP's ETag
  std::string data;
  std::string records;  // what the tags of all states begin with that have the same parts and payload
  std::string status;   // `data` without parts and payload

  /// What is to be sent to a page that shows the state of this tag.
  const std::string& beside(std::string_view shown) const { return shown.starts_with(records) ? status : data; }
};

/// One thread looks at the logs, others ask for what is known. A state is put together when it is asked for, and not
/// more often than its making allows: of very long runs it may be a few times as old as the making takes. Logs that
/// take long to read are sampled first, so that the charts show all steps at once; until such a log is read to its end
/// nothing is told that takes all of its records: no phases, no onset, no numbers in tables.
class LiveState {
 public:
  explicit LiveState(const std::vector<std::string>& directories);
  LiveState(const std::vector<std::string>& directories, const Sampling& sampling);

  /// Reads what is new in the logs, about `limit` bytes of each. Returns whether all is read.
  bool look(std::int64_t limit);

  std::shared_ptr<const Snapshot> snapshot();
  /// The page; before the first look, which it does not wait for, without any text. Throws as live_page_html does.
  std::string page();
  /// Whether a browser was given the page so lately that it is still busy with drawing it.
  bool page_opens() const;

 private:
  using Clock = RunsFollower::Clock;

  std::shared_ptr<const Snapshot> make_snapshot();

  std::atomic<bool> looked_ = false;
  std::atomic<Clock::time_point> opened_ = Clock::time_point::min();  // when a page was given away
  std::mutex mutex_;         // of everything below
  RunsFollower follower_;
  std::string server_name_;  // differs between servers, so that a tag of another one is never taken for ours
  std::int64_t version_ = 0, shown_version_ = -1;
  std::shared_ptr<const Snapshot> shown_;
  std::string records_;               // parts and payload of records_made_
  std::vector<ArmSummary> arms_;
  std::string title_;
  std::int64_t records_made_ = -1;
  Clock::time_point made_;
  Clock::duration making_{};
};

}  // namespace sinkscope
