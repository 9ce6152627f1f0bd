// A comparison as tables and sentences.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>
#include <utility>

#include "tools/report/comparison.h"
#include "tools/report/format.h"
#include "tools/report/run_numbers.h"
#include "tools/report/student.h"

namespace sinkscope {
namespace {

/// "3.1", or over several "3.1 (3.0 .. 3.2)"; the number of them where it is not all.
std::string spread(const std::vector<double>& values, std::size_t of, const std::function<std::string(double)>& text) {
  if (values.empty()) return "-";
  std::string result = text(mean_of(values));
  if (values.size() > 1)
    result += " (" + text(*std::min_element(values.begin(), values.end())) + " .. " +
              text(*std::max_element(values.begin(), values.end())) + ")";
  if (values.size() < of) result += ", " + std::to_string(values.size()) + " of " + std::to_string(of);
  return result;
}

std::string whole_number(double value) { return std::to_string(std::llround(value)); }
std::string count_text(double value) { return format_count(std::llround(value)); }

std::string number_text(const std::string& name, double value) {
  if (name.ends_with(", step")) return whole_number(value);
  if (name.ends_with(", tokens")) return value < 0 ? "-" + count_text(-value) : count_text(value);
  return format_number(value);
}

std::string change_text(const std::string& name, double value) {
  return (value > 0 ? "+" : "") + number_text(name, value);
}

/// The first entry into a phase; nothing when the run never was in it.
std::optional<double> phase_entry(const ArmSummary& arm, std::string_view phase) {
  for (const PhaseSpan& span : arm.phases)
    if (span.phase == phase) return static_cast<double>(span.from);
  return std::nullopt;
}

}  // namespace

std::vector<TableRow> arm_rows(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                               const Comparison& comparison) {
  std::vector<TableRow> rows;
  const auto add_text = [&](const std::string& label, const std::function<std::string(const ComparedArm&)>& text) {
    TableRow row{label, {}};
    for (const ComparedArm& arm : comparison.arms) row.values.push_back(text(arm));
    rows.push_back(std::move(row));
  };
  const auto add = [&](const std::string& label, const std::function<std::optional<double>(std::size_t)>& get) {
    add_text(label, [&](const ComparedArm& arm) {
      std::vector<double> values;
      for (const std::size_t run : arm.runs)
        if (const auto value = get(run); value && std::isfinite(*value)) values.push_back(*value);
      return spread(values, arm.runs.size(), [&](double value) { return number_text(label, value); });
    });
  };
  const auto add_list = [&](const std::string& label, const std::function<std::string(const ArmSummary&)>& text) {
    add_text(label, [&](const ComparedArm& arm) {
      std::vector<std::string> parts;
      for (const std::size_t run : arm.runs) parts.push_back(text(summaries[run]));
      return joined(all_equal(parts) ? std::vector<std::string>{parts.front()} : parts);
    });
  };
  add_text("seeds", [](const ComparedArm& arm) { return joined(arm.seeds); });
  for (const RunNumber& kind : run_numbers()) {
    const std::string_view name = kind.name;
    if (name == kStepUpLayer) continue;
    add(kind.name, [&](std::size_t run) { return kind.get(runs[run], summaries[run]); });
    if (name != kOnsetTokens) continue;
    add("first transition, step", [&](std::size_t run) { return phase_entry(summaries[run], "transition"); });
    add("first stable, step", [&](std::size_t run) { return phase_entry(summaries[run], "stable"); });
    add_list("phase at the end", [](const ArmSummary& a) { return a.phase; });
    add_list(kStepUpLayer,
             [](const ArmSummary& a) { return a.step_up_layer ? std::to_string(*a.step_up_layer) : std::string("-"); });
  }
  return rows;
}

std::string pair_title(const Comparison& comparison, const ArmPair& pair) {
  std::string text =
      comparison.arms[pair.from].label + " → " + comparison.arms[pair.to].label + " (" + pair.factor + "), ";
  if (pair.seeds.empty()) return text + "no seed in common";
  return text + (pair.seeds.size() == 1 ? "one seed: " : "seeds ") + joined(pair.seeds);
}

std::vector<std::vector<std::string>> pair_cells(const Comparison& comparison, const ArmPair& pair) {
  std::vector<std::vector<std::string>> cells = {
      {"", comparison.arms[pair.from].label, comparison.arms[pair.to].label, "difference",
       std::to_string(std::lround(100 * kConfidence)) + " % interval", "seeds"}};
  for (const PairedNumber& number : pair.numbers) {
    std::string interval = "none: one seed";
    if (number.half_width)
      interval = "[" + change_text(number.name, number.difference - *number.half_width) + ", " +
                 change_text(number.name, number.difference + *number.half_width) + "]";
    cells.push_back({number.name, number_text(number.name, number.mean_from), number_text(number.name, number.mean_to),
                     change_text(number.name, number.difference), interval,
                     std::to_string(number.seeds.size()) + " of " + std::to_string(pair.seeds.size())});
  }
  return cells;
}

std::string pair_method(const Comparison& comparison) {
  if (comparison.pairs.empty()) return "";
  const bool several = std::any_of(comparison.pairs.begin(), comparison.pairs.end(),
                                   [](const ArmPair& p) { return p.seeds.size() > 1; });
  const std::string paired =
      "Differences are those between the runs of one seed, which share initial weights and, on the same data, its "
      "order, and their mean over the seeds. ";
  if (!several)
    return paired +
           "With one seed no interval is possible: how much a difference would vary between seeds is not known. Give "
           "several, "
           "e.g. \"train.seed\": [1, 2, 3].";
  return paired +
         "The interval is Student's t over the seeds, n - 1 degrees of freedom: it takes differences to be normal, "
         "holds for "
         "each number by itself, and is wide with few seeds. A number that a run does not have (no onset) leaves its "
         "seed out.";
}

}  // namespace sinkscope
