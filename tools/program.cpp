#include "tools/program.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <iostream>
#include <new>
#include <stdexcept>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/communicator.h"
#include "sinkscope_build.h"
#include "sinkscope_commit.h"
#include "tools/report/report.h"
#include "tools/watch/terminal.h"

namespace sinkscope {
namespace {

std::atomic<bool> interrupt_flag = false;
std::atomic<int> interrupt_signal = 0;
std::atomic<std::int64_t> interrupt_second = -1;  // of the first that was not SIGUSR1
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free &&
              std::atomic<std::int64_t>::is_always_lock_free, "set from a signal handler");
bool outlives_output = false;

/// The first signal asks for a checkpoint, and so do those right behind it: launchers such as `timeout` send one
/// to the program and one to its process group. A signal that comes two seconds later or more ends the program. SIGUSR1
/// asks for the checkpoint too, but counts for nothing else: a scheduler sends it ahead of the signal that it warns of.
void on_signal(int signal) {
  if (!interrupt_flag.load()) {
    interrupt_signal.store(signal);
    interrupt_flag.store(true);
  }
  if (signal == SIGUSR1) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (interrupt_second.load() < 0) {
    interrupt_second.store(now.tv_sec);
  } else if (now.tv_sec - interrupt_second.load() >= 2) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

std::string build_description() {
  return std::string("sinkscope " SINKSCOPE_VERSION " (commit ") + SINKSCOPE_COMMIT + ", " SINKSCOPE_COMPILER
         ", " SINKSCOPE_BUILD_TYPE ")";
}

const std::atomic<bool>& interrupted() { return interrupt_flag; }

void watch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN) std::signal(SIGHUP, on_signal);
  std::signal(SIGUSR1, on_signal);
}

void outlive_output() {
  std::signal(SIGPIPE, SIG_IGN);
  outlives_output = true;
}

void expect_output_written() {
  const bool written = std::cout.flush() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (!written && !outlives_output) throw std::runtime_error("standard output: cannot write");
}

void print_line(const std::string& line) {
  if (!(std::cout << line << std::endl)) std::cerr << line << std::endl;
}

int interrupting_signal() { return interrupt_signal.load(); }

void end_stopped() {
  const int signal = interrupt_signal.load();
  throw StoppedBySignal{signal == 0 ? SIGTERM : signal};
}

void print_error(const std::string& message) {
  std::cout << std::flush;
  const bool color = isatty(STDERR_FILENO) == 1;
  std::fprintf(stderr, "%ssinkscope: error:%s %s\n", color ? "\033[1;31m" : "", color ? "\033[0m" : "",
               message.c_str());
}

void tell_of_rank(const World& world, const std::string& message) {
  print_error((world.leads() ? "" : world.name() + ": ") +
              (message == std::bad_alloc().what() ? "out of memory" : message));
}

void run_rank(World& world, const std::function<void()>& work) {
  try {
    work();
  } catch (const ToldElsewhere&) {
    throw;
  } catch (const std::exception& error) {
    tell_of_rank(world, error.what());
    throw ToldElsewhere();
  }
}

std::unique_ptr<ProgressLine> make_progress_line(const std::string& title, const std::string& unit) {
  const ProgressOptions options{
      .title = title, .unit = unit, .terminal = is_terminal(STDERR_FILENO), .width = terminal_width(STDERR_FILENO)};
  return std::make_unique<ProgressLine>(options, std::cerr, [] { return std::chrono::steady_clock::now(); });
}

std::unique_ptr<MetricSink> make_run_console(const Config& config) {
  ConsoleOptions options;
  options.title = config.name;
  options.total_steps = config.train.steps;
  options.line_every = config.log.console_every;
  options.terminal = is_terminal(STDOUT_FILENO);
  options.width = terminal_width();
  return make_console_sink(options);
}

std::filesystem::path find_checkpoint(const std::filesystem::path& source, const std::string& or_else) {
  if (std::filesystem::exists(source / "manifest.json")) {
    verify_checkpoint(source);
    return source;
  }
  if (!std::filesystem::is_directory(source / "checkpoints")) {
    if (std::filesystem::exists(source / "metrics.jsonl"))
      throw std::runtime_error(source.string() + ": the run has saved no checkpoint yet (there is no checkpoints/)");
    throw std::runtime_error(source.string() +
                             ": neither a checkpoint (manifest.json) nor a run directory (checkpoints/)" + or_else +
                             hint_of_runs(source, false));
  }
  std::vector<std::string> rejected;
  const auto newest = newest_checkpoint(source / "checkpoints", &rejected);
  if (!newest) {
    std::string message = (source / "checkpoints").string() + ": holds no checkpoint that verifies";
    for (const std::string& reason : rejected) message += "\n  " + reason;
    throw std::runtime_error(message);
  }
  for (const std::string& reason : rejected) std::cerr << "skipped " << reason << "\n";
  return *newest;
}

void tell_finished(const TrainResult& result) {
  if (result.steps_before == result.steps)
    std::cout << result.run_directory.string() << ": all " << result.steps
              << " steps are done already; there is nothing to resume" << std::endl;
}

}  // namespace sinkscope
