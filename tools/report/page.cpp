#include "tools/report/page.h"

#include <map>
#include <stdexcept>
#include <string_view>

#include "tools/report/assets.h"
#include "tools/report/format.h"
#include "tools/report/page_parts.h"

namespace sinkscope {
namespace {

/// Replaces every {{name}} of the template in one pass, so that a {{name}} inside a value stays as it is.
std::string fill(std::string_view page, const std::map<std::string, std::string, std::less<>>& values) {
  std::string result;
  while (true) {
    const std::size_t open = page.find("{{");
    if (open == std::string_view::npos) return result.append(page);
    const std::size_t close = page.find("}}", open);
    if (close == std::string_view::npos) throw std::runtime_error("page.html: '{{' without '}}'");
    const std::string_view name = page.substr(open + 2, close - open - 2);
    const auto value = values.find(name);
    if (value == values.end()) throw std::runtime_error("page.html: unknown part '" + std::string(name) + "'");
    result.append(page.substr(0, open)).append(value->second);
    page.remove_prefix(close + 2);
  }
}

/// Text as HTML; a setting written as JSON keeps its quotes.
std::string cell(const char* element, const std::string& text) {
  const std::string name = element;
  return "<" + name + ">" + escape_html(text) + "</" + name + ">";
}

std::string head_row(const std::string& corner, const std::vector<ArmSummary>& arms) {
  std::string html = "<thead><tr>" + cell("th", corner);
  for (const ArmSummary& arm : arms)
    html += "<th class=\"arm arm" + std::to_string(arm.colour % 8) + "\">" + escape_html(arm.label) + "</th>";
  return html + "</tr></thead>";
}

std::string table_html(const std::string& corner, const std::vector<ArmSummary>& arms,
                       const std::vector<TableRow>& rows) {
  std::string html = "<div class=\"scroll\"><table>" + head_row(corner, arms) + "<tbody>";
  for (const TableRow& row : rows) {
    html += "<tr>" + cell("th", row.label);
    for (const std::string& value : row.values) html += cell("td", value);
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

std::string list_html(const std::vector<std::string>& items) {
  std::string html = "<ul>";
  for (const std::string& item : items) html += cell("li", item);
  return html + "</ul>";
}

std::string comparability_html(const std::vector<Statement>& statements) {
  if (statements.empty()) return "";
  std::string html = "<section><h2>May the arms be compared?</h2><ul class=\"statements\">";
  for (const Statement& statement : statements)
    html +=
        std::string("<li class=\"") + (statement.good ? "good" : "bad") + "\">" + escape_html(statement.text) + "</li>";
  return html + "</ul></section>";
}

std::string differences_html(const std::vector<ArmSummary>& arms, const Comparison& comparison) {
  if (arms.size() < 2) return "";
  std::vector<TableRow> rows;
  for (const SettingDifference& setting : comparison.settings)
    rows.push_back({setting.key + influence_suffix(setting), setting.values});
  std::string html = "<section><h2>Settings that differ</h2>";
  html += rows.empty() ? "<p>None.</p>" : table_html("setting", arms, rows);
  return html + "</section>";
}

std::string cells_html(const std::vector<std::vector<std::string>>& cells) {
  std::string html = "<div class=\"scroll\"><table>";
  for (std::size_t row = 0; row < cells.size(); ++row) {
    html += row == 0 ? "<thead><tr>" : "<tr>";
    for (std::size_t column = 0; column < cells[row].size(); ++column)
      html += cell(row == 0 || column == 0 ? "th" : "td", cells[row][column]);
    html += row == 0 ? "</tr></thead><tbody>" : "</tr>";
  }
  return html + "</tbody></table></div>";
}

/// The arms over their seeds, and the differences between them.
std::string pairs_html(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                       const Comparison& comparison) {
  std::string html;
  if (comparison.arms.size() < runs.size()) {
    std::vector<std::vector<std::string>> cells = {{""}};
    for (const ComparedArm& arm : comparison.arms) cells.front().push_back(arm.label);
    for (const TableRow& row : arm_rows(runs, summaries, comparison)) {
      cells.push_back({row.label});
      cells.back().insert(cells.back().end(), row.values.begin(), row.values.end());
    }
    html +=
        "<section id=\"arm_table\"><h2>Arms over their seeds</h2><p class=\"note\">Mean (smallest .. largest).</p>" +
        cells_html(cells) + "</section>";
  }
  if (comparison.pairs.empty()) return html;
  html += "<section id=\"pairs\"><h2>Differences between arms, paired by seed</h2><p class=\"note\">" +
          escape_html(pair_method(comparison)) + "</p>";
  for (const ArmPair& pair : comparison.pairs) {
    html += cell("h3", pair_title(comparison, pair));
    if (!pair.left_out.empty()) html += list_html(pair.left_out);
    if (!pair.numbers.empty()) html += cells_html(pair_cells(comparison, pair));
  }
  return html + "</section>";
}

std::string title_of(const std::vector<ArmSummary>& arms) {
  std::string title;
  for (const ArmSummary& arm : arms) title += (title.empty() ? "" : " · ") + arm.label;
  return title;
}

/// `live`: a page that asks its server for newer data.
std::string whole_page(const PageContent& content, const std::string& payload, bool live) {
  const ChartLibrary library = load_chart_library();
  return fill(kPageHtml, {{"title", escape_html(content.title)},
                          {"connect", live ? "; connect-src 'self'" : ""},
                          {"licence", library.licence},
                          {"library_style", library.style},
                          {"style", std::string(kPageCss)},
                          {"reading", content.reading},
                          {"summary", content.summary},
                          {"comparability", content.comparability},
                          {"pairs", content.pairs},
                          {"differences", content.differences},
                          {"notes", content.notes},
                          {"payload", payload},
                          {"library_script", library.script},
                          {"heatmap_script", std::string(kHeatmapJs)},
                          {"export_script", std::string(kExportJs)},
                          {"script", std::string(kPageJs)},
                          {"live_script", live ? "<script>" + std::string(kLiveJs) + "</script>\n" : ""}});
}

}  // namespace

PageContent page_content(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                         const Comparison& comparison) {
  PageContent content;
  content.title = title_of(arms);
  for (const std::string& paragraph : reading(arms)) content.reading += cell("p", paragraph);
  content.summary = table_html("", arms, summary_rows(arms));
  content.comparability = comparability_html(comparability(runs, arms, comparison));
  content.pairs = pairs_html(runs, arms, comparison);
  content.differences = differences_html(arms, comparison);
  content.notes = list_html(reading_notes(runs, arms));
  return content;
}

std::string live_page_html(const PageContent& content) { return whole_page(content, page_payload({}, {}), true); }

std::string page_html(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                      const Comparison& comparison) {
  return whole_page(page_content(runs, arms, comparison), page_payload(runs, arms), false);
}

}  // namespace sinkscope
