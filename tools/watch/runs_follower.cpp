#include "tools/watch/runs_follower.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/json_members.h"
#include "engine/train/run_lock.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

constexpr double kFewestSeconds = 5;       // that the pace of a run is measured over
constexpr std::int64_t kFewestSteps = 5;
constexpr std::size_t kAveragedSteps = 50;

/// Differs when the file is another or was written to; empty when there is none.
std::string version_of(const fs::path& file) {
  struct stat status = {};
  if (stat(file.c_str(), &status) != 0) return {};
  const auto changed = status.st_mtim;
  return std::to_string(status.st_dev) + "/" + std::to_string(status.st_ino) + "/" + std::to_string(status.st_size) +
         "/" + std::to_string(changed.tv_sec) + "." + std::to_string(changed.tv_nsec);
}

std::optional<double> seconds_since_change(const fs::path& file) {
  struct stat status = {};
  if (stat(file.c_str(), &status) != 0) return std::nullopt;
  const auto changed = std::chrono::system_clock::from_time_t(status.st_mtim.tv_sec);
  return std::max(0.0, std::chrono::duration<double>(std::chrono::system_clock::now() - changed).count());
}

/// A list of numbers of a record that the views show.
template <class Record>
struct ShownList {
  std::string_view key;
  std::vector<double> Record::*numbers;
};
constexpr std::array<ShownList<StepRecord>, 2> kListsOfSteps = {{
    {"sink_score", &StepRecord::sink_score},
    {"sink_rate", &StepRecord::sink_rate},
}};
constexpr std::array<ShownList<StepRecord>, 4> kListsOfStepsByLayer = {{
    {"sink_score", &StepRecord::sink_score},
    {"sink_rate", &StepRecord::sink_rate},
    {"sink_score_layer", &StepRecord::sink_score_layer},
    {"norm_ratio", &StepRecord::norm_ratio},
}};
constexpr std::array<ShownList<ProbeRecord>, 1> kListsOfPasses = {{
    {"sink_excess", &ProbeRecord::sink_excess},
}};
constexpr std::array<ShownList<ProbeRecord>, 9> kListsOfShownPasses = {{
    {"sink_excess", &ProbeRecord::sink_excess},
    {"sink_score", &ProbeRecord::sink_score},
    {"sink_rate", &ProbeRecord::sink_rate},
    {"sink_rate_from", &ProbeRecord::sink_rate_from},
    {"residual_norm", &ProbeRecord::residual_norm},
    {"residual_norm_rest", &ProbeRecord::residual_norm_rest},
    {"norm_ratio", &ProbeRecord::norm_ratio},
    {"value_norm_first", &ProbeRecord::value_norm_first},
    {"value_norm_rest", &ProbeRecord::value_norm_rest},
}};
constexpr std::size_t kMostShownLists = kListsOfShownPasses.size();
constexpr std::size_t kSetsOfPass = 8;  // more than a pass has

/// The record of a line with, of its lists, those alone that `lists` gives for the set of its pass, "" of a step. They
/// are read by themselves: JSON of thousands of numbers takes far longer to build than to read.
template <class Record, class Lists>
Record read_slim(std::string_view line, const Lists& lists, Record (*from_json)(const nlohmann::ordered_json&)) {
  std::array<std::vector<double>, kMostShownLists> read;
  std::span<const ShownList<Record>> shown;
  const nlohmann::ordered_json members =
      read_members(line, [&](std::string_view key, const TextOf& text_of) -> std::vector<double>* {
        if (shown.empty()) shown = lists(text_of("set"));
        const auto list = std::find_if(shown.begin(), shown.end(), [&](const auto& entry) { return entry.key == key; });
        return list == shown.end() ? nullptr : &read[static_cast<std::size_t>(list - shown.begin())];
      });
  Record record = from_json(members);
  for (std::size_t i = 0; i < shown.size(); ++i)
    if (!read[i].empty()) record.*(shown[i].numbers) = std::move(read[i]);
  return record;
}

/// `layers` keeps what the heat maps of a run without probe passes are made of.
StepRecord slim_step(std::string_view line, bool layers) {
  const auto lists = [layers](std::string_view) -> std::span<const ShownList<StepRecord>> {
    if (layers) return kListsOfStepsByLayer;
    return kListsOfSteps;
  };
  StepRecord record = read_slim<StepRecord>(line, lists, step_record_from_json);
  for (std::vector<double>* list : {&record.sink_score, &record.sink_rate}) {
    list->resize(std::min(list->size(), kShownPositions));
    list->shrink_to_fit();
  }
  return record;
}

/// Scores (L, H, K) become the means over heads of the first positions, (L, 1, K').
void average_heads(ProbeRecord& record) {
  const auto heads = static_cast<std::size_t>(std::max<std::int64_t>(record.heads, 1));
  const auto positions = static_cast<std::size_t>(std::max<std::int64_t>(record.positions, 1));
  const std::size_t shown = std::min(positions, kShownPositions);
  const std::size_t layers = record.sink_score.size() / (heads * positions);
  std::vector<double> means(layers * shown, 0.0);
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t p = 0; p < shown; ++p)
        means[layer * shown + p] +=
            record.sink_score[(layer * heads + head) * positions + p] / static_cast<double>(heads);
  record.sink_score = std::move(means);
  record.heads = 1;
  // Norms are kept of every position: their rows are told apart by it, and only the first is shown.
  record.positions = static_cast<std::int64_t>(record.sink_score.empty() ? 0 : shown);
}

/// A pass over a set of which `shown` is true, whole but for what no chart shows; of other sets the excess alone.
ProbeRecord slim_pass(std::string_view line, const std::function<bool(std::string_view set)>& shown) {
  std::optional<bool> is_shown;
  const auto lists = [&](std::string_view set) -> std::span<const ShownList<ProbeRecord>> {
    if (!is_shown) is_shown = shown(set);
    if (*is_shown) return kListsOfShownPasses;
    return kListsOfPasses;
  };
  ProbeRecord record = read_slim<ProbeRecord>(line, lists, probe_record_from_json);
  average_heads(record);
  return record;
}

/// Held-out text at the training length, which the phases are read from: with a BOS or, as some runs have it, without.
bool is_text_set(std::string_view set) { return set == "natural" || set == "natural_bos"; }

bool has_text_passes(const RunData& run) {
  return std::any_of(run.probes.begin(), run.probes.end(),
                     [](const ProbeRecord& probe) { return is_text_set(probe.set); });
}

/// Looks at a log; `take` gets its lines, `drop` forgets all of them. A line that `take` refuses is told in `problem`.
bool follow(LogFollower& log, std::int64_t limit, std::string& problem, const std::function<void()>& drop,
            const std::function<void(std::string_view)>& take) {
  const LogLook look = log.look(
      [&] {
        problem.clear();
        drop();
      },
      [&](std::string_view line, std::int64_t number) {
        try {
          take(line);
        } catch (const std::exception& error) {
          problem = log.path().string() + ":" + std::to_string(number) + ": " + error.what();
        }
      },
      limit);
  return look.began_again || look.lines > 0;
}

}  // namespace

RunsFollower::Followed::Followed(const fs::path& directory)
    : steps(directory / "metrics.jsonl"), probes(directory / "probes.jsonl"), events(directory / "events.jsonl") {}

RunsFollower::RunsFollower(const std::vector<std::string>& directories) {
  for (const fs::path directory : directories) {
    followed_.emplace_back(directory);
    runs_.emplace_back();
    runs_.back().directory = directory;
    const fs::path normal = directory.lexically_normal();  // "runs/bos/" ends with an empty name
    runs_.back().name = (normal.has_filename() ? normal : normal.parent_path()).filename().string();
    status_.emplace_back();
  }
}

bool RunsFollower::look(std::int64_t limit, Clock::time_point now) {
  bool changed = false;
  for (std::size_t i = 0; i < runs_.size(); ++i) changed = look_at(i, limit, now) || changed;
  return changed;
}

bool RunsFollower::all_finished() const {
  return std::all_of(status_.begin(), status_.end(), [](const RunStatus& s) { return s.state == RunState::finished; });
}

bool RunsFollower::caught_up() const {
  return std::all_of(status_.begin(), status_.end(), [](const RunStatus& s) { return s.unread_bytes == 0; });
}

bool RunsFollower::look_at(std::size_t index, std::int64_t limit, Clock::time_point now) {
  Followed& followed = followed_[index];
  RunStatus& status = status_[index];
  const RunStatus before = status;
  bool changed = read_config(index);
  // Against the order in which a step is logged (load_run); the steps wait until all passes are read, which tell whether
  // their lists by layer are needed.
  std::string unreadable;
  try {
    if (followed.was_open) {  // the settings tell what of the logs is shown
      changed = read_events(index, limit) || changed;
      changed = read_probes(index, limit) || changed;
      if (followed.probes.unread_bytes() == 0) changed = read_steps(index, limit) || changed;
    }
  } catch (const std::exception& error) {  // a log that cannot be read
    unreadable = error.what();
  }
  status.unread_bytes = followed.events.unread_bytes() + followed.probes.unread_bytes() + followed.steps.unread_bytes();
  for (const std::string& problem : {followed.config_problem, unreadable, followed.log_problem})
    if (status.problem = problem; !problem.empty()) break;

  const RunData& run = runs_[index];
  const bool ended =
      std::any_of(run.events.begin(), run.events.end(), [](const EventRecord& e) { return e.kind == "end"; });
  if (!followed.open)
    status.state = RunState::waiting;
  else if (ended)
    status.state = RunState::finished;
  else
    status.state = run_lock_holder(run.directory) ? RunState::training : RunState::quiet;
  status.seconds_since_step = seconds_since_change(followed.steps.path());
  status.seconds_per_step = seconds_per_step(index, now);
  return changed || before.state != status.state || before.problem != status.problem ||
         before.unread_bytes != status.unread_bytes;
}

bool RunsFollower::read_config(std::size_t index) {
  Followed& followed = followed_[index];
  RunData& run = runs_[index];
  const std::string version = version_of(run.directory / "config.json");
  if (version == followed.config_version) return false;
  followed.config_version = version;
  followed.config_problem.clear();
  followed.open = false;
  if (version.empty()) return true;
  try {
    RunData read = open_run(run.directory);
    run.name = std::move(read.name);
    run.settings = std::move(read.settings);
    followed.open = followed.was_open = true;
  } catch (const std::exception& error) {
    followed.config_problem = error.what();
  }
  return true;
}

bool RunsFollower::read_events(std::size_t index, std::int64_t limit) {
  std::vector<EventRecord>& events = runs_[index].events;
  return follow(followed_[index].events, limit, followed_[index].log_problem, [&] { events.clear(); },
                [&](std::string_view line) { events.push_back(event_record_from_json(parse_json(std::string(line)))); });
}

bool RunsFollower::read_probes(std::size_t index, std::int64_t limit) {
  std::vector<ProbeRecord>& probes = runs_[index].probes;
  // A run is shown by the set of its phases, or by that set's twin where it has none (summarize).
  std::string bos = find_setting(runs_[index], "data.bos").value_or("");
  std::erase(bos, '"');
  const std::string preferred = phase_set_of(bos);
  const auto shown = [&](std::string_view set) {
    const auto first_pass = std::span(probes).first(std::min(probes.size(), kSetsOfPass));
    return set == preferred ||
           (is_text_set(set) && std::none_of(first_pass.begin(), first_pass.end(),
                                             [&](const ProbeRecord& probe) { return probe.set == preferred; }));
  };
  return follow(followed_[index].probes, limit, followed_[index].log_problem, [&] { probes.clear(); },
                [&](std::string_view line) { probes.push_back(slim_pass(line, shown)); });
}

bool RunsFollower::read_steps(std::size_t index, std::int64_t limit) {
  Followed& followed = followed_[index];
  std::vector<StepRecord>& steps = runs_[index].steps;
  const bool layers = !has_text_passes(runs_[index]);
  bool last_is_whole = !steps.empty();
  const auto make_slim = [&] {  // the last record, which a newer one follows
    if (!last_is_whole || followed.last_step_line.empty()) return;
    steps.back() = slim_step(followed.last_step_line, layers || steps.size() == 1);
    last_is_whole = false;
  };
  const bool changed = follow(
      followed.steps, limit, followed.log_problem,
      [&] {
        steps.clear();
        followed.last_step_line.clear();
        followed.first_step = -1;
        last_is_whole = false;
      },
      [&](std::string_view line) {
        make_slim();
        steps.push_back(slim_step(line, layers || steps.empty()));
        followed.last_step_line = line;
      });
  // The newest step is kept whole: norms by layer are read off it.
  if (changed && !steps.empty()) steps.back() = step_record_from_json(parse_json(followed.last_step_line));
  return changed;
}

std::optional<double> RunsFollower::seconds_per_step(std::size_t index, Clock::time_point now) {
  Followed& followed = followed_[index];
  const std::vector<StepRecord>& steps = runs_[index].steps;
  if (steps.empty()) return std::nullopt;
  const std::int64_t step = steps.back().step;
  if (status_[index].state == RunState::training && status_[index].unread_bytes == 0) {
    if (followed.first_step < 0) {
      followed.first_step = step;
      followed.first_seen = now;
    }
    const double seconds = std::chrono::duration<double>(now - followed.first_seen).count();
    if (seconds >= kFewestSeconds && step - followed.first_step >= kFewestSteps)
      return seconds / static_cast<double>(step - followed.first_step);
  } else {
    followed.first_step = -1;
  }
  double sum = 0;
  const std::size_t count = std::min(steps.size(), kAveragedSteps);
  for (std::size_t i = steps.size() - count; i < steps.size(); ++i) sum += steps[i].step_seconds;
  return sum / static_cast<double>(count);
}

}  // namespace sinkscope
