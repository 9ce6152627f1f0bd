// Reads finished or running runs and reports on them: a table and a plain-language summary for the
// terminal, and one self-contained HTML page. What each number means is METRICS.md.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/config/load.h"
#include "engine/metrics/records.h"

namespace sinkscope {

/// What a run directory holds. `settings`: the leaves of config.json in order, as (dotted key, JSON
/// text) pairs, e.g. ("data.bos", "\"none\""); arrays are leaves. The "run" object's are among them.
struct RunData {
  std::filesystem::path directory;
  std::string name;
  std::vector<std::pair<std::string, std::string>> settings;
  std::vector<StepRecord> steps;
  std::vector<ProbeRecord> probes;
  std::vector<EventRecord> events;
};

/// What may have been meant by a folder that is no run directory: "" or, where folders in it are, "; folders in it are
/// runs, among them FOLDER: give DIRECTORY/*/", or DIRECTORY/FOLDER unless `several` can be given.
std::string hint_of_runs(const std::filesystem::path& directory, bool several);

/// A run without its logs: folder, name and settings. Throws as load_run does.
RunData open_run(const std::filesystem::path& directory, bool several = true);

/// Reads `directory`. Logs that are not there count as empty (probes off, a run that has just
/// started); throws std::runtime_error naming the file when the folder or its config.json is
/// missing or a line of a log is malformed. `several`: as in hint_of_runs.
RunData load_run(const std::filesystem::path& directory, bool several = true);

/// The JSON text of a setting, or nothing when config.json does not have it.
std::optional<std::string> find_setting(const RunData& run, std::string_view key);

/// A table, one column an arm: losses, sink scores and rates first -> last, norms, phases, speed.
std::string summary_table(const std::vector<RunData>& runs);

/// What the numbers say in sentences, whether the arms are comparable, their differences paired by seed, and residual
/// norms by layer. `factors`: what was to vary; nothing when it is not known (comparison.h).
std::string plain_summary(const std::vector<RunData>& runs,
                          const std::optional<std::vector<AblationFactor>>& factors = std::nullopt);

/// Everything that table and summary tell, for other programs.
nlohmann::ordered_json comparison_json(const std::vector<RunData>& runs,
                                       const std::optional<std::vector<AblationFactor>>& factors = std::nullopt);

/// Runs of one page. Each arm has a colour, which from the ninth on come again.
inline constexpr std::size_t kMaxPageRuns = 32;

/// Throws what write_report would throw for that many runs, before there are any: too many of them, no
/// chart library (the command that fetches it is named), or a `file` that is not a report.
void require_report_possible(std::size_t runs, const std::filesystem::path& file);

/// Writes the page (by a temporary file and a rename). Throws std::runtime_error as
/// require_report_possible does, or when `file` cannot be written.
void write_report(const std::vector<RunData>& runs, const std::filesystem::path& file,
                  const std::optional<std::vector<AblationFactor>>& factors = std::nullopt);

}  // namespace sinkscope
