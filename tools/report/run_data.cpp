#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/files/system_error.h"
#include "engine/metrics/sinks.h"
#include "tools/report/report.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kMaximumNesting = 32;

void collect_settings(const Json& json, const std::string& prefix, int depth, const fs::path& file,
                      std::vector<std::pair<std::string, std::string>>& settings) {
  if (depth > kMaximumNesting)
    throw std::runtime_error(file.string() + ": '" + prefix + "' is nested deeper than 32 levels");
  for (const auto& [key, value] : json.items()) {
    const std::string path = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object())
      collect_settings(value, path, depth + 1, file, settings);
    else
      settings.emplace_back(path, value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

Json read_config(const fs::path& file) {
  std::ifstream stream(file);
  if (!stream) throw std::runtime_error(file.string() + ": cannot be read");
  Json json;
  try {
    // The callback stops hostile nesting before the parsed value is built.
    json = Json::parse(stream, [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaximumNesting) throw std::runtime_error(file.string() + ": nested deeper than 32 levels");
      return true;
    });
  } catch (const Json::exception& error) {
    throw std::runtime_error(file.string() + ": not valid JSON: " + error.what());
  }
  if (!json.is_object()) throw std::runtime_error(file.string() + ": expected a JSON object");
  return json;
}

}  // namespace

std::string hint_of_runs(const fs::path& directory, bool several) {
  std::error_code ignored;
  std::vector<std::string> runs;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored))
    if (fs::exists(entry.path() / "config.json", ignored) && fs::exists(entry.path() / "metrics.jsonl", ignored))
      runs.push_back(entry.path().filename().string());
  if (runs.empty()) return {};
  const std::string first = *std::min_element(runs.begin(), runs.end());
  return "; folders in it are runs, among them " + first + ": give " + (directory / (several ? "*/" : first)).string();
}

RunData open_run(const fs::path& directory, bool several) {
  const auto fail = [&](const std::string& reason) {
    throw std::runtime_error(directory.string() + ": not a run directory (with config.json, metrics.jsonl): " + reason);
  };
  if (!fs::exists(directory)) fail("there is no such folder");
  if (!fs::is_directory(directory)) {
    const fs::path place = directory.parent_path();
    const bool beside = several && !hint_of_runs(place, several).empty();  // "runs/grid/*"
    fail("it is a file" + (beside ? "; the runs beside it are " + (place / "*/").string() : std::string()));
  }
  const fs::path config_file = directory / "config.json";
  if (!fs::exists(config_file)) fail("it holds no config.json" + hint_of_runs(directory, several));
  RunData run;
  run.directory = directory;
  const Json config = read_config(config_file);
  if (config.contains("architectures")) fail("its config.json is that of a model, not of a run");
  collect_settings(config, "", 0, config_file, run.settings);
  const auto name = config.find("name");
  if (name != config.end() && name->is_string()) run.name = name->get<std::string>();
  if (run.name.empty()) run.name = fs::weakly_canonical(directory).filename().string();
  return run;
}

RunData load_run(const fs::path& directory, bool several) {
  RunData run = open_run(directory, several);
  // Against the order in which a step is logged, so that of a running run every event that is read has its probe pass,
  // and every pass its step.
  const bool has_events = fs::exists(directory / "events.jsonl");  // which is made last
  if (has_events) run.events = read_event_records(directory);
  if (fs::exists(directory / "probes.jsonl")) run.probes = read_probe_records(directory);
  if (fs::exists(directory / "metrics.jsonl"))
    run.steps = read_step_records(directory);
  else if (has_events)
    refuse(directory / "metrics.jsonl", "is missing, though the run has events");
  return run;
}

std::optional<std::string> find_setting(const RunData& run, std::string_view key) {
  for (const auto& [candidate, text] : run.settings)
    if (candidate == key) return text;
  return std::nullopt;
}

}  // namespace sinkscope
