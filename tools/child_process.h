// This program started again beside itself.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sinkscope {

/// How a process ended.
struct ChildEnd {
  int status = 0;       // exit status; 128 + signal where a signal ended it
  bool killed = false;  // by a signal, not by returning
};

struct ChildOptions {
  std::vector<std::string> arguments;                            // of sinkscope: {"train", "arm.json"}
  std::vector<std::pair<std::string, std::string>> environment;  // set beside, or instead of, what is there
  std::filesystem::path
      log;  // stdout and stderr are added to its end and stdin is empty; empty path: all three are ours
};

/// A running `sinkscope`. It is sent SIGTERM when this process ends before it, however that comes; it must be
/// started by the main thread, whose end the kernel takes for that.
class ChildProcess {
 public:
  /// Throws std::runtime_error when the log cannot be opened or no process can be started.
  explicit ChildProcess(const ChildOptions& options);
  /// Waits for the end of a process that still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// How it ended, or nothing while it runs. Throws std::runtime_error where that cannot be known.
  std::optional<ChildEnd> ended();
  void send(int signal) const;

 private:
  pid_t process_ = -1;
  std::optional<ChildEnd> end_;
};

}  // namespace sinkscope
