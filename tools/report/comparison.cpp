#include "tools/report/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tools/report/format.h"
#include "tools/report/student.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFingerprint = "run.dataset_fingerprint";

bool is_data_place(std::string_view key) {
  return key == "data.path" || key == "data.train" || key == "data.validation";
}

bool all_equal(const std::vector<std::string>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

bool holds(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

std::string joined(const std::vector<std::string>& parts, const char* separator = ", ") {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

// ---- settings ----------------------------------------------------------------------------------------------------

/// The config of a run as an object; "run" and "ablation" left out.
Json config_tree(const RunData& run) {
  Json tree = Json::object();
  for (const auto& [key, text] : run.settings) {
    if (key.starts_with("run.") || key == "ablation" || key.starts_with("ablation.")) continue;
    Json* place = &tree;
    std::size_t begin = 0;
    for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
      place = &(*place)[key.substr(begin, dot - begin)];
      begin = dot + 1;
    }
    Json value = Json::parse(text, nullptr, false);
    if (!value.is_discarded()) (*place)[key.substr(begin)] = std::move(value);
  }
  return tree;
}

/// Whether the run would have the same value had its config not named the key: it follows from the others.
bool follows_in(const RunData& run, const std::string& key) {
  const std::string pointer = [&] {
    std::string text = "/" + key;
    std::replace(text.begin(), text.end(), '.', '/');
    return text;
  }();
  const Json::json_pointer place(pointer);
  try {
    Json tree = config_tree(run);
    if (!tree.contains(place)) return false;
    const Json value = tree.at(place);
    tree.at(place.parent_pointer()).erase(place.back());
    Json resolved = to_json(parse_config(tree.dump(), run.name));
    if (key == "model.max_sequence_length" && resolved.at(place) == 0)
      return resolved["train"]["sequence_length"] == value;
    return resolved.at(place) == value;
  } catch (const std::exception&) {  // of another version of the program: nothing is known
    return false;
  }
}

/// What the GPU or CPU computes in, as the run's device begins: "bf16", "fp32".
std::string precision_of(const std::string& device) { return device.substr(0, device.find(',')); }

/// Keys in which runs differ and that say more than where they were made.
std::vector<SettingDifference> setting_differences(const std::vector<RunData>& runs) {
  std::vector<SettingDifference> result;
  const std::vector<Difference> all = differences(runs);
  const auto differs = [&](std::string_view key) {
    return std::any_of(all.begin(), all.end(), [&](const Difference& d) { return d.key == key; });
  };
  const bool one_text = std::all_of(runs.begin(), runs.end(),
                                    [](const RunData& run) {
                                      const auto text = find_setting(run, kFingerprint);
                                      return text && *text != "\"\"" && *text != "null";
                                    }) &&
                        !differs(kFingerprint);
  const bool other_text = std::any_of(all.begin(), all.end(), [](const Difference& d) { return is_data_place(d.key); });
  for (const Difference& difference : all) {
    SettingDifference setting{difference.key, influence_of(difference.key), false, difference.values};
    if (is_data_place(setting.key) && one_text) setting.influence = Influence::none;
    if (setting.key == "run.device") {
      std::vector<std::string> precisions;
      for (const std::string& value : setting.values)
        if (value.starts_with('"')) precisions.push_back(precision_of(value));  // not of a run that does not tell
      if (!all_equal(precisions)) setting.influence = Influence::trained;
    }
    if (setting.key == "run.parameters") setting.follows = true;  // from the model's settings
    if (setting.influence == Influence::trained || setting.influence == Influence::measured) {
      if (setting.key == kFingerprint || setting.key == "model.vocab_size" || setting.key == "data.bos_id" ||
          setting.key == "data.eos_id")
        setting.follows = other_text && !one_text;
      else if (setting.key.starts_with("model.") || setting.key == "probes.from_layer")
        setting.follows =
            std::all_of(runs.begin(), runs.end(), [&](const RunData& run) { return follows_in(run, setting.key); });
    }
    result.push_back(std::move(setting));
  }
  return result;
}

bool decides(const SettingDifference& setting) {
  return !setting.follows && (setting.influence == Influence::trained || setting.influence == Influence::measured);
}

// ---- arms --------------------------------------------------------------------------------------------------------

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

// ---- pairs -------------------------------------------------------------------------------------------------------

/// A number of a run, at its end.
using Getter = std::optional<double> (*)(const RunData& run, const ArmSummary& summary);

struct NumberKind {
  const char* name;
  bool same_length;  // compared at one sequence length only
  Getter get;
};

std::optional<double> last_of(const std::optional<FirstLast>& value) {
  return value ? std::optional<double>(value->last) : std::nullopt;
}

template <class Value>
std::optional<double> as_number(const std::optional<Value>& value) {
  return value ? std::optional<double>(static_cast<double>(*value)) : std::nullopt;
}

std::optional<double> validation_loss(const RunData&, const ArmSummary& arm) {
  return last_of(arm.validation_loss_common);
}
std::optional<double> training_loss(const RunData&, const ArmSummary& arm) { return last_of(arm.train_loss_common); }
std::optional<double> onset_step(const RunData&, const ArmSummary& arm) {
  return arm.onset ? std::optional<double>(static_cast<double>(arm.onset->step)) : std::nullopt;
}
std::optional<double> onset_tokens(const RunData&, const ArmSummary& arm) {
  return arm.onset ? std::optional<double>(static_cast<double>(arm.onset->tokens)) : std::nullopt;
}
std::optional<double> excess(const RunData&, const ArmSummary& arm) { return last_of(arm.sink_excess[0]); }
std::optional<double> rate(const RunData&, const ArmSummary& arm) { return last_of(arm.sink_rate[0]); }
std::optional<double> norm_ratio(const RunData&, const ArmSummary& arm) {
  return arm.norm_ratio ? std::optional<double>(arm.norm_ratio->ratio) : std::nullopt;
}
std::optional<double> value_ratio(const RunData&, const ArmSummary& arm) { return arm.value_ratio; }
std::optional<double> step_up_layer(const RunData&, const ArmSummary& arm) { return as_number(arm.step_up_layer); }
std::optional<double> concentration(const RunData&, const ArmSummary& arm) { return arm.concentration; }
std::optional<double> speed(const RunData&, const ArmSummary& arm) {
  return arm.tokens_per_second > 0 ? std::optional<double>(arm.tokens_per_second) : std::nullopt;
}

std::optional<double> short_rate(const RunData& run, const ArmSummary& arm) {
  const ProbeRecord* last = nullptr;
  for (const ProbeRecord& probe : run.probes)
    if (probe.set == (phase_set_of(arm.bos) == "natural" ? "natural_short" : "natural_short_bos") &&
        (last == nullptr || probe.step > last->step))
      last = &probe;
  if (last == nullptr || last->sink_rate.empty()) return std::nullopt;
  return last->sink_rate.front();
}

constexpr std::array<NumberKind, 12> kNumbers = {{{"validation loss, common targets", false, validation_loss},
                                                  {"training loss, common targets", false, training_loss},
                                                  {"sink onset, step", false, onset_step},
                                                  {"sink onset, tokens", false, onset_tokens},
                                                  {"sink excess P0", false, excess},
                                                  {"sink rate P0", true, rate},
                                                  {"sink rate P0, short probe set", false, short_rate},
                                                  {"largest P0 norm ratio", false, norm_ratio},
                                                  {"P0 value norm / rest, smallest", false, value_ratio},
                                                  {"step-up layer l*", false, step_up_layer},
                                                  {"first-two-layer share C2", false, concentration},
                                                  {"tokens per second, median", false, speed}}};

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
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
  for (const NumberKind& kind : kNumbers) {
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
    number.mean_from = mean(number.from);
    number.mean_to = mean(number.to);
    number.difference = mean(changes);
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

// ---- as text -----------------------------------------------------------------------------------------------------

/// "3.1", or over several "3.1 (3.0 .. 3.2)"; the number of them where it is not all.
std::string spread(const std::vector<double>& values, std::size_t of, const std::function<std::string(double)>& text) {
  if (values.empty()) return "-";
  std::string result = text(mean(values));
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

Json parsed_or_null(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  return json.is_discarded() ? Json(nullptr) : json;
}

Json number_or_null(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json(nullptr);
}

Json point_json(const std::optional<Point>& point) {
  return point ? Json{{"step", point->step}, {"tokens", point->tokens}} : Json(nullptr);
}

Json first_last_json(const std::optional<FirstLast>& value) {
  return value ? Json{{"first", number_or_null(value->first)}, {"last", number_or_null(value->last)}} : Json(nullptr);
}

Json run_json(const RunData& run, const ArmSummary& arm, std::size_t index) {
  Json phases = Json::array();
  for (const PhaseSpan& span : arm.phases)
    phases.push_back({{"phase", span.phase}, {"from", span.from}, {"to", span.to}});
  return {{"directory", run.directory.string()},
          {"name", run.name},
          {"label", arm.label},
          {"arm", index},
          {"seed", parsed_or_null(find_setting(run, "train.seed").value_or(""))},
          {"bos", arm.bos},
          {"steps", arm.steps},
          {"planned_steps", arm.planned_steps},
          {"tokens", arm.tokens},
          {"training_loss", first_last_json(arm.train_loss)},
          {"training_loss_common", first_last_json(arm.train_loss_common)},
          {"validation_loss", first_last_json(arm.validation_loss)},
          {"validation_loss_common", first_last_json(arm.validation_loss_common)},
          {"onset", point_json(arm.onset)},
          {"phase", arm.phase},
          {"phases", phases},
          {"scores_from", arm.score_source},
          {"sink_excess", first_last_json(arm.sink_excess[0])},
          {"sink_score", first_last_json(arm.sink_score[0])},
          {"sink_rate", first_last_json(arm.sink_rate[0])},
          {"sink_rate_late_layers", first_last_json(arm.sink_rate_late)},
          {"sink_rate_short_set", number_or_null(short_rate(run, arm))},
          {"norm_ratio", arm.norm_ratio
                             ? Json{{"ratio", number_or_null(arm.norm_ratio->ratio)}, {"layer", arm.norm_ratio->layer}}
                             : Json(nullptr)},
          {"value_ratio", number_or_null(arm.value_ratio)},
          {"step_up_layer", arm.step_up_layer ? Json(*arm.step_up_layer) : Json(nullptr)},
          {"concentration", number_or_null(arm.concentration)},
          {"tokens_per_second", number_or_null(arm.tokens_per_second)},
          {"training_seconds", number_or_null(arm.training_seconds)}};
}

const char* influence_name(Influence influence) {
  switch (influence) {
    case Influence::none:
      return "none";
    case Influence::rounding:
      return "rounding";
    case Influence::measured:
      return "measured";
    case Influence::seed:
      return "seed";
    case Influence::trained:
      return "trained";
  }
  return "";
}

}  // namespace

Influence influence_of(std::string_view key) {
  if (key == "train.seed") return Influence::seed;
  for (const std::string_view exact :
       {"name", "output", "$schema", "ablation", "train.recompute", "probes.causal_every"})
    if (key == exact) return Influence::none;
  for (const std::string_view section : {"log.", "alerts.", "checkpoint.", "sample.", "ablation."})
    if (key.starts_with(section)) return Influence::none;
  if (key == kFingerprint || key == "run.parameters") return Influence::trained;
  if (key == "device" || key == "threads" || key.starts_with("run.")) return Influence::rounding;
  if (key.starts_with("probes.") || key.starts_with("evaluation.") || key == "data.common_targets")
    return Influence::measured;
  return Influence::trained;
}

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
  for (const NumberKind& kind : kNumbers) {
    if (kind.get == step_up_layer) continue;
    add(kind.name, [&](std::size_t run) { return kind.get(runs[run], summaries[run]); });
    if (kind.get != onset_tokens) continue;
    add("first transition, step", [&](std::size_t run) { return phase_entry(summaries[run], "transition"); });
    add("first stable, step", [&](std::size_t run) { return phase_entry(summaries[run], "stable"); });
    add_list("phase at the end", [](const ArmSummary& a) { return a.phase; });
    add_list("step-up layer l*",
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
      "Differences are those between the runs of one seed, which share initial weights and data order, and their mean "
      "over the seeds. ";
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

std::string influence_suffix(const SettingDifference& setting) {
  if (setting.follows) return " (follows from others)";
  switch (setting.influence) {
    case Influence::none:
      return " (changes no number)";
    case Influence::rounding:
      return " (rounding alone)";
    case Influence::measured:
      return " (how it is measured)";
    case Influence::seed:
    case Influence::trained:
      return "";
  }
  return "";
}

Json comparison_json(const std::vector<RunData>& runs, const std::vector<ArmSummary>& summaries,
                     const Comparison& comparison) {
  Json json = {{"runs", Json::array()},
               {"arms", Json::array()},
               {"settings", Json::array()},
               {"varied", Json::array()},
               {"varied_as_declared", comparison.declared},
               {"unexpected", comparison.unexpected},
               {"not_comparable", comparison.unpaired},
               {"statements", Json::array()},
               {"pairs", Json::array()},
               {"confidence", kConfidence},
               {"method", pair_method(comparison)}};
  std::vector<std::size_t> arm_of_run(runs.size());
  for (std::size_t arm = 0; arm < comparison.arms.size(); ++arm) {
    Json seeds = Json::array();
    for (const std::string& seed : comparison.arms[arm].seeds) seeds.push_back(parsed_or_null(seed));
    json["arms"].push_back(
        {{"label", comparison.arms[arm].label}, {"runs", comparison.arms[arm].runs}, {"seeds", seeds}});
    for (const std::size_t run : comparison.arms[arm].runs) arm_of_run[run] = arm;
  }
  for (std::size_t run = 0; run < runs.size(); ++run)
    json["runs"].push_back(run_json(runs[run], summaries[run], arm_of_run[run]));
  for (const SettingDifference& setting : comparison.settings) {
    Json values = Json::array();
    for (const std::string& value : setting.values) values.push_back(parsed_or_null(value));
    json["settings"].push_back({{"key", setting.key},
                                {"influence", influence_name(setting.influence)},
                                {"follows", setting.follows},
                                {"values", std::move(values)}});
  }
  for (const AblationFactor& factor : comparison.factors)
    json["varied"].push_back({{"name", factor.name}, {"keys", factor.keys}});
  for (const Statement& statement : comparability(runs, summaries, comparison))
    json["statements"].push_back({{"good", statement.good}, {"text", statement.text}});
  for (const ArmPair& pair : comparison.pairs) {
    Json numbers = Json::array();
    for (const PairedNumber& number : pair.numbers) {
      Json entry = {{"name", number.name},
                    {"seeds", Json::array()},
                    {"from", number.from},
                    {"to", number.to},
                    {"mean_from", number.mean_from},
                    {"mean_to", number.mean_to},
                    {"difference", number.difference},
                    {"low", nullptr},
                    {"high", nullptr}};
      for (const std::string& seed : number.seeds) entry["seeds"].push_back(parsed_or_null(seed));
      if (number.half_width) {
        entry["low"] = number.difference - *number.half_width;
        entry["high"] = number.difference + *number.half_width;
      }
      numbers.push_back(std::move(entry));
    }
    Json seeds = Json::array();
    for (const std::string& seed : pair.seeds) seeds.push_back(parsed_or_null(seed));
    json["pairs"].push_back({{"from", pair.from},
                             {"to", pair.to},
                             {"varied", pair.factor},
                             {"seeds", seeds},
                             {"left_out", pair.left_out},
                             {"numbers", std::move(numbers)}});
  }
  return json;
}

}  // namespace sinkscope
