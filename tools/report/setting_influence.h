// The settings in which runs differ, and what each can do to their numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/report/report.h"

namespace sinkscope {

/// What a setting can do to the numbers of a run.
enum class Influence : std::uint8_t {
  none,      // names, folders, logs, checkpoints; what changes no bit
  rounding,  // device, threads, build: the order of sums
  measured,  // how probes and evaluations measure, not what is trained
  seed,
  trained,
};

Influence influence_of(std::string_view key);
/// "none", "rounding", ...: as above.
const char* influence_name(Influence influence);

struct SettingDifference {
  std::string key;
  Influence influence = Influence::trained;
  bool follows = false;             // its values are what the other settings of each run make them
  std::vector<std::string> values;  // one a run, JSON text or "(absent)"
};

/// Keys in which runs differ and that say more than where they were made.
std::vector<SettingDifference> setting_differences(const std::vector<RunData>& runs);

/// Whether runs that differ in it are other arms.
bool decides(const SettingDifference& setting);

/// " (follows from others)", " (rounding)" or the like behind a key; empty for what is trained.
std::string influence_suffix(const SettingDifference& setting);

bool all_equal(const std::vector<std::string>& values);

}  // namespace sinkscope
