// What a run directory holds beside checkpoints: config.json, what the logs tell of a run, and the loop's state inside
// a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/sinks.h"
#include "engine/model/fp8_scales.h"

namespace sinkscope {

/// Where a run was made, for config.json's "run" object.
struct RunFacts {
  std::string build;
  std::string device;               // Ops::description()
  std::string dataset_fingerprint;
  std::int64_t parameters = 0;
};

/// Writes config.json: the resolved config and "run" (build, device, dataset_fingerprint, parameters,
/// started), on the disk and in place in one step. Throws std::runtime_error naming the file.
void write_run_config(const std::filesystem::path& run_directory, const Config& config, const RunFacts& facts);

/// The config of a run, from its config.json. Throws std::runtime_error (of settings, ConfigError) naming the file.
Config read_run_config(const std::filesystem::path& run_directory);

/// A setting that a resume changed; both values as JSON text.
struct ChangedSetting {
  std::string key;  // dotted
  std::string before, now;
};

/// Throws std::runtime_error unless config.json in the directory describes the same run, naming the first key that
/// differs. log.*, alerts.*, checkpoint.*, sample.*, ranks.*, train.recompute, train.cuda_graph, probes.causal_every,
/// threads, output and ablation may differ; returns those of them that do, but for ablation. A key that is newer than
/// the run counts as having had its default.
std::vector<ChangedSetting> check_run_config(const std::filesystem::path& run_directory, const Config& config,
                                             const std::string& dataset_fingerprint);

/// Where two configs, as JSON text, differ first: "train.seed is 2, not 1".
std::string config_difference(const std::string& config, const std::string& other);

/// The events logged so far; none where there is no log yet.
std::vector<EventRecord> logged_events(const std::filesystem::path& run_directory);

/// Whether one of them tells that the training came to its end.
bool has_ended(const std::vector<EventRecord>& events);

/// For a run without checkpoints, which would begin again and drop its logs: throws std::runtime_error when it once had
/// one.
void expect_none_saved(const std::filesystem::path& run_directory);

/// Everything the loop carries from step to step beside parameters and moments.
struct LoopState {
  std::int64_t step = 0;                       // steps done
  std::int64_t sample = 0;                     // windows drawn: the place in the data
  std::optional<double> validation_loss;       // the last one
  std::vector<double> validation_losses;       // the last probes.phase.window, oldest first
  std::string phase_detector;                  // PhaseDetector::state(); empty without probes
  std::string alerts;                          // AlertDetector::state()
  Fp8History fp8{};                            // empty without FP8 products
};

std::string to_text(const LoopState& state);
/// Throws std::runtime_error naming `origin` and the key that is missing or malformed. A state written before
/// validation_losses was kept has its last one there: the slope begins anew. One written before there were alerts has
/// none.
LoopState loop_state_from_text(const std::string& text, const std::string& origin);

/// Throws std::runtime_error naming `origin` unless the state has steps of amax, at most Fp8History::kSteps, of a model
/// of so many layers.
void check_fp8(const Fp8History& history, std::int64_t layers, const std::string& origin);

}  // namespace sinkscope
