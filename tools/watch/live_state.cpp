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

constexpr std::chrono::milliseconds kOpening{1500};
constexpr int kMakingShare = 4;  // a state is kept for so many times its making
// Of one run, whose curves have 1500 points and maps 400 columns at most; runs beside one another share them.
constexpr Sampling kSampling = {.steps = 1000, .passes = 100, .least = std::int64_t{64} << 20};
constexpr std::size_t kFewestPlaces = 25;
constexpr const char* kCoarse =
    "A first look at the logs, which are still being read: the charts show a sample of their records from the first "
    "step to the last. Phases, onset and numbers follow.";

Sampling sampling_for(std::size_t runs) {
  const auto share = [runs](std::size_t places) {
    return std::max(kFewestPlaces, places / std::max<std::size_t>(runs, 1));
  };
  return {share(kSampling.steps), share(kSampling.passes), kSampling.least};
}

bool is_coarse(const RunStatus& status) { return status.sampled_steps || status.sampled_passes; }

std::string random_name() {
  std::random_device device;
  return std::to_string(device()) + "-" + std::to_string(device());
}

std::string status_text(const ArmSummary& arm, const RunStatus& status) {
  std::string text = printable(arm.label) + ": ";
  if (status.unread_bytes > 0)
    return text + (is_coarse(status) ? "a coarse first look; " : "") + "reading its logs, " +
           format_count(status.unread_bytes) + " bytes to go";
  const std::string problem = status.problem.empty() ? "" : " (! " + printable(status.problem) + ")";
  if (status.state == RunState::quiet && !arm.stopped_by.empty()) return text + printable(stopped_text(arm)) + problem;
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
  return text + problem;
}

/// Of a run that is sampled, without what a sample does not tell.
std::vector<ArmSummary> summaries_of(const RunsFollower& follower) {
  std::vector<ArmSummary> arms = summarize(follower.runs());
  for (std::size_t i = 0; i < arms.size(); ++i) {
    if (follower.status()[i].sampled_passes) {
      arms[i].phases.clear();
      arms[i].onset.reset();
    }
    if (follower.status()[i].sampled_steps) arms[i].low_rate.clear();
  }
  return arms;
}

/// The page's text. Runs that are not there yet have no settings that others could be held against.
PageContent content_of(const RunsFollower& follower, const std::vector<ArmSummary>& arms) {
  PageContent content = page_content(follower.runs(), arms, compare_runs(follower.runs(), arms, std::nullopt));
  for (const RunStatus& status : follower.status()) {
    if (status.state == RunState::waiting) {
      content.pairs.clear();
      content.comparability.clear();
      content.differences.clear();
    }
    if (is_coarse(status)) {
      content.reading = std::string("<p>") + kCoarse + "</p>";
      content.summary = "<p class=\"note\">Follows when all logs are read.</p>";
      content.pairs.clear();
      content.comparability.clear();
      content.notes.clear();
    }
  }
  return content;
}

}  // namespace

LiveState::LiveState(const std::vector<std::string>& directories)
    : LiveState(directories, sampling_for(directories.size())) {}

LiveState::LiveState(const std::vector<std::string>& directories, const Sampling& sampling)
    : follower_(directories, sampling), server_name_(random_name()) {}

bool LiveState::look(std::int64_t limit) {
  const std::lock_guard lock(mutex_);
  if (follower_.look(limit, Clock::now())) ++version_;
  looked_.store(true);
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
  opened_.store(Clock::now());
  if (!looked_.load()) return live_page_html({});
  const std::lock_guard lock(mutex_);
  return live_page_html(content_of(follower_, summaries_of(follower_)));
}

bool LiveState::page_opens() const {
  const Clock::time_point opened = opened_.load();
  return opened != Clock::time_point::min() && Clock::now() - opened < kOpening;
}

std::shared_ptr<const Snapshot> LiveState::make_snapshot() {
  if (records_made_ != follower_.records_version()) {
    arms_ = summaries_of(follower_);
    const PageContent content = content_of(follower_, arms_);
    title_ = content.title;
    const Json parts = {{"reading", content.reading},
                        {"summary", content.summary},
                        {"pairs", content.pairs},
                        {"comparability", content.comparability},
                        {"differences", content.differences},
                        {"notes", content.notes}};
    records_ = ",\"parts\":" + parts.dump(-1, ' ', false, Json::error_handler_t::replace) +
               ",\"payload\":" + page_payload(follower_.runs(), arms_);
    records_made_ = follower_.records_version();
    for (ArmSummary& arm : arms_) arm.probes.clear();  // the follower's
  }
  std::string status;
  bool problem = false;
  for (std::size_t i = 0; i < arms_.size(); ++i) {
    status += (i == 0 ? "" : " · ") + status_text(arms_[i], follower_.status()[i]);
    problem = problem || !follower_.status()[i].problem.empty();
  }
  const Json head = {{"title", title_}, {"status", status}, {"problem", problem}};
  Snapshot snapshot;
  snapshot.status = head.dump(-1, ' ', false, Json::error_handler_t::replace);
  snapshot.data = snapshot.status.substr(0, snapshot.status.size() - 1) + records_ + "}";
  snapshot.records = "\"" + server_name_ + "-" + std::to_string(records_made_) + "-";
  snapshot.tag = snapshot.records + std::to_string(version_) + "\"";
  return std::make_shared<const Snapshot>(std::move(snapshot));
}

}  // namespace sinkscope
