#include "tools/program.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "engine/checkpoint/checkpoint.h"
#include "engine/train/trainer.h"
#include "sinkscope_build.h"

namespace sinkscope {
namespace {

std::atomic<bool> interrupt_flag = false;
std::atomic<int> interrupt_signal = 0;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free, "set from a signal handler");

void on_signal(int signal) {
  interrupt_signal.store(signal);
  interrupt_flag.store(true);
  std::signal(signal, SIG_DFL);
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
  std::signal(SIGHUP, on_signal);
}

void end_stopped() { throw StoppedBySignal{interrupt_signal.load()}; }

std::unique_ptr<MetricSink> make_run_console(const Config& config, std::int64_t start_step) {
  ConsoleOptions options;
  options.title = config.name;
  options.total_steps = config.train.steps;
  options.start_step = start_step;
  options.line_every = config.log.console_every;
  options.terminal = isatty(STDOUT_FILENO) == 1;
  winsize size{};
  if (options.terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) options.width = size.ws_col;
  return make_console_sink(options);
}

std::int64_t resume_step(const Config& config) {
  const std::filesystem::path checkpoints = run_directory(config) / "checkpoints";
  if (!std::filesystem::exists(checkpoints)) return 0;
  const auto newest = newest_checkpoint(checkpoints);
  return newest ? read_checkpoint_info(*newest).step : 0;
}

}  // namespace sinkscope
