#include "engine/train/run_files.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "engine/config/load.h"
#include "engine/files/input_file.h"
#include "engine/files/replacement.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

/// Whether a resumed run may have another value at this JSON pointer.
bool may_change(const std::string& pointer) {
  for (const char* prefix : {"/log/", "/alerts/", "/checkpoint/", "/sample/", "/ranks/", "/ablation", "/run"})
    if (pointer.starts_with(prefix)) return true;
  return pointer == "/threads" || pointer == "/train/recompute" || pointer == "/train/cuda_graph" ||
         pointer == "/probes/causal_every" || pointer == "/output" || pointer == "/$schema";
}

std::string dotted(const std::string& pointer) {
  std::string key = pointer.substr(1);
  for (char& c : key)
    if (c == '/') c = '.';
  return key;
}

Json parse_object(const std::string& text, const std::string& origin) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(origin + ": is no JSON: " + error.what());
  }
  if (!json.is_object()) throw std::runtime_error(origin + ": expected an object");
  return json;
}

template <class Value>
Value take(const Json& json, const char* key, const std::string& origin) {
  if (!json.contains(key)) throw std::runtime_error(origin + ": the key " + key + " is missing");
  try {
    return json.at(key).get<Value>();
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error(origin + ": " + key + " has the wrong type: " + json.at(key).dump());
  }
}

}  // namespace

void write_run_config(const std::filesystem::path& run_directory, const Config& config, const RunFacts& facts) {
  Json json = to_json(config);
  json["run"] = {{"build", facts.build},
                 {"device", facts.device},
                 {"dataset_fingerprint", facts.dataset_fingerprint},
                 {"parameters", facts.parameters},
                 {"started", utc_now()}};
  FileReplacement file(run_directory / "config.json");
  file.write(json.dump(2) + "\n");
  file.commit();
}

Config read_run_config(const std::filesystem::path& run_directory) {
  const std::string file = (run_directory / "config.json").string();
  Json stored = parse_object(read_text_file(file), file);
  stored.erase("run");
  return parse_stored_config(stored.dump(), file);
}

std::vector<ChangedSetting> check_run_config(const std::filesystem::path& run_directory, const Config& config,
                                             const std::string& dataset_fingerprint) {
  const std::string file = (run_directory / "config.json").string();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored))
    throw std::runtime_error(file + ": cannot be read; there is no run to resume");
  const Json stored = parse_object(read_text_file(file), file);

  Json before = stored.flatten();
  const Json now = to_json(config).flatten();
  // A key that did not exist when the run was begun has the value that read_run_config() gives it, mostly what is its
  // default now.
  const Json completed = to_json(read_run_config(run_directory)).flatten();
  for (const auto& [pointer, value] : completed.items())
    if (!before.contains(pointer)) before[pointer] = value;
  const auto differs = [&](const std::string& pointer, const std::string& old_text, const std::string& new_text) {
    throw std::runtime_error(file + ": the run was begun with " + dotted(pointer) + " = " + old_text + ", not " +
                             new_text + "; give the config it was begun with, or another name");
  };
  std::vector<ChangedSetting> changed;
  for (const auto& [pointer, value] : now.items()) {
    if (may_change(pointer)) {
      const std::string old_text = before.contains(pointer) ? before.at(pointer).dump() : "null";
      if (!pointer.starts_with("/ablation") && old_text != value.dump())
        changed.push_back({dotted(pointer), old_text, value.dump()});
      continue;
    }
    if (!before.contains(pointer)) differs(pointer, "nothing", value.dump());
    if (before.at(pointer) != value) differs(pointer, before.at(pointer).dump(), value.dump());
  }
  for (const auto& [pointer, value] : before.items())
    if (!may_change(pointer) && !now.contains(pointer)) differs(pointer, value.dump(), "nothing");

  const auto run = stored.find("run");
  const std::string fingerprint =
      run != stored.end() && run->is_object() ? run->value("dataset_fingerprint", std::string()) : std::string();
  if (fingerprint != dataset_fingerprint)
    throw std::runtime_error(file + ": the run was begun on a dataset with fingerprint " + fingerprint + ", not " +
                             dataset_fingerprint);
  return changed;
}

std::string config_difference(const std::string& config, const std::string& other) {
  const Json one = Json::parse(config).flatten(), two = Json::parse(other).flatten();
  const auto text_of = [](const Json& json, const std::string& pointer) {
    return json.contains(pointer) ? json.at(pointer).dump() : "absent";
  };
  for (const Json* json : {&one, &two})
    for (const auto& [pointer, value] : json->items())
      if (const std::string first = text_of(one, pointer), second = text_of(two, pointer); first != second)
        return dotted(pointer) + " is " + second + ", not " + first;
  return "only in how it is written";
}

std::vector<EventRecord> logged_events(const std::filesystem::path& run_directory) {
  if (!std::filesystem::exists(run_directory / "events.jsonl")) return {};
  return read_event_records(run_directory);
}

bool has_ended(const std::vector<EventRecord>& events) {
  return std::any_of(events.begin(), events.end(), [](const EventRecord& event) { return event.kind == "end"; });
}

/// The event of a checkpoint stands before the save, so that only what was logged after it tells that it was saved.
void expect_none_saved(const std::filesystem::path& run_directory) {
  const std::vector<EventRecord> events = logged_events(run_directory);
  const auto first =
      std::find_if(events.begin(), events.end(), [](const EventRecord& e) { return e.kind == "checkpoint"; });
  if (first == events.end()) return;
  std::int64_t last = events.back().step;
  if (std::filesystem::exists(run_directory / "metrics.jsonl"))
    for (const StepRecord& record : read_step_records(run_directory)) last = std::max(last, record.step);
  if (last <= first->step && !has_ended(events)) return;
  throw std::runtime_error(run_directory.string() + ": its logs reach step " + std::to_string(last) +
                           " and tell of a checkpoint at step " + std::to_string(first->step) +
                           ", but there is none in checkpoints/, and to begin again would drop the logs; put the "
                           "checkpoints back, give another name with --set name=..., or delete the folder");
}

std::string to_text(const LoopState& state) {
  Json json = {{"step", state.step}, {"sample", state.sample}};
  // A number that JSON cannot hold is left out; the loop stops at such a loss anyway.
  if (state.validation_loss && std::isfinite(*state.validation_loss)) json["validation_loss"] = *state.validation_loss;
  json["validation_losses"] = state.validation_losses;
  json["phase_detector"] = state.phase_detector;
  json["alerts"] = state.alerts;
  if (!state.fp8.empty()) json["fp8_amax"] = state.fp8.steps();
  return json.dump(2);
}

void check_fp8(const Fp8History& history, std::int64_t layers, const std::string& origin) {
  const auto operands = static_cast<std::size_t>(Fp8Scales::operands(layers));
  const std::vector<std::vector<double>>& steps = history.steps();
  const bool fits =
      !steps.empty() && steps.size() <= Fp8History::kSteps &&
      std::all_of(steps.begin(), steps.end(), [&](const std::vector<double>& amax) { return amax.size() == operands; });
  if (!fits)
    throw std::runtime_error(origin + ": fp8_amax: expected 1 to " + std::to_string(Fp8History::kSteps) + " lists of " +
                             std::to_string(operands) + " numbers each, for a model of " + std::to_string(layers) +
                             " layers");
}

LoopState loop_state_from_text(const std::string& text, const std::string& origin) {
  const Json json = parse_object(text, origin);
  LoopState state;
  state.step = take<std::int64_t>(json, "step", origin);
  state.sample = take<std::int64_t>(json, "sample", origin);
  if (json.contains("validation_loss")) state.validation_loss = take<double>(json, "validation_loss", origin);
  if (json.contains("validation_losses"))
    state.validation_losses = take<std::vector<double>>(json, "validation_losses", origin);
  else if (state.validation_loss)
    state.validation_losses = {*state.validation_loss};
  state.phase_detector = take<std::string>(json, "phase_detector", origin);
  if (json.contains("alerts")) state.alerts = take<std::string>(json, "alerts", origin);
  if (json.contains("fp8_amax"))
    state.fp8 = Fp8History(take<std::vector<std::vector<double>>>(json, "fp8_amax", origin));
  if (state.step < 0 || state.sample < 0)
    throw std::runtime_error(origin + ": step and sample must not be negative");
  return state;
}

}  // namespace sinkscope
