#include "tools/arms.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <thread>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/files/new_folder.h"
#include "engine/files/replacement.h"
#include "engine/metrics/json_lines.h"
#include "engine/metrics/sinks.h"
#include "engine/train/run_files.h"
#include "engine/train/run_lock.h"
#include "engine/train/run_memory.h"
#include "engine/train/trainer.h"
#include "engine/train/training_batches.h"
#include "tools/child_process.h"
#include "tools/program.h"
#include "tools/report/format.h"
#include "tools/watch/terminal.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{50};
constexpr std::chrono::seconds kStatusOnTerminal{1}, kStatusElsewhere{60}, kLockPatience{60};

bool has_ended(const fs::path& directory) {
  if (!fs::exists(directory / "events.jsonl")) return false;
  const std::vector<EventRecord> events = read_event_records(directory);
  return std::any_of(events.begin(), events.end(), [](const EventRecord& event) { return event.kind == "end"; });
}

/// The last `bytes` of a file, or all of it; nothing where there is none.
std::string tail(const fs::path& file, std::int64_t bytes) {
  std::ifstream stream(file, std::ios::binary);
  stream.seekg(0, std::ios::end);
  const auto size = static_cast<std::int64_t>(stream.tellg());
  if (!stream || size <= 0) return {};
  std::string text(static_cast<std::size_t>(std::min(size, bytes)), '\0');
  stream.seekg(size - std::ssize(text));
  stream.read(text.data(), std::ssize(text));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

/// Whole lines from the end on, the last one first, but for one that `text` may have cut.
std::vector<std::string> last_lines(std::string text, bool whole_file) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.rfind('\n');
    if (end == std::string::npos) break;
    const std::size_t before = end == 0 ? std::string::npos : text.rfind('\n', end - 1);
    if (before == std::string::npos && !whole_file) break;
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    lines.push_back(text.substr(begin, end - begin));
    text.resize(begin);
  }
  return lines;
}

/// The last step in metrics.jsonl; 0 where none is to be read.
std::int64_t last_logged_step(const fs::path& directory) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 18;
  const std::string text = tail(directory / "metrics.jsonl", kBytes);
  for (const std::string& line : last_lines(text, std::ssize(text) < kBytes)) {
    const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("step") && json["step"].is_number_integer())
      return json["step"].get<std::int64_t>();
  }
  return 0;
}

std::string last_words(const fs::path& log) {
  constexpr std::int64_t kBytes = 8192;
  const std::string text = tail(log, kBytes);
  for (const std::string& line : last_lines(text, std::ssize(text) < kBytes))
    if (line.find_first_not_of(" \r\t") != std::string::npos) return line;
  return {};
}

/// Who else holds the run directory; nothing when it is free. Throws where that cannot be found out.
std::optional<std::string> in_use(const fs::path& directory) {
  if (!fs::exists(directory / "lock")) return std::nullopt;
  try {
    const RunLock lock(directory);
  } catch (const RunInUse& held) {
    return held.what();
  }
  return std::nullopt;
}

class Runner {
 public:
  Runner(const std::vector<PlannedArm>& arms, const ArmOptions& options)
      : arms_(arms), options_(options), outcomes_(arms.size()), slots_(static_cast<std::size_t>(options.jobs)) {}

  std::vector<ArmOutcome> run() {
    for (std::size_t i = 0; i < arms_.size(); ++i) {
      if (!arms_[i].done) {
        waiting_.push_back(i);
        continue;
      }
      outcomes_[i].state = ArmState::done;
      if (!one_at_a_time()) tell_done(i);
    }
    together_ = std::clamp(static_cast<int>(waiting_.size()), 1, static_cast<int>(options_.jobs));
    while (true) {
      reap();
      if (interrupted().load() && !stopping_) pass_on();
      if (!stopping_) start();
      if (running() == 0 && (stopping_ || waiting_.empty())) break;
      show_status();
      std::this_thread::sleep_for(kPoll);
    }
    clear_status();
    if (one_at_a_time() && !stopping_) tell_done_up_to(arms_.size());
    return outcomes_;
  }

 private:
  struct Slot {
    std::unique_ptr<ChildProcess> child;  // null: free
    std::size_t arm = 0;
    Clock::time_point began;
  };

  bool one_at_a_time() const { return options_.jobs == 1; }
  std::string title(std::size_t arm) const {
    return "arm " + std::to_string(arm + 1) + " of " + std::to_string(arms_.size()) + ": " + arms_[arm].config.name;
  }
  std::ptrdiff_t running() const {
    return std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.child != nullptr; });
  }

  void line(const std::string& text) {
    clear_status();
    std::cout << text << std::endl;
  }

  void tell_done(std::size_t arm) {
    line(title(arm) + "\n" + arms_[arm].directory.string() + ": all " + std::to_string(arms_[arm].config.train.steps) +
         " steps are done already; there is nothing to resume");
  }

  /// One at a time, what was done before is told in its place among the others.
  void tell_done_up_to(std::size_t arm) {
    for (; told_ < arm; ++told_)
      if (arms_[told_].done) tell_done(told_);
  }

  void start() {
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].child) continue;
      const auto free = std::find_if(waiting_.begin(), waiting_.end(), [&](std::size_t arm) { return may_start(arm); });
      if (free == waiting_.end()) return;
      const std::size_t arm = *free;
      waiting_.erase(free);
      if (outcomes_[arm].state == ArmState::failed) continue;  // waited for in vain
      start(slot, arm);
    }
  }

  /// Whether no other process trains there; true as well, with a failure as outcome, where that cannot be found out,
  /// and once it has taken too long.
  bool may_start(std::size_t arm) {
    std::optional<std::string> holder;
    try {
      holder = in_use(arms_[arm].directory);
    } catch (const std::exception& error) {
      fail(arm, error.what());
    }
    if (!holder) return true;
    if (held_since_.empty()) held_since_.resize(arms_.size());
    if (!held_since_[arm]) {
      held_since_[arm] = Clock::now();
      line(title(arm) + " waits: " + *holder);
    }
    if (Clock::now() - *held_since_[arm] < kLockPatience) return false;
    fail(arm, *holder);
    return true;
  }

  void start(std::size_t slot, std::size_t arm) {
    const PlannedArm& planned = arms_[arm];
    ChildOptions child;
    const fs::path config = planned.directory / kArmConfigFile;
    try {
      make_folders(planned.directory);
      FileReplacement file(config);
      file.write(to_json(planned.config).dump(2) + "\n");
      file.commit();
      child.arguments = {"train", config.string(), "--gpus", "1"};  // what an arm computes depends on no other GPU
      if (begun(planned.directory)) child.arguments.emplace_back("--resume");
      child.environment.emplace_back(kArmVariable, planned.config.name);
      std::string where;
      if (planned.on_gpu && !options_.gpus.empty()) {
        const std::string& gpu = options_.gpus[slot % options_.gpus.size()];
        child.environment.emplace_back("CUDA_VISIBLE_DEVICES", gpu);
        where = " on GPU " + gpu;
      } else if (!planned.on_gpu && !one_at_a_time() && planned.config.threads == 0) {
        const std::string threads = std::to_string(std::max(1, omp_get_max_threads() / together_));
        child.environment.emplace_back("OMP_NUM_THREADS", threads);
        where = " with " + threads + (threads == "1" ? " thread" : " threads");
      }
      if (!one_at_a_time()) child.log = planned.directory / kArmLogFile;
      if (one_at_a_time()) tell_done_up_to(arm);
      line(title(arm) + (one_at_a_time() ? where : " begins" + where + "; what it prints: " + child.log.string()));
      slots_[slot] = {std::make_unique<ChildProcess>(child), arm, Clock::now()};
    } catch (const std::exception& error) {
      fail(arm, error.what());
    }
  }

  void reap() {
    for (Slot& slot : slots_) {
      if (!slot.child) continue;
      const std::optional<ChildEnd> end = slot.child->ended();
      if (!end) continue;
      slot.child.reset();
      const std::string time = format_seconds(std::chrono::duration<double>(Clock::now() - slot.began).count());
      if (end->status == 0) {
        outcomes_[slot.arm].state = ArmState::done;
        if (!one_at_a_time()) line(title(slot.arm) + " is done, in " + time);
      } else if (end->killed ? interrupted().load() : end->status > 128) {
        outcomes_[slot.arm] = {ArmState::stopped, "stopped by signal " + std::to_string(end->status - 128)};
        if (!one_at_a_time() || !stopping_) line(title(slot.arm) + " has stopped, after " + time);
      } else {
        fail(slot.arm, end->killed ? "ended by signal " + std::to_string(end->status - 128)
                                   : "exit status " + std::to_string(end->status));
      }
    }
  }

  void fail(std::size_t arm, const std::string& reason) {
    const fs::path log = arms_[arm].directory / kArmLogFile;
    const std::string words = one_at_a_time() ? std::string() : last_words(log);
    outcomes_[arm] = {ArmState::failed, reason + (words.empty() ? "" : "; " + log.string() + " ends with " + words)};
    line(title(arm) + " has failed: " + reason + (words.empty() ? "" : "; " + log.string() + " ends with\n  " + words));
  }

  void pass_on() {
    stopping_ = true;
    for (const Slot& slot : slots_)
      if (slot.child) slot.child->send(interrupting_signal());
    if (!one_at_a_time()) line("stopping: " + std::to_string(running()) + " arms save a checkpoint");
  }

  void show_status() {
    if (one_at_a_time()) return;
    const auto now = Clock::now();
    if (now - status_time_ < (terminal_ ? Clock::duration(kStatusOnTerminal) : Clock::duration(kStatusElsewhere)))
      return;
    status_time_ = now;
    const auto in_state = [&](ArmState state) {
      return std::to_string(
          std::count_if(outcomes_.begin(), outcomes_.end(), [&](const ArmOutcome& o) { return o.state == state; }));
    };
    std::string text = in_state(ArmState::done) + " of " + std::to_string(arms_.size()) + " arms done";
    if (const std::string failed = in_state(ArmState::failed); failed != "0") text += ", " + failed + " failed";
    if (!waiting_.empty()) text += ", " + std::to_string(waiting_.size()) + " waiting";
    const char* separator = "; ";
    for (const Slot& slot : slots_) {
      if (!slot.child) continue;
      const PlannedArm& arm = arms_[slot.arm];
      text += separator + fs::path(arm.config.name).filename().string() + " " +
              std::to_string(last_logged_step(arm.directory)) + "/" + std::to_string(arm.config.train.steps);
      separator = ", ";
    }
    if (!terminal_) {
      std::cout << text << std::endl;
      return;
    }
    text.resize(std::min(text.size(), static_cast<std::size_t>(std::max(terminal_width() - 1, 1))));
    std::cout << "\r\033[K" << text << std::flush;
    status_shown_ = true;
  }

  void clear_status() {
    if (status_shown_) std::cout << "\r\033[K" << std::flush;
    status_shown_ = false;
  }

  const std::vector<PlannedArm>& arms_;
  const ArmOptions& options_;
  std::vector<ArmOutcome> outcomes_;
  std::vector<Slot> slots_;
  std::vector<std::size_t> waiting_;
  std::vector<std::optional<Clock::time_point>> held_since_;  // by an arm; empty until one is held
  std::size_t told_ = 0;
  int together_ = 1;  // arms that run at a time, as many as there are to do
  bool stopping_ = false;
  const bool terminal_ = is_terminal(STDOUT_FILENO);
  bool status_shown_ = false;
  Clock::time_point status_time_ = Clock::now();
};

}  // namespace

bool begun(const fs::path& run_directory) { return fs::exists(run_directory / "config.json"); }

std::vector<PlannedArm> plan_arms(const std::vector<Config>& arms) {
  std::vector<PlannedArm> planned;
  for (const Config& config : arms)
    planned.push_back({config, run_directory(config), false, backend_of(config).device == Device::cuda});
  std::optional<Dataset> dataset;  // the last one opened: arms mostly share it
  const DataConfig* opened = nullptr;
  for (PlannedArm& arm : planned) {
    const DataConfig& data = arm.config.data;
    if (opened == nullptr || opened->path != data.path || opened->train != data.train ||
        opened->validation != data.validation) {
      dataset.emplace(open_dataset(data));
      opened = &data;
    }
    const Config completed = run_config(arm.config, *dataset);
    if (!begun(arm.directory)) continue;
    check_run_config(arm.directory, completed, dataset->fingerprint);
    arm.done = has_ended(arm.directory);
  }
  return planned;
}

std::vector<ArmOutcome> run_arms(const std::vector<PlannedArm>& arms, const ArmOptions& options) {
  return Runner(arms, options).run();
}

}  // namespace sinkscope
