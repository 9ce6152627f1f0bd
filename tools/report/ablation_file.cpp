#include "tools/report/ablation_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/files/input_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/replacement.h"
#include "engine/metrics/json_lines.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

}  // namespace

void write_ablation_file(const fs::path& folder, const AblationFile& ablation) {
  Json json = {{"factors", Json::array()}, {"arms", Json::array()}};
  for (const AblationFactor& factor : ablation.factors)
    json["factors"].push_back({{"name", factor.name}, {"keys", factor.keys}});
  for (const fs::path& arm : ablation.arms) json["arms"].push_back(arm.lexically_relative(folder).generic_string());
  make_folders(folder);
  FileReplacement file(folder / kAblationFile);
  file.write(json.dump(2) + "\n");
  file.commit();
}

std::optional<AblationFile> read_ablation_file(const fs::path& folder) {
  const fs::path file = folder / kAblationFile;
  if (!fs::exists(file)) return std::nullopt;
  AblationFile ablation;
  try {
    const Json json = parse_json(read_text_file(file));
    for (const Json& factor : json.at("factors"))
      ablation.factors.push_back(
          {factor.at("name").get<std::string>(), factor.at("keys").get<std::vector<std::string>>()});
    for (const Json& arm : json.at("arms")) ablation.arms.push_back(folder / arm.get<std::string>());
  } catch (const std::exception& error) {
    throw std::runtime_error(file.string() + ": not as `sinkscope ablate` writes it: " + error.what());
  }
  return ablation;
}

std::optional<std::vector<AblationFactor>> common_ablation(const std::vector<fs::path>& runs) {
  if (runs.empty()) return std::nullopt;
  const fs::path folder = fs::weakly_canonical(runs.front()).parent_path();
  const std::optional<AblationFile> ablation = read_ablation_file(folder);
  if (!ablation) return std::nullopt;
  for (const fs::path& run : runs) {
    const auto same = [&](const fs::path& arm) { return fs::weakly_canonical(arm) == fs::weakly_canonical(run); };
    if (std::none_of(ablation->arms.begin(), ablation->arms.end(), same)) return std::nullopt;
  }
  return ablation->factors;
}

}  // namespace sinkscope
