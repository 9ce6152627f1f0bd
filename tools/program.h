// What the subcommands share: the version, the interrupt flag, the console of a run.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "engine/comm/world.h"
#include "engine/config/config.h"
#include "engine/metrics/progress_line.h"
#include "engine/metrics/sinks.h"
#include "engine/train/trainer.h"

namespace sinkscope {

/// "sinkscope 0.1.0 (commit 1234abc, GNU 12.2.0, Release)".
std::string build_description();

/// Turns true at the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 once watch_interrupts() was called; a second one ends
/// the program at once, where SIGUSR1 does not count. A SIGHUP that was ignored before, as under nohup, stays so.
const std::atomic<bool>& interrupted();
void watch_interrupts();
/// From here on the program outlives who reads its standard output: a pipe without a reader does not end it.
void outlive_output();
/// Throws std::runtime_error where standard output could not be written, unless the program was to outlive that.
void expect_output_written();
/// Prints a line on standard output, or on stderr where that cannot be written.
void print_line(const std::string& line);
/// The signal that did; 0 before.
int interrupting_signal();

/// Thrown after an orderly stop by a signal: the program ends with the status 128 + signal.
struct StoppedBySignal {
  int signal = 0;
};
/// Throws StoppedBySignal for the signal that set interrupted(), or for SIGTERM where another rank got it.
[[noreturn]] void end_stopped();

/// Set for the processes that train the arms of an ablation.
inline constexpr const char* kArmVariable = "SINKSCOPE_ARM";

/// "sinkscope: error: MESSAGE" on stderr.
void print_error(const std::string& message);

/// The same of a rank.
void tell_of_rank(const World& world, const std::string& message);

/// Does a rank's work. An error is told while the others still wait for this rank: a launcher that sees one of them end
/// kills the rest. Throws ToldElsewhere then.
void run_rank(World& world, const std::function<void()>& work);

/// A ProgressLine on stderr.
std::unique_ptr<ProgressLine> make_progress_line(const std::string& title, const std::string& unit);

/// A progress bar on a terminal, plain lines elsewhere.
std::unique_ptr<MetricSink> make_run_console(const Config& config);

/// `source` itself when it is a checkpoint, else the newest one of a run directory; verified. Throws
/// std::runtime_error naming what is neither; `or_else` goes on with what else the command takes.
std::filesystem::path find_checkpoint(const std::filesystem::path& source, const std::string& or_else = {});

/// Says so when a resumed run was finished before.
void tell_finished(const TrainResult& result);

}  // namespace sinkscope
