#include "tools/report/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "tools/report/format.h"
#include "tools/report/run_numbers.h"
#include "tools/report/student.h"

namespace sinkscope {
namespace {

bool holds(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

std::vector<std::size_t> arms_of(const std::vector<SettingDifference>& settings, std::size_t runs) {
  std::vector<std::vector<std::string>> seen;
  std::vector<std::size_t> arms;
  for (std::size_t run = 0; run < runs; ++run) {
    std::vector<std::string> values;
    for (const SettingDifference& setting : settings)
      if (decides(setting)) values.push_back(setting.values[run]);
    const auto found = std::find(seen.begin(), seen.end(), values);
    arms.push_back(static_cast<std::size_t>(found - seen.begin()));
    if (found == seen.end()) seen.push_back(std::move(values));
  }
  return arms;
}

std::vector<std::string> comma_parts(const std::string& label) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= label.size();) {
    const std::size_t end = std::min(label.find(',', begin), label.size());
    parts.push_back(label.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// What the labels of its runs share; else what the arm is set to.
std::string arm_label(const ComparedArm& arm, const std::vector<ArmSummary>& summaries,
                      const std::vector<SettingDifference>& settings) {
  if (arm.runs.size() == 1) return summaries[arm.runs.front()].label;
  std::vector<std::string> shared = comma_parts(summaries[arm.runs.front()].label);
  for (const std::size_t run : arm.runs) {
    const std::vector<std::string> parts = comma_parts(summaries[run].label);
    std::erase_if(shared, [&](const std::string& part) { return !holds(parts, part); });
  }
  if (!shared.empty()) return joined(shared, ",");
  for (const SettingDifference& setting : settings) {
    if (!decides(setting)) continue;
    std::string value = setting.values[arm.runs.front()];
    std::erase(value, '"');
    shared.push_back(setting.key.substr(setting.key.rfind('.') + 1) + "-" + value);
  }
  return shared.empty() ? "all runs" : joined(shared, ",");
}

/// The same label for two arms tells nothing.
void set_labels(std::vector<ComparedArm>& arms, const std::vector<ArmSummary>& summaries,
                const std::vector<SettingDifference>& settings) {
  std::map<std::string, int> uses;
  for (ComparedArm& arm : arms) {
    arm.label = arm_label(arm, summaries, settings);
    if (const int count = ++uses[arm.label]; count > 1) arm.label += " #" + std::to_string(count);
  }
}

std::string progress(const ArmSummary& arm) {
  return std::to_string(arm.steps) + " of " + std::to_string(arm.planned_steps) + " steps";
}

/// The runs of each seed that both arms have once and that can be held against each other: both at their end, or at the
/// same step.
std::vector<std::array<std::size_t, 2>> pair_runs(const ComparedArm& from, const ComparedArm& to,
                                                  const std::vector<ArmSummary>& summaries, ArmPair& pair) {
  std::vector<std::array<std::size_t, 2>> runs;
  std::vector<std::string> alone, twice;
  std::vector<std::string> seeds = from.seeds;
  seeds.insert(seeds.end(), to.seeds.begin(), to.seeds.end());
  std::vector<std::string> seen;
  for (const std::string& seed : seeds) {
    if (holds(seen, seed)) continue;
    seen.push_back(seed);
    const auto here = std::count(from.seeds.begin(), from.seeds.end(), seed),
               there = std::count(to.seeds.begin(), to.seeds.end(), seed);
    if (here == 0 || there == 0) alone.push_back(seed);
    if (here == 0 || there == 0) continue;
    if (here > 1 || there > 1) {
      twice.push_back(seed);
      continue;
    }
    const auto run_of = [&](const ComparedArm& arm) {
      return arm
          .runs[static_cast<std::size_t>(std::find(arm.seeds.begin(), arm.seeds.end(), seed) - arm.seeds.begin())];
    };
    const std::size_t first = run_of(from), second = run_of(to);
    const ArmSummary& a = summaries[first];
    const ArmSummary& b = summaries[second];
    if ((a.steps < a.planned_steps || b.steps < b.planned_steps) && a.steps != b.steps) {
      pair.left_out.push_back("seed " + seed + " is left out: its runs are at " + progress(a) + " and at " +
                              progress(b));
      continue;
    }
    pair.seeds.push_back(seed);
    runs.push_back({first, second});
  }
  if (!alone.empty()) pair.left_out.push_back("left out are seeds that one arm alone has: " + joined(alone));
  if (!twice.empty()) pair.left_out.push_back("left out are seeds that an arm has twice: " + joined(twice));
  return runs;
}

ArmPair make_pair(const Comparison& comparison, std::size_t from, std::size_t to, const std::string& factor,
                  const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries) {
  ArmPair pair;
  pair.from = from;
  pair.to = to;
  pair.factor = factor;
  const auto matched = pair_runs(comparison.arms[from], comparison.arms[to], summaries, pair);
  const ArmSummary& one = summaries[comparison.arms[from].runs.front()];
  const ArmSummary& other = summaries[comparison.arms[to].runs.front()];
  const bool same_length = one.sequence_length == other.sequence_length;
  if (!same_length)
    pair.left_out.push_back("sink rates at the training length are left out: scores at " +
                            std::to_string(one.sequence_length) + " and " + std::to_string(other.sequence_length) +
                            " tokens are not compared");
  for (const RunNumber& kind : run_numbers()) {
    if (kind.same_length && !same_length) continue;
    PairedNumber number;
    number.name = kind.name;
    std::vector<double> changes;
    for (std::size_t i = 0; i < matched.size(); ++i) {
      const auto a = kind.get(runs[matched[i][0]], summaries[matched[i][0]]),
                 b = kind.get(runs[matched[i][1]], summaries[matched[i][1]]);
      if (!a || !b || !std::isfinite(*a) || !std::isfinite(*b)) continue;
      number.seeds.push_back(pair.seeds[i]);
      number.from.push_back(*a);
      number.to.push_back(*b);
      changes.push_back(*b - *a);
    }
    if (changes.empty()) continue;
    number.mean_from = mean_of(number.from);
    number.mean_to = mean_of(number.to);
    number.difference = mean_of(changes);
    if (changes.size() > 1) number.half_width = student_half_width(changes, kConfidence);
    pair.numbers.push_back(std::move(number));
  }
  return pair;
}

/// The factors in which two arms differ, and whether anything else does.
struct Apart {
  std::vector<std::size_t> factors;
  bool unexpected = false;
};

Apart apart(const Comparison& comparison, std::size_t a, std::size_t b) {
  Apart result;
  const std::size_t first = comparison.arms[a].runs.front(), second = comparison.arms[b].runs.front();
  for (const SettingDifference& setting : comparison.settings) {
    if (!decides(setting) || setting.values[first] == setting.values[second]) continue;
    const auto factor = std::find_if(comparison.factors.begin(), comparison.factors.end(),
                                     [&](const AblationFactor& f) { return holds(f.keys, setting.key); });
    if (factor == comparison.factors.end()) {
      result.unexpected = true;
      continue;
    }
    const auto index = static_cast<std::size_t>(factor - comparison.factors.begin());
    if (std::find(result.factors.begin(), result.factors.end(), index) == result.factors.end())
      result.factors.push_back(index);
  }
  return result;
}

void find_pairs(Comparison& comparison, const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries) {
  std::vector<bool> paired(comparison.arms.size());
  for (std::size_t to = 1; to < comparison.arms.size(); ++to)
    for (std::size_t factor = 0; factor < comparison.factors.size(); ++factor)
      for (std::size_t from = 0; from < to; ++from) {
        const Apart between = apart(comparison, from, to);
        if (between.unexpected || between.factors != std::vector<std::size_t>{factor}) continue;
        comparison.pairs.push_back(make_pair(comparison, from, to, comparison.factors[factor].name, runs, summaries));
        paired[from] = paired[to] = true;
        break;
      }
  for (std::size_t arm = 0; arm < comparison.arms.size() && comparison.arms.size() > 1; ++arm)
    if (!paired[arm]) comparison.unpaired.push_back(comparison.arms[arm].label);
}

}  // namespace

std::vector<std::size_t> arms_of(const std::vector<RunData>& runs) {
  return arms_of(setting_differences(runs), runs.size());
}

Comparison compare_runs(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                        const std::optional<std::vector<AblationFactor>>& factors) {
  Comparison comparison;
  comparison.settings = setting_differences(runs);
  const std::vector<std::size_t> arm_of_run = arms_of(comparison.settings, runs.size());
  for (std::size_t run = 0; run < runs.size(); ++run) {
    if (arm_of_run[run] == comparison.arms.size()) comparison.arms.emplace_back();
    ComparedArm& arm = comparison.arms[arm_of_run[run]];
    arm.runs.push_back(run);
    arm.seeds.push_back(find_setting(runs[run], "train.seed").value_or("(absent)"));
  }
  set_labels(comparison.arms, summaries, comparison.settings);

  comparison.declared = factors.has_value();
  if (factors) {
    comparison.factors = *factors;
    std::erase_if(comparison.factors,
                  [](const AblationFactor& f) { return f.keys == std::vector<std::string>{"train.seed"}; });
  }
  for (const SettingDifference& setting : comparison.settings) {
    if (!decides(setting)) continue;
    const bool named = std::any_of(comparison.factors.begin(), comparison.factors.end(),
                                   [&](const AblationFactor& f) { return holds(f.keys, setting.key); });
    if (named) continue;
    if (comparison.declared)
      comparison.unexpected.push_back(setting.key);
    else
      comparison.factors.push_back({setting.key, {setting.key}});
  }
  find_pairs(comparison, runs, summaries);
  return comparison;
}

}  // namespace sinkscope
