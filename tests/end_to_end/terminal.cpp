#include "tests/end_to_end/terminal.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <utility>

namespace sinkscope::test {

Terminal::Terminal(const std::string& script) {
  winsize size{.ws_row = 50, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
  process_ = forkpty(&terminal_, nullptr, nullptr, &size);
  if (process_ < 0) throw std::runtime_error("forkpty failed");
  if (process_ > 0) return;
  for (const int signal : {SIGINT, SIGHUP, SIGTERM}) ::signal(signal, SIG_DFL);
  execl("/bin/bash", "bash", "-c", script.c_str(), static_cast<char*>(nullptr));
  _exit(127);
}

Terminal::~Terminal() {
  if (!status_) {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  if (terminal_ >= 0) close(terminal_);
}

bool Terminal::wait_for(const std::vector<std::string>& parts) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    if (std::all_of(parts.begin(), parts.end(), [&](const std::string& part) { return contains(output_, part); }))
      return true;
    if (!read()) return false;
  }
  return false;
}

void Terminal::press_control_c() {
  if (write(terminal_, "\x03", 1) != 1) throw std::runtime_error("the terminal is gone");
}

void Terminal::hang_up() { close(std::exchange(terminal_, -1)); }

int Terminal::status() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (terminal_ >= 0 && read())
    if (std::chrono::steady_clock::now() > end) return -1;
  int status = 0;
  while (waitpid(process_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > end) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return *status_;
}

/// What there is, within a tenth of a second; false at the end.
bool Terminal::read() {
  pollfd waiting{.fd = terminal_, .events = POLLIN, .revents = 0};
  if (poll(&waiting, 1, 100) <= 0) return true;
  char buffer[4096];
  const ssize_t n = ::read(terminal_, buffer, sizeof buffer);
  if (n <= 0) return false;
  for (const char c : std::string(buffer, static_cast<std::size_t>(n)))
    if (c != '\r') output_ += c;
  return true;
}

Outcome outcome_of(const std::string& script) {
  FILE* pipe = popen(("{ " + script + "\n} 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  Outcome outcome;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace sinkscope::test
