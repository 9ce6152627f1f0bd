#include "tools/watch/runs_follower.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
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

std::int64_t bytes_of(const fs::path& file) {
  struct stat status = {};
  return stat(file.c_str(), &status) == 0 ? status.st_size : 0;
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
constexpr std::size_t kBatchBytes = std::size_t{4} << 20;
constexpr std::size_t kThreadBytes = std::size_t{256} << 10;  // of a batch that another thread is worth

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
  const std::size_t scores = record.sink_score.size();
  if (scores > 0 && (heads > scores || positions > scores / heads || scores % (heads * positions) != 0))
    throw std::runtime_error("key 'sink_score': " + std::to_string(scores) +
                             " numbers, expected a multiple of heads (" + std::to_string(heads) +
                             ") times positions (" + std::to_string(positions) + ")");
  if (scores == 0) {
    record.heads = 1;
    record.positions = 0;
    return;
  }
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

/// Lines of a log that are made records of together, by two threads: most of the time of reading goes into it.
template <class Record>
class Batch {
 public:
  using Parse = std::function<Record(std::string_view line)>;

  void add(std::string_view line, std::int64_t number) {
    if (used_ == lines_.size()) lines_.emplace_back();
    lines_[used_].text.assign(line);
    lines_[used_++].number = number;
    bytes_ += line.size();
  }
  std::size_t bytes() const { return bytes_; }

  /// Gives the records and their lines to `keep` in order, the numbers and errors of lines that are none to `refuse`.
  void flush(const Parse& parse, const std::function<void(Record&&, std::string&)>& keep,
             const std::function<void(std::int64_t, const std::string&)>& refuse) {
    const std::span<Line> lines = std::span(lines_).first(used_);
    const auto make = [&parse](std::span<Line> some) {
      for (Line& line : some) {
        line.error.clear();
        try {
          line.record = parse(line.text);
        } catch (const std::exception& error) {
          line.record.reset();
          line.error = error.what();
        }
      }
    };
    std::size_t half = 0;  // of the bytes
    if (bytes_ >= kThreadBytes)
      for (std::size_t sum = 0; half < used_ && sum < bytes_ / 2; ++half) sum += lines[half].text.size();
    std::thread other;
    if (half > 0) other = std::thread(make, lines.first(half));
    make(lines.subspan(half));
    if (other.joinable()) other.join();
    used_ = bytes_ = 0;
    for (Line& line : lines) {
      if (line.record)
        keep(std::move(*line.record), line.text);
      else
        refuse(line.number, line.error);
    }
  }

 private:
  struct Line {
    std::string text;
    std::int64_t number = 0;
    std::optional<Record> record;
    std::string error;
  };
  std::vector<Line> lines_;  // the first used_ of them
  std::size_t used_ = 0, bytes_ = 0;
};

/// What `follow` does with a log.
template <class Record>
struct Taking {
  std::function<void()> drop;                          // forgets all records
  std::function<bool()> alone;                         // whether the next line waits for the record of the one before
  std::function<Record(std::string_view line)> parse;  // from two threads
  std::function<void(Record&&, std::string& line)> keep;
};

/// Looks at a log. A line that `parse` refuses is told in `problem`.
template <class Record>
bool follow(LogFollower& log, std::int64_t limit, std::string& problem, const Taking<Record>& taking) {
  Batch<Record> batch;
  const auto flush = [&] {
    batch.flush(taking.parse, taking.keep, [&](std::int64_t number, const std::string& error) {
      problem = log.path().string() + ":" + std::to_string(number) + ": " + error;
    });
  };
  LogLook look;
  try {
    look = log.look(
        [&] {
          problem.clear();
          taking.drop();
        },
        [&](std::string_view line, std::int64_t number) {
          batch.add(line, number);
          if (batch.bytes() >= kBatchBytes || taking.alone()) flush();
        },
        limit);
  } catch (...) {
    flush();  // what was read before
    throw;
  }
  flush();
  return look.began_again || look.lines > 0;
}

}  // namespace

RunsFollower::Followed::Followed(const fs::path& directory)
    : steps(directory / "metrics.jsonl"), probes(directory / "probes.jsonl"), events(directory / "events.jsonl") {}

RunsFollower::RunsFollower(const std::vector<std::string>& directories, const Sampling& sampling)
    : sampling_(sampling) {
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
  // Against the order in which a step is logged (load_run); the steps wait until all passes are read, or the sample of
  // them, which tell whether their lists by layer are needed.
  std::string unreadable;
  try {
    if (followed.was_open) {  // the settings tell what of the logs is shown
      changed = read_events(index, limit) || changed;
      changed = read_probes(index, limit) || changed;
      changed = sample_passes(index) || changed;
      const bool known =
          followed.probes.unread_bytes() == 0 || (status.sampled_passes && has_text_passes(runs_[index]));
      if (known) changed = read_steps(index, limit) || changed;
      changed = sample_steps(index) || changed;
    }
  } catch (const std::exception& error) {  // a log that cannot be read
    unreadable = error.what();
  }
  status.unread_bytes = followed.events.unread_bytes() + followed.probes.unread_bytes() + followed.steps.unread_bytes();
  if (followed.probes.unread_bytes() > 0)  // the steps wait
    status.unread_bytes += std::max<std::int64_t>(0, bytes_of(followed.steps.path()) - followed.steps.read_bytes() -
                                                         followed.steps.unread_bytes());
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
  ++records_version_;
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
  Taking<EventRecord> taking;
  taking.drop = [&] { events.clear(); };
  taking.alone = [] { return false; };
  taking.parse = [](std::string_view line) { return event_record_from_json(parse_json(std::string(line))); };
  taking.keep = [&](EventRecord&& event, std::string&) { events.push_back(std::move(event)); };
  const bool changed = follow(followed_[index].events, limit, followed_[index].log_problem, taking);
  records_version_ += changed;
  return changed;
}

std::vector<ProbeRecord>& RunsFollower::read_passes_of(std::size_t index) {
  return status_[index].sampled_passes ? followed_[index].passes_read : runs_[index].probes;
}

std::vector<StepRecord>& RunsFollower::read_steps_of(std::size_t index) {
  return status_[index].sampled_steps ? followed_[index].steps_read : runs_[index].steps;
}

/// Whether the passes over a set are shown, of a run whose first ones are `passes`.
std::function<bool(std::string_view)> RunsFollower::shown_sets(std::size_t index,
                                                               const std::vector<ProbeRecord>& passes) const {
  // A run is shown by the set of its phases, or by that set's twin where it has none (summarize).
  std::string bos = find_setting(runs_[index], "data.bos").value_or("");
  std::erase(bos, '"');
  return [&passes, preferred = phase_set_of(bos)](std::string_view set) {
    const auto first_pass = std::span(passes).first(std::min(passes.size(), kSetsOfPass));
    return set == preferred ||
           (is_text_set(set) && std::none_of(first_pass.begin(), first_pass.end(),
                                             [&](const ProbeRecord& probe) { return probe.set == preferred; }));
  };
}

bool RunsFollower::read_probes(std::size_t index, std::int64_t limit) {
  Followed& followed = followed_[index];
  RunStatus& status = status_[index];
  RunData& run = runs_[index];
  Taking<ProbeRecord> taking;
  taking.drop = [&] {
    run.probes.clear();
    followed.passes_read.clear();
    status.sampled_passes = false;
    followed.new_passes = true;
    ++records_version_;
  };
  taking.alone = [&] { return read_passes_of(index).size() < kSetsOfPass; };
  taking.parse = [&](std::string_view line) { return slim_pass(line, shown_sets(index, read_passes_of(index))); };
  taking.keep = [&](ProbeRecord&& pass, std::string&) { read_passes_of(index).push_back(std::move(pass)); };
  const bool changed = follow(followed.probes, limit, followed.log_problem, taking);
  if (status.sampled_passes && followed.probes.unread_bytes() == 0) {
    run.probes = std::exchange(followed.passes_read, {});
    status.sampled_passes = false;
    ++records_version_;
  }
  if (!status.sampled_passes) records_version_ += changed;
  return changed;
}

bool RunsFollower::sample_passes(std::size_t index) {
  Followed& followed = followed_[index];
  if (!std::exchange(followed.new_passes, false) || sampling_.passes == 0) return false;
  std::vector<ProbeRecord> sample;
  const auto shown = shown_sets(index, sample);
  std::size_t sets = 0;  // of a pass: as many lines are taken at a place
  const auto take = [&](std::string_view line, std::size_t nth) {
    try {
      sample.push_back(slim_pass(line, shown));
    } catch (const std::exception&) {  // reading the log tells it, with its number
    }
    if (sets > 0) return nth + 1 < sets;
    const bool another_pass = !sample.empty() && sample.back().step != sample.front().step;
    if (another_pass || nth == kSetsOfPass) sets = std::max<std::size_t>(nth, 1);
    return sets == 0;
  };
  if (!followed.probes.sample(sampling_.passes, sampling_.least, take)) return false;
  followed.passes_read = std::exchange(runs_[index].probes, std::move(sample));
  status_[index].sampled_passes = true;
  ++records_version_;
  return true;
}

bool RunsFollower::read_steps(std::size_t index, std::int64_t limit) {
  Followed& followed = followed_[index];
  RunStatus& status = status_[index];
  RunData& run = runs_[index];
  const bool layers = !has_text_passes(run);
  bool last_is_whole = !read_steps_of(index).empty();
  const auto make_slim = [&] {  // the last record, which a newer one follows
    std::vector<StepRecord>& steps = read_steps_of(index);
    if (!last_is_whole || followed.last_step_line.empty()) return;
    steps.back() = slim_step(followed.last_step_line, layers || steps.size() == 1);
    last_is_whole = false;
  };
  Taking<StepRecord> taking;
  taking.drop = [&] {
    run.steps.clear();
    followed.steps_read.clear();
    status.sampled_steps = false;
    followed.new_steps = true;
    followed.last_step_line.clear();
    followed.first_step = -1;
    last_is_whole = false;
    ++records_version_;
  };
  taking.alone = [&] { return read_steps_of(index).empty(); };
  taking.parse = [&](std::string_view line) { return slim_step(line, layers || read_steps_of(index).empty()); };
  taking.keep = [&](StepRecord&& step, std::string& line) {
    make_slim();
    read_steps_of(index).push_back(std::move(step));
    followed.last_step_line.swap(line);
  };
  const bool changed = follow(followed.steps, limit, followed.log_problem, taking);
  // The newest step is kept whole: norms by layer are read off it.
  if (std::vector<StepRecord>& steps = read_steps_of(index); changed && !steps.empty())
    steps.back() = step_record_from_json(parse_json(followed.last_step_line));
  if (status.sampled_steps && followed.steps.unread_bytes() == 0) {
    run.steps = std::exchange(followed.steps_read, {});
    status.sampled_steps = false;
    ++records_version_;
  }
  if (!status.sampled_steps) records_version_ += changed;
  return changed;
}

bool RunsFollower::sample_steps(std::size_t index) {
  Followed& followed = followed_[index];
  if (!std::exchange(followed.new_steps, false) || sampling_.steps == 0) return false;
  std::vector<StepRecord> sample;
  std::string last_line;
  const bool layers = !has_text_passes(runs_[index]);
  const bool sampled = followed.steps.sample(sampling_.steps, sampling_.least, [&](std::string_view line, std::size_t) {
    try {
      sample.push_back(slim_step(line, layers || sample.empty()));
      last_line = line;
    } catch (const std::exception&) {  // reading the log tells it, with its number
    }
    return false;
  });
  if (!sampled) return false;
  try {
    if (!sample.empty()) sample.back() = step_record_from_json(parse_json(last_line));
  } catch (const std::exception&) {
  }
  followed.steps_read = std::exchange(runs_[index].steps, std::move(sample));
  status_[index].sampled_steps = true;
  ++records_version_;
  return true;
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
