#include "engine/train/alert_command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "engine/metrics/json_lines.h"

namespace sinkscope {
namespace {

constexpr std::chrono::milliseconds kLook{20};  // between two looks at a command that runs
constexpr int kLooksAfterKill = 50;             // one that even then hangs, on a dead disk, is left to the system
constexpr const char* kPrefix = "SINKSCOPE_ALERT_";

std::string reason(int error) { return std::generic_category().message(error); }

void check(int error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string("cannot ") + what + ": " + reason(error));
}

class Descriptor {
 public:
  Descriptor(int number, const char* what) : number_(number) { check(number < 0 ? errno : 0, what); }
  ~Descriptor() { close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

/// posix_spawn's two objects: a new session with the signals of a fresh program, and three files, no other.
class SpawnSettings {
 public:
  SpawnSettings(int input, int output) {
    check(posix_spawn_file_actions_init(&files_), "prepare files");
    if (const int error = posix_spawnattr_init(&attributes_); error != 0) {
      posix_spawn_file_actions_destroy(&files_);
      check(error, "prepare attributes");
    }
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawn_file_actions_adddup2(&files_, input, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files_, output, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files_, STDERR_FILENO + 1);
  }
  ~SpawnSettings() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&files_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
  const posix_spawn_file_actions_t* files() const { return &files_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t files_{};
  posix_spawnattr_t attributes_{};
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

/// A number as the event has it.
std::string number_text(double value) {
  const nlohmann::ordered_json json = number_to_json(value);
  return json.is_string() ? json.get<std::string>() : json.dump();
}

std::string seconds_text(double seconds) { return nlohmann::ordered_json(seconds).dump() + " s"; }

}  // namespace

AlertCommand::AlertCommand(const AlertConfig& config, const std::filesystem::path& run_directory)
    : command_(config.command),
      timeout_(config.command_timeout),
      run_directory_(std::filesystem::absolute(run_directory)) {}

AlertCommand::~AlertCommand() { finish(); }

void AlertCommand::start(const Alert& alert) {
  Job job;
  const auto set = [&](const char* name, const std::string& value) {
    job.environment.push_back(std::string(kPrefix) + name + "=" + value);
  };
  set("RUN", run_directory_.string());
  set("NAME", alert.name);
  set("STEP", std::to_string(alert.step));
  set("TOKENS", std::to_string(alert.tokens));
  set("VALUE", number_text(alert.value));
  set("THRESHOLD", alert.threshold ? number_text(*alert.threshold) : "");
  set("MESSAGE", alert.message);
  job.input = to_line(to_json(alert_event(alert)));
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) {
      fail("was not run for an alert: " + std::to_string(kMostWaiting) + " others wait for it");
      return;
    }
    waiting_.push_back(std::move(job));
    if (!worker_.joinable()) worker_ = std::thread([this] { work(); });
  }
  changed_.notify_all();
}

std::optional<std::string> AlertCommand::failure() {
  if (!failed_.exchange(false)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return failure_;
}

/// Under the lock.
void AlertCommand::fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = "alerts.command " + command_.front() + ": " + what;
  failed_ = true;
}

void AlertCommand::finish() {
  if (!worker_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout_, [&] { return waiting_.empty() && !busy_; });
    ending_ = true;
  }
  changed_.notify_all();
  worker_.join();
  const std::lock_guard lock(mutex_);
  worker_ = std::thread();
  ending_ = false;
  if (!waiting_.empty()) fail("was not run for the last alerts: the training had ended");
  waiting_.clear();
}

void AlertCommand::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    const Job job = std::move(waiting_.front());
    waiting_.pop_front();
    busy_ = true;
    lock.unlock();
    std::string failure;
    try {
      failure = run(job);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    lock.lock();
    if (!failure.empty()) fail(failure);
    busy_ = false;
    changed_.notify_all();
  }
}

std::string AlertCommand::run(const Job& job) {
  // A file in memory, not a pipe: nothing blocks when the command does not read it.
  const Descriptor input(memfd_create("sinkscope-alert", MFD_CLOEXEC), "make standard input");
  if (write(input.number(), job.input.data(), job.input.size()) != static_cast<ssize_t>(job.input.size()) ||
      lseek(input.number(), 0, SEEK_SET) != 0)
    check(errno, "write standard input");
  const std::filesystem::path log = run_directory_ / "alerts.log";
  const Descriptor output(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666),
                          ("open " + log.string()).c_str());

  std::vector<std::string> environment = job.environment;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!std::string_view(*entry).starts_with(kPrefix)) environment.emplace_back(*entry);
  std::vector<std::string> arguments = command_;
  const SpawnSettings settings(input.number(), output.number());
  pid_t child = 0;
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  if (const int error = posix_spawnp(&child, arguments.front().c_str(), settings.files(), settings.attributes(),
                                     pointers(arguments).data(), pointers(environment).data()); error != 0)
    return "cannot be started: " + reason(error);

  int status = 0;
  std::string killed;
  for (;;) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended < 0 && errno != EINTR) return "cannot be waited for: " + reason(errno);
    if (ended == child) break;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kLook, [&] { return ending_; });
    if (ending_)
      killed = "was killed, still running when the training had ended";
    else if (std::chrono::steady_clock::now() >= deadline)
      killed = "was killed after " + seconds_text(timeout_.count());
    else
      continue;
    kill(-child, SIGKILL);  // its session is one process group unless it made more
    lock.unlock();
    for (int look = 0; look < kLooksAfterKill && waitpid(child, &status, WNOHANG) == 0; ++look)
      std::this_thread::sleep_for(kLook);
    break;
  }
  if (!killed.empty()) return killed + " (alerts.command_timeout)";
  if (WIFSIGNALED(status)) return "ended by signal " + std::to_string(WTERMSIG(status));
  if (WEXITSTATUS(status) != 0)
    return "ended with status " + std::to_string(WEXITSTATUS(status)) + "; its output is in alerts.log";
  return {};
}

}  // namespace sinkscope
