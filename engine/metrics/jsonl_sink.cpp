#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/files/append_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/rename.h"
#include "engine/metrics/json_lines.h"
#include "engine/metrics/sinks.h"

namespace sinkscope {
namespace {

constexpr const char* kStepsFile = "metrics.jsonl";
constexpr const char* kProbesFile = "probes.jsonl";
constexpr const char* kEventsFile = "events.jsonl";
constexpr std::array kLogFiles = {kStepsFile, kProbesFile, kEventsFile};

class JsonlSink final : public MetricSink {
 public:
  JsonlSink(const std::filesystem::path& directory, AppendFile::Mode mode)
      : steps_(directory / kStepsFile, mode),
        probes_(directory / kProbesFile, mode),
        events_(directory / kEventsFile, mode) {
    sync_folder(directory);
  }

  void write(const StepRecord& record) override { steps_.append(to_line(to_json(record))); }
  void write(const ProbeRecord& record) override { probes_.append(to_line(to_json(record))); }
  void write(const EventRecord& record) override { events_.append(to_line(to_json(record))); }

  void flush(bool durable) override {
    if (!durable) return;  // nothing is held back from the operating system
    steps_.sync();
    probes_.sync();
    events_.sync();
  }

 private:
  AppendFile steps_;
  AppendFile probes_;
  AppendFile events_;
};

template <class Record>
std::vector<Record> read_records(const std::filesystem::path& path,
                                 Record (*from_json)(const nlohmann::ordered_json&)) {
  std::vector<Record> records;
  for_each_json_line(path, [&](const nlohmann::ordered_json& json, const std::string&) {
    records.push_back(from_json(json));
  });
  return records;
}

}  // namespace

std::unique_ptr<MetricSink> make_jsonl_sink(const std::filesystem::path& run_directory,
                                            std::optional<std::int64_t> resume_step) {
  make_folders(run_directory);
  for (const char* name : kLogFiles) {
    const std::filesystem::path path = run_directory / name;
    if (!std::filesystem::exists(path)) continue;
    if (!resume_step) {
      throw std::runtime_error(path.string() + ": exists already; a new run needs a folder without logs");
    }
    drop_later_lines(path, *resume_step);
  }
  return std::make_unique<JsonlSink>(run_directory,
                                     resume_step ? AppendFile::Mode::kContinue : AppendFile::Mode::kCreate);
}

std::vector<StepRecord> read_step_records(const std::filesystem::path& run_directory) {
  return read_records(run_directory / kStepsFile, step_record_from_json);
}

std::vector<ProbeRecord> read_probe_records(const std::filesystem::path& run_directory) {
  return read_records(run_directory / kProbesFile, probe_record_from_json);
}

std::vector<EventRecord> read_event_records(const std::filesystem::path& run_directory) {
  return read_records(run_directory / kEventsFile, event_record_from_json);
}

}  // namespace sinkscope
