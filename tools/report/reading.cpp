// What the numbers of the arms mean in words: settings that differ, whether that leaves a fair
// comparison, and the result.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tools/report/comparison.h"
#include "tools/report/format.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

const char* const kAbsent = "(absent)";

std::string setting_or_absent(const RunData& run, std::string_view key) {
  return find_setting(run, key).value_or(kAbsent);
}

/// What differs between any two runs and says nothing about what was trained.
bool is_bookkeeping(std::string_view key) {
  static constexpr std::array<std::string_view, 2> kNames = {"name", "output"};
  if (std::find(kNames.begin(), kNames.end(), key) != kNames.end()) return true;
  if (!key.starts_with("run.")) return false;
  for (const std::string_view word : {"start", "time", "date", "host", "process", "directory"})
    if (key.find(word) != std::string_view::npos) return true;
  return false;
}

std::vector<std::string> values_of(const std::vector<RunData>& runs, std::string_view key) {
  std::vector<std::string> values;
  for (const RunData& run : runs) values.push_back(setting_or_absent(run, key));
  return values;
}

std::string by_run(const std::vector<ArmSummary>& arms, const std::vector<std::string>& values) {
  std::string text;
  for (std::size_t i = 0; i < arms.size(); ++i)
    text += (i == 0 ? "" : ", ") + arms[i].label + ": " + values[i];
  return text;
}

/// Of a setting that the runs of an arm share.
std::string by_arm(const Comparison& comparison, const std::vector<std::string>& values) {
  std::string text;
  for (const ComparedArm& arm : comparison.arms)
    text += (text.empty() ? "" : ", ") + arm.label + ": " + values[arm.runs.front()];
  return text;
}

std::string layer_text(std::int64_t layer) { return "layer " + std::to_string(layer); }

/// The first key of config.json that holds the identity of the tokens.
std::optional<std::string> fingerprint_key(const std::vector<RunData>& runs) {
  for (const RunData& run : runs)
    for (const auto& [key, value] : run.settings)
      if (key.starts_with("run.") && key.find("fingerprint") != std::string::npos && value != "\"\"" && value != "null")
        return key;
  return std::nullopt;
}

/// Whether some setting says that the arms read other tokens.
bool data_differ(const Comparison& comparison) {
  return std::any_of(comparison.settings.begin(), comparison.settings.end(), [](const SettingDifference& setting) {
    return setting.influence != Influence::none &&
           (setting.key == "run.dataset_fingerprint" || setting.key == "data.path" || setting.key == "data.train" ||
            setting.key == "data.validation");
  });
}

/// Whether the ablation was to vary what begins with `prefix`.
bool is_varied(const Comparison& comparison, std::string_view prefix) {
  for (const AblationFactor& factor : comparison.factors)
    for (const std::string& key : factor.keys)
      if (comparison.declared && key.starts_with(prefix)) return true;
  return false;
}

Statement data_statement(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                         const Comparison& comparison) {
  if (const auto key = fingerprint_key(runs)) {
    const std::vector<std::string> values = values_of(runs, *key);
    if (std::find(values.begin(), values.end(), kAbsent) != values.end())
      return {false, "Not every arm records which data it read, so that they cannot be checked to be the same."};
    if (!all_equal(values) && (is_varied(comparison, "data.path") || is_varied(comparison, "data.train")))
      return {true,
              "The arms read different data (fingerprints: " + by_arm(comparison, values) + "), which was to vary."};
    if (all_equal(values)) return {true, "All arms read the same data (fingerprint " + values.front() + ")."};
    return {false, "The arms read different data (fingerprints: " + by_arm(comparison, values) + ")."};
  }
  for (const char* key : {"data.path", "data.train", "data.validation"}) {
    const std::vector<std::string> values = values_of(runs, key);
    if (!all_equal(values))
      return {false, "The arms read different data (" + std::string(key) + ": " + by_run(arms, values) + ")."};
  }
  return {true, "All arms name the same data; no fingerprint was recorded to prove it."};
}

Statement equal_statement(const std::vector<RunData>& runs, const Comparison& comparison, std::string_view key,
                          const std::string& when_equal, const std::string& when_not) {
  const std::vector<std::string> values = values_of(runs, key);
  if (all_equal(values)) {
    if (values.front() == kAbsent) return {false, "No arm records " + std::string(key) + "."};
    return {true, when_equal + " (" + std::string(key) + " " + values.front() + ")."};
  }
  return {false, when_not + " (" + std::string(key) + ": " + by_arm(comparison, values) + ")."};
}

Statement token_statement(const std::vector<ArmSummary>& arms) {
  std::vector<std::string> values;
  bool equal = true;
  for (const ArmSummary& arm : arms) {
    values.push_back(format_count(arm.tokens) + " at step " + std::to_string(arm.steps));
    equal = equal && arm.tokens == arms.front().tokens && arm.steps == arms.front().steps;
  }
  if (equal) return {true, "All arms have seen the same number of tokens (" + values.front() + ")."};
  return {false, "The arms have not seen the same number of tokens (" + by_run(arms, values) +
                     "): compare curves at equal steps, not the last values."};
}

Statement target_statement(const std::vector<RunData>& runs, const Comparison& comparison) {
  const std::vector<std::string> values = values_of(runs, "data.common_targets");
  if (data_differ(comparison))
    return {false,
            "The held-out texts of the arms may differ with their data: losses and probe numbers are then not of the "
            "same tokens, and a difference between arms is also one between texts."};
  if (all_equal(values) && values.front() != kAbsent)
    return {true, "Losses on common targets count the same target tokens in every arm (those that each of " +
                      values.front() + " predicts). The plain losses do not, when BOS differs."};
  return {false, "Losses on common targets count different targets (data.common_targets: " +
                     by_arm(comparison, values) + "), so losses cannot be compared."};
}

std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i)
    text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
  return text;
}

std::vector<std::string> rounding_keys(const Comparison& comparison) {
  std::vector<std::string> keys;
  for (const SettingDifference& setting : comparison.settings)
    if (setting.influence == Influence::rounding) keys.push_back(setting.key);
  return keys;
}

/// How a run computed after its resumes where that is not how it began: "ranks.shard "none" and 2 threads of ... from
/// step 50"; nothing where it always did, or does not tell.
std::string computed_otherwise(const RunData& run) {
  const std::string began = find_setting(run, "run.device").value_or("");
  std::vector<std::string> changes;
  std::string last;
  for (const EventRecord& event : run.events) {
    if (event.kind != "resume") continue;
    const Json data = Json::parse(event.data, nullptr, false);
    if (!data.is_object()) continue;
    std::vector<std::string> terms;
    if (const auto changed = data.find("changed"); changed != data.end() && changed->is_object())
      for (const auto& [key, values] : changed->items())
        if (influence_of(key) == Influence::rounding && values.is_object() && values.contains("now"))
          terms.push_back(key + " " + values["now"].dump());
    if (const auto device = data.find("device"); device != data.end() && !began.empty() && device->dump() != began)
      terms.push_back("run.device " + device->dump());
    const std::string text = listed(terms);
    if (text != last)
      changes.push_back((terms.empty() ? "as it began" : text) + " from step " + std::to_string(event.step));
    last = text;
  }
  return listed(changes);
}

/// Nothing where every run computed in one way from its first step to its last.
std::optional<Statement> resume_statement(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms) {
  std::string text;
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (const std::string how = computed_otherwise(runs[i]); !how.empty())
      text += (text.empty() ? "" : "; ") + arms[i].label + ": " + how;
  if (text.empty()) return std::nullopt;
  return Statement{false, "Runs went on in another way than they began (" + text +
                              "): from there on their numbers are rounded differently, so that they drift from what "
                              "they would have been as with another seed, if not further."};
}

Statement seed_statement(const std::vector<RunData>& runs, const Comparison& comparison) {
  const std::vector<std::string> values = values_of(runs, "train.seed");
  if (values.front() == kAbsent && all_equal(values)) return {false, "No arm records train.seed."};
  if (comparison.arms.size() == 1) {
    std::vector<std::string> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end())
      return {true, "The runs are one arm with the seeds " + listed(values) + "."};
    return {true, "Runs of one seed repeat one another (train.seed: " + listed(values) + ")."};
  }
  const bool order = !data_differ(comparison);  // the same data order
  if (all_equal(values))
    return {order, std::string("All arms share one seed: initial weights") +
                       (order ? " and data order" : ", but not the data order, since their data differ") +
                       " (train.seed " + values.front() + ")."};
  std::string by_seeds;
  bool same = true;
  std::vector<std::string> first;
  for (const ComparedArm& arm : comparison.arms) {
    std::vector<std::string> seeds = arm.seeds;
    std::sort(seeds.begin(), seeds.end());
    if (first.empty()) first = seeds;
    same = same && seeds == first && std::adjacent_find(seeds.begin(), seeds.end()) == seeds.end();
    by_seeds += (by_seeds.empty() ? "" : "; ") + arm.label + ": " + listed(arm.seeds);
  }
  if (same)
    return {order, "Every arm has the seeds " + listed(first) + ": runs of one seed share initial weights" +
                       (order ? " and data order" : ", not the data order, since their data differ") +
                       ", and are compared in pairs."};
  return {false, "The arms have different seeds: initial weights and data order differ (" + by_seeds +
                     "). Compared in pairs are runs of a seed that both arms have."};
}

/// "data.bos", or "context (train.sequence_length and train.micro_batch)".
std::string factor_text(const AblationFactor& factor) {
  if (factor.keys == std::vector<std::string>{factor.name}) return factor.name;
  return factor.name + " (" + listed(factor.keys) + ")";
}

/// What differs and can influence the numbers, and whether it is what was to vary.
Statement settings_statement(const Comparison& comparison) {
  std::vector<std::string> factors;
  for (const AblationFactor& factor : comparison.factors) factors.push_back(factor_text(factor));
  if (!comparison.unexpected.empty())
    return {false, "NOT COMPARABLE: besides what was to vary (" + (factors.empty() ? "the seed" : listed(factors)) +
                       ") the arms differ in " + listed(comparison.unexpected) +
                       ", so that what follows from which is not separated." +
                       (comparison.pairs.empty() ? "" : " Compared are arms that differ in what was to vary alone.")};
  if (comparison.arms.size() == 1) return {true, "Nothing that can influence the numbers differs, but for the seed."};
  const std::string unpaired = comparison.unpaired.empty()
                                   ? ""
                                   : " " + listed(comparison.unpaired) +
                                         (comparison.unpaired.size() == 1 ? " differs" : " differ") +
                                         " from every other arm in more than one of them: compared with none.";
  if (comparison.pairs.empty())
    return {false, "NOT COMPARABLE: the arms differ in " + listed(factors) +
                       ", whose effects are not separated. Settings that were to change "
                       "together are named by `sinkscope compare --ablated KEY,KEY`."};
  if (factors.size() == 1)
    return {true, (comparison.declared ? "The arms differ in what was to vary alone: "
                                       : "Of what can influence the numbers the arms differ in one setting alone: ") +
                      factors.front() + "."};
  return {unpaired.empty(), std::string(comparison.declared ? "The arms differ in what was to vary: "
                                                            : "The arms differ in several settings: ") +
                                listed(factors) + "; compared are arms that differ in one of them." + unpaired};
}

std::string progress_sentence(const ArmSummary& arm) {
  if (arm.steps == 0) return "has no logged step yet.";
  std::string text = "is at step " + std::to_string(arm.steps);
  if (arm.planned_steps > 0) text += " of " + std::to_string(arm.planned_steps);
  text += " (" + format_count(arm.tokens) + " tokens)";
  if (!arm.stopped_by.empty())
    text += "; it " + stopped_text(arm);
  else if (arm.planned_steps > arm.steps)
    text += "; it is unfinished";
  return text + ".";
}

std::string loss_sentence(const ArmSummary& arm) {
  if (arm.bad_losses > 0)
    return " Its training loss was not finite at " + std::to_string(arm.bad_losses) +
           (arm.bad_losses == 1 ? " step, first at step " : " steps, first at step ") +
           std::to_string(arm.first_bad_loss) + ".";
  if (arm.validation_loss_common)
    return " Validation loss on common targets: " + format_number(arm.validation_loss_common->first) + " → " +
           format_number(arm.validation_loss_common->last) + ".";
  if (arm.train_loss_common)
    return " Training loss on common targets: " + format_number(arm.train_loss_common->first) + " → " +
           format_number(arm.train_loss_common->last) + ".";
  return "";
}

std::string sink_sentence(const ArmSummary& arm) {
  if (!arm.sink_excess[0]) {
    if (arm.steps == 0) return "";
    if (!arm.sink_score[0]) return " Its probes were off: nothing is known about its sink.";
    return " It has no probe pass; in its training batches the mean sink score of position 0 went " +
           format_number(arm.sink_score[0]->first) + " → " + format_number(arm.sink_score[0]->last) + ".";
  }
  // Passes come every so many steps; what is missing at the end is more than that.
  const std::int64_t last = arm.probes.empty() ? arm.steps : arm.probes.back()->step;
  const std::int64_t apart = arm.probes.size() < 2 ? 0 : last - arm.probes[arm.probes.size() - 2]->step;
  std::string text = last + apart < arm.steps
                         ? " At step " + std::to_string(last) + ", its last probe pass, position 0 draws "
                         : " Position 0 draws ";
  text += format_number(arm.sink_excess[0]->last) +
          " times the attention that uniform weights would give it (at first " +
          format_number(arm.sink_excess[0]->first) + ")";
  if (arm.onset)
    text += ": a sink, formed at step " + std::to_string(arm.onset->step) + " (" + format_count(arm.onset->tokens) +
            " tokens)";
  else if (arm.first_crossing)
    text += ": it first reached the threshold of " + format_number(arm.onset_threshold) + " at step " +
            std::to_string(arm.first_crossing->step) + ", but has not stayed there for the " +
            std::to_string(arm.onset_window) + " probes in a row that count as onset";
  else
    text += ": no sink so far (threshold " + format_number(arm.onset_threshold) + ", highest value " +
            format_number(arm.highest_excess) + ")";
  text += ".";
  for (std::size_t p = 1; p < kShownPositions; ++p)
    if (arm.sink_excess[p] && arm.sink_excess[p]->last > arm.sink_excess[0]->last &&
        arm.sink_excess[p]->last >= arm.onset_threshold) {
      text +=
          " Position " + std::to_string(p) + " leads instead, with " + format_number(arm.sink_excess[p]->last) + ".";
      break;
    }
  if (arm.sink_rate[0])
    text += " " + format_number(100 * arm.sink_rate[0]->last) + " % of its heads give it more than " +
            format_number(arm.sink_threshold) + ".";
  return text;
}

std::string norm_sentence(const ArmSummary& arm) {
  if (!arm.norm_ratio) return "";
  std::string text = " Its residual norm is at most " + format_number(arm.norm_ratio->ratio) +
                     " times the others' (" + layer_text(arm.norm_ratio->layer) + ")";
  if (arm.step_up_layer)
    text += ", stepping up in " + layer_text(*arm.step_up_layer);
  else if (!arm.probes.empty())
    text += ", with l* undefined";
  if (arm.value_ratio && arm.value_ratio_layer)
    text += (*arm.value_ratio < 1 ? "; its value norm falls to " + format_number(arm.value_ratio) + " of the others' ("
                                  : "; its value norm is nowhere below the others', at least " +
                                        format_number(arm.value_ratio) + " times them (") +
            layer_text(*arm.value_ratio_layer) + ")";
  return text + ".";
}

std::string phase_sentence(const ArmSummary& arm) {
  if (arm.phases.empty()) return "";
  std::string text = " Phase: " + arm.phase;
  if (arm.phases.back().from > 0) text += " since step " + std::to_string(arm.phases.back().from);
  if (arm.phases.size() == 1 && arm.phase == "wandering") text += " throughout";
  return text + ".";
}

/// The contrast that the ablation is about.
std::string contrast(const std::vector<ArmSummary>& arms) {
  const ArmSummary* highest = nullptr;
  const ArmSummary* lowest = nullptr;
  for (const ArmSummary& arm : arms) {
    if (!arm.sink_excess[0] || !std::isfinite(arm.sink_excess[0]->last)) continue;
    if (highest == nullptr || arm.sink_excess[0]->last > highest->sink_excess[0]->last) highest = &arm;
    if (lowest == nullptr || arm.sink_excess[0]->last < lowest->sink_excess[0]->last) lowest = &arm;
  }
  if (highest == nullptr || highest == lowest) return "";
  const bool sinks = highest->sink_excess[0]->last >= highest->onset_threshold;
  std::string text = sinks ? "The sink at position 0 is strongest in " : "No arm has a sink: position 0 draws most in ";
  text += highest->label + " (" + format_number(highest->sink_excess[0]->last) + " times uniform) and " +
          (sinks ? "weakest in " : "least in ") + lowest->label + " (" + format_number(lowest->sink_excess[0]->last) +
          ")";
  if (highest->norm_ratio && lowest->norm_ratio)
    text += "; the largest norm ratios of position 0 are " + format_number(highest->norm_ratio->ratio) + " and " +
            format_number(lowest->norm_ratio->ratio);
  return text + ".";
}

}  // namespace

std::string stopped_text(const ArmSummary& arm) {
  return "ended in step " + std::to_string(arm.stopped_step) + ": " + arm.stopped_by;
}

std::vector<Difference> differences(const std::vector<RunData>& runs) {
  std::vector<std::string> keys;
  for (const RunData& run : runs)
    for (const auto& [key, value] : run.settings)
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  std::vector<Difference> result;
  for (const std::string& key : keys) {
    if (is_bookkeeping(key)) continue;
    std::vector<std::string> values = values_of(runs, key);
    if (!all_equal(values)) result.push_back({key, std::move(values)});
  }
  return result;
}

std::vector<Statement> comparability(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms,
                                     const Comparison& comparison) {
  if (runs.size() < 2) return {};
  std::vector<Statement> result;
  result.push_back(data_statement(runs, arms, comparison));
  result.push_back(seed_statement(runs, comparison));
  result.push_back(token_statement(arms));
  result.push_back(equal_statement(runs, comparison, "train.sequence_length", "All arms train on one sequence length",
                                   "The arms train on different sequence lengths; sink scores at different lengths "
                                   "must not be compared, the excess over uniform may"));
  result.push_back(target_statement(runs, comparison));
  std::vector<std::string> bos;
  for (const ArmSummary& arm : arms) bos.push_back(arm.bos);
  if (!all_equal(bos))
    result.push_back({true, "BOS differs between arms (" + by_arm(comparison, bos) +
                                "): window i of every arm covers the same text, less what BOS displaces."});
  result.push_back(settings_statement(comparison));
  if (const std::vector<std::string> keys = rounding_keys(comparison); !keys.empty())
    result.push_back({false, "Not all runs were computed in one way (" + listed(keys) +
                                 " below): numbers are rounded differently, so that "
                                 "runs drift apart as with another seed, if not further."});
  if (std::optional<Statement> resumed = resume_statement(runs, arms)) result.push_back(std::move(*resumed));
  return result;
}

std::vector<std::string> reading(const std::vector<ArmSummary>& arms) {
  std::vector<std::string> result;
  if (const std::string text = contrast(arms); !text.empty()) result.push_back(text);
  for (const ArmSummary& arm : arms)
    result.push_back(arm.label + " (BOS " + arm.bos + ") " + progress_sentence(arm) + sink_sentence(arm) +
                     norm_sentence(arm) + causal_sentence(arm) + phase_sentence(arm) + loss_sentence(arm));
  return result;
}

std::vector<std::string> reading_notes(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms) {
  std::vector<std::string> notes;
  notes.push_back("The sink excess is the mean sink score of a position over what uniform attention would give it; "
                  "1 means no sink. Its onset is the first probe from which it stays at or above the threshold for a "
                  "whole window of probes.");
  notes.push_back("The sink rate counts single heads above a fixed score and stays near zero long after the mean has "
                  "moved: in short runs read the excess and the P0 norm ratio first.");
  for (std::string& note : causal_notes(arms)) notes.push_back(std::move(note));
  for (const ArmSummary& arm : arms)
    if (!arm.low_rate.empty()) {
      notes.push_back("From step " + std::to_string(arm.low_rate.front().from) + " the learning rate of " + arm.label +
                      " is under a tenth of its peak; a curve that flattens there may do so because of the schedule.");
    }
  bool probes_missing = false, other_set = false;
  for (const ArmSummary& arm : arms) {
    if (arm.probes.empty()) probes_missing = true;
    if (!arm.probe_set.empty() && arm.probe_set != phase_set_of(arm.bos)) other_set = true;
  }
  if (probes_missing && std::any_of(arms.begin(), arms.end(), [](const ArmSummary& a) { return !a.probes.empty(); }))
    notes.push_back("Some arms have no probe pass; their scores come from training batches or are missing.");
  if (other_set) notes.push_back("An arm was probed only on a set whose BOS is not the one it trains with.");
  notes.push_back("A training loss in the table is that of the first logged step → the mean over the last twentieth of "
                  "them (50 at most); a validation loss that of the first evaluation → that of the last.");
  if (runs.size() < 2)
    notes.push_back(
        "This is one run with one seed: how much its numbers would differ with another is not known from it.");
  else if (all_equal(values_of(runs, "train.seed")))
    notes.push_back("All arms have the same seed, so that how much the numbers differ between seeds is not known: a "
                    "difference between arms that is no larger than that says nothing about what was varied.");
  return notes;
}

}  // namespace sinkscope
