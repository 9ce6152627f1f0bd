// What a run writes and tells: its logs, the console, the command of its alerts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"
#include "engine/metrics/sinks.h"
#include "engine/train/alert_command.h"
#include "engine/train/alerts.h"

namespace sinkscope {

/// Until open() nothing is written and no command run, as on ranks but 0.
class RunLog {
 public:
  /// `config` must outlive it; `console` may be null.
  RunLog(const Config& config, std::filesystem::path directory, std::int64_t tokens_per_step,
         std::unique_ptr<MetricSink> console);

  /// Begins the logs of the run directory; goes on with those of a run that is resumed after `resume_step`, of which -1
  /// is before the first. `probes`: the run has probe passes. Throws std::runtime_error naming the file.
  void open(std::optional<std::int64_t> resume_step, bool probes);
  bool has_console() const { return console_ != nullptr; }
  /// Shows the console of a resumed run what the last probe pass in the logs found.
  void recall_probes();

  /// To the console always, to the logs where they are to have this step.
  void step(const StepRecord& record, bool logged);
  void write(const StepRecord& record) { logs_->write(record); }
  void probe(const ProbeRecord& record);
  /// `told`: on the console as well.
  void event(const EventRecord& record, bool told = true);
  /// On the console alone, of one that was not told.
  void tell_event(const EventRecord& record) { tell(record); }
  void event(std::int64_t step, const std::string& kind, const std::string& message,
             const nlohmann::ordered_json& data);
  void alert(const std::vector<Alert>& alerts);

  /// A command that failed is told of once, and never a reason to stop.
  void report_command(std::int64_t step);
  void finish_command(std::int64_t step);

  void flush() { logs_->flush(true); }
  void end_console(std::int64_t step);

 private:
  template <class Record>
  void tell(const Record& record) {
    on_console(record.step, [&](MetricSink& console) { console.write(record); });
  }
  /// A console that cannot be written, since a terminal hung up or a reader ended, is done without from then on.
  void on_console(std::int64_t step, const std::function<void(MetricSink&)>& work);

  const Config& config_;
  std::filesystem::path directory_;
  std::int64_t tokens_per_step_;
  std::unique_ptr<MetricSink> console_;
  bool open_ = false;
  std::unique_ptr<MetricSink> logs_;
  std::optional<AlertCommand> alert_command_;
};

}  // namespace sinkscope
