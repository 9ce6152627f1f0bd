// Where records go: JSONL files, TensorBoard event files, the console.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/metrics/records.h"

namespace sinkscope {

/// A place that numbers go to. Every call may throw std::runtime_error naming the file (full disk).
class MetricSink {
 public:
  virtual ~MetricSink() = default;
  virtual void write(const StepRecord& record) = 0;
  virtual void write(const ProbeRecord& record) = 0;
  virtual void write(const EventRecord& record) = 0;
  /// Everything written so far is handed to the operating system and, with `durable`, fsynced
  /// (before a checkpoint is published, so that logs never lag behind it).
  virtual void flush(bool durable) = 0;
};

/// metrics.jsonl, probes.jsonl, events.jsonl in `run_directory`. `resume_step`: continue existing
/// files after dropping every line of a later step and a torn last line (atomically, by rename);
/// events of later steps go too. Without it the files must not exist yet.
std::unique_ptr<MetricSink> make_jsonl_sink(const std::filesystem::path& run_directory,
                                            std::optional<std::int64_t> resume_step);

struct TensorBoardOptions {
  std::int64_t heatmap_every = 10;  // probe passes between images
  std::int64_t passes_before = 0;   // probe passes up to the resume step: a resumed run keeps to its cadence
};

/// TensorBoard event files in run_directory/tensorboard: scalars grouped as loss/, sink/, norm/,
/// gradient/, speed/ (of the residual norms of a step only position 0, the rest and their ratio: the other
/// positions are in metrics.jsonl; sink/phase is 0 wandering, 1 transition, 2 stable); histograms of per-head
/// sink scores; layer x head heatmap images of the sink score and a layer x position one of the residual norm.
/// At "start" also hyperparameters (config.json) and charts. `resume_step`: later events are dropped from files first.
std::unique_ptr<MetricSink> make_tensorboard_sink(const std::filesystem::path& run_directory,
                                                  std::optional<std::int64_t> resume_step,
                                                  const TensorBoardOptions& options = {});

/// Thrown by a console whose output cannot be written.
struct OutputLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A live line when `terminal`, plain lines every `line_every` steps otherwise: step, loss, mean sink score of position
/// 0, tokens per second, time left, Sink_0, phase, MFU, gradient norm, l*, validation loss, largest P0 norm ratio, as
/// far as they are known and fit, and a progress bar where there is room. Events have lines of their own.
struct ConsoleOptions {
  std::string title;             // e.g. the run's name
  std::int64_t total_steps = 0;
  std::int64_t line_every = 10;
  bool terminal = false;
  int width = 80;
};
std::unique_ptr<MetricSink> make_console_sink(const ConsoleOptions& options);

/// Sends every record to all of `sinks`, in order.
std::unique_ptr<MetricSink> make_tee(std::vector<std::unique_ptr<MetricSink>> sinks);

/// Reads a whole log; a torn last line is left out, any other malformed line throws
/// std::runtime_error naming file and line.
std::vector<StepRecord> read_step_records(const std::filesystem::path& run_directory);
std::vector<ProbeRecord> read_probe_records(const std::filesystem::path& run_directory);
std::vector<EventRecord> read_event_records(const std::filesystem::path& run_directory);

}  // namespace sinkscope
