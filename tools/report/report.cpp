#include "tools/report/report.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/files/replacement.h"
#include "engine/metrics/console.h"
#include "tools/report/assets.h"
#include "tools/report/comparison.h"
#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

std::vector<std::vector<std::string>> with_head(const std::string& corner, const std::vector<ArmSummary>& arms,
                                                const std::vector<TableRow>& rows) {
  std::vector<std::vector<std::string>> cells = {{corner}};
  for (const ArmSummary& arm : arms) cells.front().push_back(printable(arm.label));
  for (const TableRow& row : rows) {
    cells.push_back({printable(row.label)});
    for (const std::string& value : row.values) cells.back().push_back(printable(value));
  }
  return cells;
}

/// P0 / others after each block, at the end.
std::vector<TableRow> layer_rows(const std::vector<ArmSummary>& arms) {
  std::size_t layers = 0;
  for (const ArmSummary& arm : arms)
    if (arm.layer_norms) layers = std::max(layers, arm.layer_norms->first.size());
  std::vector<TableRow> rows;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    TableRow row{std::to_string(layer), {}};
    for (const ArmSummary& arm : arms) {
      if (!arm.layer_norms || layer >= arm.layer_norms->first.size())
        row.values.emplace_back("-");
      else
        row.values.push_back(format_number(arm.layer_norms->first[layer]) + " / " +
                             format_number(arm.layer_norms->rest[layer]));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void append_section(std::string& text, const std::string& title, const std::string& body) {
  if (body.empty()) return;
  if (!text.empty()) text += "\n";
  text += title + "\n" + body;
}

/// Nothing where every arm is one run, whose numbers the table has.
std::string arms_text(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                      const Comparison& comparison) {
  if (comparison.arms.size() == runs.size()) return "";
  std::vector<std::vector<std::string>> cells = {{""}};
  for (const ComparedArm& arm : comparison.arms) cells.front().push_back(printable(arm.label));
  for (const TableRow& row : arm_rows(runs, arms, comparison)) {
    cells.push_back({row.label});
    for (const std::string& value : row.values) cells.back().push_back(printable(value));
  }
  return text_table(cells);
}

std::string pairs_text(const Comparison& comparison) {
  std::string text;
  for (const ArmPair& pair : comparison.pairs) {
    text += (text.empty() ? "  " : "\n  ") + printable(pair_title(comparison, pair)) + "\n";
    for (const std::string& sentence : pair.left_out) text += "  - " + printable(sentence) + "\n";
    std::vector<std::vector<std::string>> cells = pair_cells(comparison, pair);
    for (std::vector<std::string>& row : cells)
      for (std::string& cell : row) cell = printable(cell);
    if (cells.size() > 1) text += text_table(cells);
  }
  return text.empty() ? "" : text + "\n  " + pair_method(comparison) + "\n";
}

void require_runs(const std::vector<RunData>& runs) {
  if (runs.empty()) throw std::runtime_error("a report needs at least one run");
}

/// A page may replace an older one, and no other file.
void require_report_or_nothing(const std::filesystem::path& file) {
  if (!std::filesystem::exists(std::filesystem::symlink_status(file))) return;
  std::string beginning(1024, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  if (beginning.find("<meta name=\"generator\" content=\"sinkscope report\">") == std::string::npos)
    throw std::runtime_error(file.string() + ": exists and is not a report; choose another name for the page");
}

}  // namespace

std::string summary_table(const std::vector<RunData>& runs) {
  require_runs(runs);
  const std::vector<ArmSummary> arms = summarize(runs);
  return text_table(with_head("", arms, summary_rows(arms)));
}

std::string plain_summary(const std::vector<RunData>& runs, const std::optional<std::vector<AblationFactor>>& factors) {
  require_runs(runs);
  const std::vector<ArmSummary> arms = summarize(runs);
  const Comparison comparison = compare_runs(runs, arms, factors);
  std::string text, body;
  for (const std::string& paragraph : reading(arms)) body += "  " + printable(paragraph) + "\n";
  append_section(text, "What the numbers say", body);
  body.clear();
  for (const Statement& statement : comparability(runs, arms, comparison))
    body += (statement.good ? "  [ok] " : "  [!!] ") + printable(statement.text) + "\n";
  append_section(text, "May the arms be compared?", body);
  append_section(text, "Arms, over their seeds: mean (smallest .. largest)", arms_text(runs, arms, comparison));
  append_section(text, "Differences between arms, paired by seed", pairs_text(comparison));
  std::vector<TableRow> rows;
  for (const SettingDifference& setting : comparison.settings)
    rows.push_back({setting.key + influence_suffix(setting), setting.values});
  if (!rows.empty()) append_section(text, "Settings that differ", text_table(with_head("setting", arms, rows)));
  if (const std::vector<TableRow> layers = layer_rows(arms); !layers.empty())
    append_section(text, "Residual norm of position 0 / of the others, after each block, at the end",
                   text_table(with_head("layer", arms, layers)));
  body.clear();
  for (const std::string& note : reading_notes(runs, arms)) body += "  - " + printable(note) + "\n";
  append_section(text, "Keep in mind", body);
  return text;
}

void require_report_possible(std::size_t runs, const std::filesystem::path& file) {
  if (runs > kMaxPageRuns)
    throw std::runtime_error(file.string() + ": a page shows at most " + std::to_string(kMaxPageRuns) + " runs, not " +
                             std::to_string(runs) +
                             "; leave it out with --no-html, then compare some of them at a time");
  require_report_or_nothing(file);
  load_chart_library();
}

nlohmann::ordered_json comparison_json(const std::vector<RunData>& runs,
                                       const std::optional<std::vector<AblationFactor>>& factors) {
  require_runs(runs);
  const std::vector<ArmSummary> arms = summarize(runs);
  return comparison_json(runs, arms, compare_runs(runs, arms, factors));
}

void write_report(const std::vector<RunData>& runs, const std::filesystem::path& file,
                  const std::optional<std::vector<AblationFactor>>& factors) {
  require_runs(runs);
  require_report_possible(runs.size(), file);
  const std::vector<ArmSummary> arms = summarize(runs);
  const std::string page = page_html(runs, arms, compare_runs(runs, arms, factors));
  FileReplacement replacement(file);
  replacement.write(page);
  replacement.commit();
}

}  // namespace sinkscope
