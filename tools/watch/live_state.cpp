#include "tools/watch/live_state.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/metrics/console.h"
#include "tools/report/comparison.h"
#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMakingShare = 4;  // a state is kept for so many times its making

std::string random_name() {
  std::random_device device;
  return std::to_string(device()) + "-" + std::to_string(device());
}

std::string status_text(const ArmSummary& arm, const RunStatus& status) {
  std::string text = printable(arm.label) + ": ";
  if (status.unread_bytes > 0) return text + "reading its logs, " + format_count(status.unread_bytes) + " bytes to go";
  switch (status.state) {
    case RunState::waiting: return text + "not there yet";
    case RunState::training: text += "training"; break;
    case RunState::quiet: text += "no process trains here"; break;
    case RunState::finished: text += "finished"; break;
  }
  text += ", step " + std::to_string(arm.steps);
  const std::int64_t left = arm.planned_steps - arm.steps;
  if (left > 0) text += " of " + std::to_string(arm.planned_steps);
  if (left > 0 && status.state == RunState::training && status.seconds_per_step)
    text += ", " + format_duration(*status.seconds_per_step * static_cast<double>(left)) + " left";
  if (!status.problem.empty()) text += " (! " + printable(status.problem) + ")";
  return text;
}

/// The page's text. Runs that are not there yet have no settings that others could be held against.
PageContent content_of(const RunsFollower& follower, const std::vector<ArmSummary>& arms) {
  PageContent content = page_content(follower.runs(), arms, compare_runs(follower.runs(), arms, std::nullopt));
  for (const RunStatus& status : follower.status()) {
    if (status.state != RunState::waiting) continue;
    content.pairs.clear();
    content.comparability.clear();
    content.differences.clear();
  }
  return content;
}

}  // namespace

LiveState::LiveState(const std::vector<std::string>& directories)
    : follower_(directories), server_name_(random_name()) {}

bool LiveState::look(std::int64_t limit) {
  const std::lock_guard lock(mutex_);
  if (follower_.look(limit, Clock::now())) ++version_;
  return follower_.caught_up();
}

std::shared_ptr<const Snapshot> LiveState::snapshot() {
  const std::lock_guard lock(mutex_);
  const Clock::time_point begin = Clock::now();
  if (shown_ && (shown_version_ == version_ || begin - made_ < kMakingShare * making_)) return shown_;
  shown_ = make_snapshot();
  shown_version_ = version_;
  made_ = Clock::now();
  making_ = made_ - begin;
  return shown_;
}

std::string LiveState::page() {
  const std::lock_guard lock(mutex_);
  return live_page_html(content_of(follower_, summarize(follower_.runs())));
}

std::shared_ptr<const Snapshot> LiveState::make_snapshot() const {
  const std::vector<RunData>& runs = follower_.runs();
  const std::vector<ArmSummary> arms = summarize(runs);
  const PageContent content = content_of(follower_, arms);
  std::string status;
  bool problem = false;
  for (std::size_t i = 0; i < arms.size(); ++i) {
    status += (i == 0 ? "" : " · ") + status_text(arms[i], follower_.status()[i]);
    problem = problem || !follower_.status()[i].problem.empty();
  }
  const Json head = {{"title", content.title},
                     {"status", status},
                     {"problem", problem},
                     {"parts",
                      {{"reading", content.reading},
                       {"summary", content.summary},
                       {"pairs", content.pairs},
                       {"comparability", content.comparability},
                       {"differences", content.differences},
                       {"notes", content.notes}}}};
  std::string data = head.dump(-1, ' ', false, Json::error_handler_t::replace);
  data.pop_back();
  data += ",\"payload\":" + page_payload(runs, arms) + "}";
  const std::string tag = "\"" + server_name_ + "-" + std::to_string(version_) + "\"";
  return std::make_shared<const Snapshot>(Snapshot{tag, std::move(data)});
}

}  // namespace sinkscope
