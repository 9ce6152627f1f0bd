// The arms of an ablation as processes of their own: one after another, or several at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

/// One arm before it trains.
struct PlannedArm {
  Config config;                    // as expand_ablation gives it
  std::filesystem::path directory;  // of its run
  bool done = false;                // its last step is logged and saved: nothing is left to train
  bool on_gpu = false;
};

/// Whether a run was begun there.
bool begun(const std::filesystem::path& run_directory);

/// Checks all arms before any of them trains: the dataset of each and, where a run was begun, that it was with the same
/// config and data. Throws std::runtime_error, ConfigError.
std::vector<PlannedArm> plan_arms(const std::vector<Config>& arms);

struct ArmOptions {
  std::int64_t jobs = 1;          // arms at a time
  std::vector<std::string> gpus;  // CUDA_VISIBLE_DEVICES of the arms, in turns; empty: as it is here
};

enum class ArmState : std::uint8_t { waiting, done, stopped, failed };

struct ArmOutcome {
  ArmState state = ArmState::waiting;
  std::string reason;  // of a failure: "exit status 1"
};

/// The file of an arm's config in its run directory, for `sinkscope train`; that of what it prints beside others.
inline constexpr const char* kArmConfigFile = "arm.json";
inline constexpr const char* kArmLogFile = "train.log";

/// Trains the arms that are not done, each in a child process that `sinkscope train` runs in. With one at a time the
/// child prints where we do, else into its log, and a line here says how far all are. A signal is passed on to those
/// that train, and no other is started; one that fails does not hold up the rest. An arm that another process still
/// trains is waited for, a minute at most. One outcome an arm.
std::vector<ArmOutcome> run_arms(const std::vector<PlannedArm>& arms, const ArmOptions& options);

}  // namespace sinkscope
