// Runs that are training, finished or not there yet, read as their logs grow.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/metrics/log_follower.h"
#include "tools/report/report.h"

namespace sinkscope {

enum class RunState {
  waiting,   // there is no folder yet, or no config.json in it
  training,  // a process of this machine trains in it
  quiet,     // none does here: stopped, or training elsewhere
  finished,  // its last step is done
};

/// What is known of a run beside its records.
struct RunStatus {
  RunState state = RunState::waiting;
  /// What is wrong, naming file and line: a log's line that is malformed was left out. Empty when nothing is.
  std::string problem;
  std::int64_t unread_bytes = 0;             // of the logs, beyond what one look reads
  /// Of the steps, of the probe passes, runs() holds a spread sample: their log is not read to its end yet.
  bool sampled_steps = false, sampled_passes = false;
  std::optional<double> seconds_per_step;    // see RunsFollower::look
  std::optional<double> seconds_since_step;  // since metrics.jsonl last changed
};

/// The places of a log that a sample is taken from before it is read, where `least` bytes or more are to be read.
struct Sampling {
  std::size_t steps = 0, passes = 0;  // 0: no sample
  std::int64_t least = 0;
};

/// Reads each run's config.json, when it has changed, and what was appended to its three logs. Of a record only that is
/// kept which the summary and the page show, so that memory stays small beside the logs: of a step the lists by layer
/// where no probe pass has them, of a pass the scores of its first positions, means over heads. Of a log that is
/// sampled runs() holds the sample and nothing else until the log is read to its end, then all of it: a part read and a
/// part sampled would be drawn as if most had happened in the first.
class RunsFollower {
 public:
  using Clock = std::chrono::steady_clock;

  explicit RunsFollower(const std::vector<std::string>& directories, const Sampling& sampling = {});

  /// Reads what is new, about `limit` bytes of each log at most; returns whether a run, its state or its status changed
  /// but for its times. `now` measures how long a step takes, evaluations and probes included, once five steps have
  /// come in five seconds; before, and of a run that does not train, it is the mean of the last 50 logged step times.
  bool look(std::int64_t limit, Clock::time_point now);

  const std::vector<RunData>& runs() const { return runs_; }
  /// Another number whenever runs() may have changed.
  std::int64_t records_version() const { return records_version_; }
  const std::vector<RunStatus>& status() const { return status_; }
  bool all_finished() const;
  bool caught_up() const;  // nothing is left unread

 private:
  struct Followed {
    explicit Followed(const std::filesystem::path& directory);

    LogFollower steps, probes, events;
    std::string config_version;      // tells whether config.json is another than was read
    bool open = false, was_open = false;  // config.json is read, and ever was
    std::string config_problem, log_problem;
    std::string last_step_line;      // of metrics.jsonl, whole
    std::vector<StepRecord> steps_read;    // what is read of a log while runs() holds its sample
    std::vector<ProbeRecord> passes_read;
    bool new_steps = true, new_passes = true;  // of a log that begins: a sample may be due
    std::int64_t first_step = -1;    // that a look found, and when: after what was there at first
    Clock::time_point first_seen;
  };

  bool look_at(std::size_t index, std::int64_t limit, Clock::time_point now);
  bool read_config(std::size_t index);
  bool read_steps(std::size_t index, std::int64_t limit);
  bool read_probes(std::size_t index, std::int64_t limit);
  bool read_events(std::size_t index, std::int64_t limit);
  bool sample_steps(std::size_t index);
  bool sample_passes(std::size_t index);
  std::function<bool(std::string_view set)> shown_sets(std::size_t index, const std::vector<ProbeRecord>& passes) const;
  std::vector<StepRecord>& read_steps_of(std::size_t index);    // of what was read front to back
  std::vector<ProbeRecord>& read_passes_of(std::size_t index);
  std::optional<double> seconds_per_step(std::size_t index, Clock::time_point now);

  Sampling sampling_;
  std::int64_t records_version_ = 0;
  std::vector<Followed> followed_;
  std::vector<RunData> runs_;
  std::vector<RunStatus> status_;
};

}  // namespace sinkscope
