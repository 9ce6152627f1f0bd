// The program that a config names for its alerts: started beside the training, never waited for by it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/config/config.h"
#include "engine/train/alerts.h"

namespace sinkscope {

/// Runs alerts.command once an alert, one at a time and in order, in a session of its own: a Ctrl-C does not reach it.
/// It is given no shell and no open file but these: standard input holds the alert's line of events.jsonl, standard
/// output and error are appended to alerts.log in the run directory. Beside the program's own environment it has
/// SINKSCOPE_ALERT_RUN (the run directory, absolute), _NAME, _STEP, _TOKENS, _VALUE, _THRESHOLD (empty where there is
/// none) and _MESSAGE. After alerts.command_timeout seconds it is killed, with what it started in its session.
class AlertCommand {
 public:
  static constexpr std::size_t kMostWaiting = 16;  // alerts; what comes on top is dropped

  /// `config.command` is not empty.
  AlertCommand(const AlertConfig& config, const std::filesystem::path& run_directory);
  /// As finish().
  ~AlertCommand();
  AlertCommand(const AlertCommand&) = delete;
  AlertCommand& operator=(const AlertCommand&) = delete;

  /// Hands over an alert, and does not wait.
  void start(const Alert& alert);

  /// The first failure of all, once: a command that cannot be started, ended with another status than 0, was killed, or
  /// was not run. Does not wait.
  std::optional<std::string> failure();

  /// Waits until every alert handed over is done with, at most alerts.command_timeout seconds; then kills the one that
  /// runs and drops the others.
  void finish();

 private:
  struct Job {
    std::vector<std::string> environment;  // NAME=value
    std::string input;
  };
  void work();
  std::string run(const Job& job);  // what failed; empty when nothing
  void fail(const std::string& what);

  std::vector<std::string> command_;
  std::chrono::duration<double> timeout_;
  std::filesystem::path run_directory_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  bool busy_ = false;       // a command runs
  bool ending_ = false;     // the worker is to end
  std::string failure_;     // the first
  std::atomic<bool> failed_ = false;  // and nobody asked yet
  std::thread worker_;      // from the first alert on
};

}  // namespace sinkscope
