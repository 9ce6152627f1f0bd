#include "tools/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine/files/system_error.h"

extern char** environ;

namespace sinkscope {
namespace {

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& changes) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    bool replaced = false;
    for (const auto& [name, value] : changes) replaced = replaced || text.starts_with(name + "=");
    if (!replaced) variables.push_back(text);
  }
  for (const auto& [name, value] : changes) variables.push_back(name + "=" + value);
  return variables;
}

/// Pointers into `texts`, with the null that exec wants.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// In the new process, between fork and exec: nothing here allocates.
[[noreturn]] void become(pid_t parent, int log, int empty, char** arguments, char** variables) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);  // it ended before the line above
  if (log >= 0) {
    dup2(empty, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
  }
  execve("/proc/self/exe", arguments, variables);
  constexpr char kMessage[] = "sinkscope: error: /proc/self/exe: cannot be started\n";
  if (write(STDERR_FILENO, kMessage, sizeof kMessage - 1) < 0) _exit(126);
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  std::vector<std::string> words = {"sinkscope"};
  words.insert(words.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> variables = environment_with(options.environment);
  const std::vector<char*> argument_pointers = pointers(words), variable_pointers = pointers(variables);
  int log = -1, empty = -1;
  if (!options.log.empty()) {
    log = open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log < 0) throw_system_error(options.log, "open", errno);
    empty = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  const pid_t parent = getpid();
  process_ = fork();
  const int reason = errno;
  if (process_ == 0)
    become(parent, log, empty, const_cast<char**>(argument_pointers.data()),
           const_cast<char**>(variable_pointers.data()));
  if (log >= 0) close(log);
  if (empty >= 0) close(empty);
  if (process_ < 0) throw std::runtime_error(std::string("cannot start a process: ") + std::strerror(reason));
}

ChildProcess::~ChildProcess() {
  if (end_) return;
  int status = 0;
  while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ChildEnd> ChildProcess::ended() {
  if (end_) return end_;
  int status = 0;
  const pid_t ended = waitpid(process_, &status, WNOHANG);
  if (ended < 0 && errno != EINTR)
    throw std::runtime_error("cannot wait for process " + std::to_string(process_) + ": " + std::strerror(errno));
  if (ended != process_) return std::nullopt;
  end_ = WIFSIGNALED(status) ? ChildEnd{128 + WTERMSIG(status), true} : ChildEnd{WEXITSTATUS(status), false};
  return end_;
}

void ChildProcess::send(int signal) const {
  if (!end_) kill(process_, signal);
}

}  // namespace sinkscope
