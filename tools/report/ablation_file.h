// ablation.json: what an ablation varies and where its arms are, in the folder that holds them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/load.h"

namespace sinkscope {

inline constexpr const char* kAblationFile = "ablation.json";

struct AblationFile {
  std::vector<AblationFactor> factors;
  std::vector<std::filesystem::path> arms;  // run directories, below the file's folder
};

/// Writes it into `folder`, which is made if need be, in place of an older one.
void write_ablation_file(const std::filesystem::path& folder, const AblationFile& ablation);

/// Nothing when `folder` holds none. Throws std::runtime_error naming the file when it is malformed.
std::optional<AblationFile> read_ablation_file(const std::filesystem::path& folder);

/// What was varied among these run directories: the factors of the one ablation that they are all arms of; nothing when
/// there is none such.
std::optional<std::vector<AblationFactor>> common_ablation(const std::vector<std::filesystem::path>& runs);

}  // namespace sinkscope
