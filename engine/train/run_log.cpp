#include "engine/train/run_log.h"

#include <spdlog/spdlog.h>

#include <utility>

namespace sinkscope {

RunLog::RunLog(const Config& config, std::filesystem::path directory, std::int64_t tokens_per_step,
               std::unique_ptr<MetricSink> console)
    : config_(config),
      directory_(std::move(directory)),
      tokens_per_step_(tokens_per_step),
      console_(std::move(console)),
      logs_(make_tee({})) {}

void RunLog::open(std::optional<std::int64_t> resume_step, bool probes) {
  std::vector<std::unique_ptr<MetricSink>> sinks;
  sinks.push_back(make_jsonl_sink(directory_, resume_step));
  if (config_.log.tensorboard) {
    // One pass before the first step, then one every so many; what comes at the end is never resumed after.
    const bool resumed = probes && resume_step && *resume_step >= 0;
    const std::int64_t passes = resumed ? *resume_step / config_.probes.every + 1 : 0;
    sinks.push_back(make_tensorboard_sink(directory_, resume_step,
                                          {.heatmap_every = config_.log.heatmap_every, .passes_before = passes}));
  }
  logs_ = make_tee(std::move(sinks));
  open_ = true;
}

void RunLog::recall_probes() {
  if (!console_ || !open_) return;
  const std::vector<ProbeRecord> records = read_probe_records(directory_);
  for (const ProbeRecord& record : records)
    if (record.step == records.back().step) tell(record);
}

void RunLog::step(const StepRecord& record, bool logged) {
  if (logged) logs_->write(record);
  tell(record);
}

void RunLog::probe(const ProbeRecord& record) {
  logs_->write(record);
  tell(record);
}

void RunLog::event(const EventRecord& record, bool told) {
  logs_->write(record);
  if (told) tell(record);
}

void RunLog::event(std::int64_t step, const std::string& kind, const std::string& message,
                   const nlohmann::ordered_json& data) {
  event({.step = step, .tokens = step * tokens_per_step_, .kind = kind, .message = message, .data = data.dump()});
}

void RunLog::alert(const std::vector<Alert>& alerts) {
  for (const Alert& found : alerts) {
    event(alert_event(found));
    if (config_.alerts.command.empty() || !open_) continue;
    if (!alert_command_) alert_command_.emplace(config_.alerts, directory_);
    alert_command_->start(found);
  }
}

void RunLog::report_command(std::int64_t step) {
  if (!alert_command_) return;
  if (const auto failure = alert_command_->failure())
    event(step, "warning", *failure + "; other failures of it are not told", nlohmann::ordered_json::object());
}

void RunLog::finish_command(std::int64_t step) {
  if (!alert_command_) return;
  alert_command_->finish();
  report_command(step);
}

void RunLog::end_console(std::int64_t step) {
  on_console(step, [](MetricSink& console) { console.flush(false); });
}

void RunLog::on_console(std::int64_t step, const std::function<void(MetricSink&)>& work) {
  if (!console_) return;
  try {
    work(*console_);
  } catch (const OutputLost& error) {
    console_.reset();
    const std::string message = std::string(error.what()) + "; the run goes on without a console";
    spdlog::warn("{}", message);
    event(step, "warning", message, nlohmann::ordered_json::object());
  }
}

}  // namespace sinkscope
