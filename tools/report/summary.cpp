#include "tools/report/summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/probes/circuit.h"
#include "engine/probes/phases.h"
#include "engine/probes/probe_sets.h"
#include "tools/report/comparison.h"
#include "tools/report/format.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

std::optional<double> number_setting(const RunData& run, std::string_view key) {
  const auto text = find_setting(run, key);
  if (!text) return std::nullopt;
  const Json json = Json::parse(*text, nullptr, false);
  if (!json.is_number()) return std::nullopt;
  return json.get<double>();
}

std::string string_setting(const RunData& run, std::string_view key, const std::string& fallback) {
  const auto text = find_setting(run, key);
  if (!text) return fallback;
  const Json json = Json::parse(*text, nullptr, false);
  return json.is_string() ? json.get<std::string>() : fallback;
}

/// Names without the leading folders that all share; equal ones get their run directory's name, then a number.
std::vector<std::string> arm_labels(const std::vector<RunData>& runs) {
  std::size_t shared = std::string::npos;
  if (runs.size() > 1) {
    std::string common = runs.front().name;
    for (const RunData& run : runs) {
      std::size_t length = 0;
      while (length < common.size() && length < run.name.size() && common[length] == run.name[length]) ++length;
      common.resize(length);
    }
    shared = common.rfind('/');
  }
  std::vector<std::string> labels;
  std::map<std::string, int> uses;
  for (const RunData& run : runs) {
    std::string label = shared == std::string::npos ? run.name : run.name.substr(shared + 1);
    if (label.empty()) label = run.name;
    ++uses[label];
    labels.push_back(label);
  }
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (uses[labels[i]] > 1)
      labels[i] += " (" + std::filesystem::path(runs[i].directory).lexically_normal().string() + ")";
  std::map<std::string, int> seen;
  for (std::string& label : labels)
    if (const int count = ++seen[label]; count > 1) label += " #" + std::to_string(count);
  return labels;
}

/// Mean over the last `tail` records; non-finite when one of them is, so that a diverged run says so.
template <class Get>
std::optional<FirstLast> first_and_tail(const std::vector<StepRecord>& steps, std::int64_t tail, Get get) {
  if (steps.empty()) return std::nullopt;
  double sum = 0;
  for (std::size_t i = steps.size() - static_cast<std::size_t>(tail); i < steps.size(); ++i) sum += get(steps[i]);
  return FirstLast{get(steps.front()), sum / static_cast<double>(tail)};
}

template <class Get>
std::optional<FirstLast> first_and_last_present(const std::vector<StepRecord>& steps, Get get) {
  std::optional<FirstLast> result;
  for (const StepRecord& step : steps) {
    const std::optional<double> value = get(step);
    if (!value) continue;
    if (!result) result = FirstLast{*value, *value};
    result->last = *value;
  }
  return result;
}

/// The passes over the set that the arm's phases were read from; of a run without it, over its twin.
void choose_probe_set(const RunData& run, ArmSummary& arm) {
  const std::string preferred = phase_set_of(arm.bos);
  const std::string second = preferred == "natural" ? "natural_bos" : "natural";
  for (const std::string& name : {preferred, second}) {
    for (const ProbeRecord& probe : run.probes)
      if (probe.set == name) arm.probes.push_back(&probe);
    if (!arm.probes.empty()) {
      arm.probe_set = name;
      break;
    }
  }
  std::stable_sort(arm.probes.begin(), arm.probes.end(),
                   [](const ProbeRecord* a, const ProbeRecord* b) { return a->step < b->step; });
}

/// The event of a run that stopped since something was not finite: an alert, or a warning that names the tensor where
/// that alert is off. It is the last one, but for a warning that the alert's command failed; a resumed run has others
/// behind it.
const EventRecord* stopping_event(const RunData& run) {
  for (auto event = run.events.rbegin(); event != run.events.rend(); ++event) {
    const Json data = Json::parse(event->data, nullptr, false);
    if (!data.is_object()) return nullptr;
    if (event->kind == "alert") return data.value("name", Json()) == "non_finite" ? &*event : nullptr;
    if (event->kind != "warning") return nullptr;
    if (data.contains("tensor")) return &*event;
  }
  return nullptr;
}

void find_onset(ArmSummary& arm) {
  std::vector<double> series;
  std::vector<Point> passes;
  for (const ProbeRecord* probe : arm.probes) {
    if (probe->sink_excess.empty()) continue;
    const double excess = probe->sink_excess.front();
    series.push_back(excess);
    passes.push_back({probe->step, probe->tokens});
    if (excess > arm.highest_excess) arm.highest_excess = excess;
    if (excess >= arm.onset_threshold && !arm.first_crossing) arm.first_crossing = passes.back();
  }
  if (const auto first = onset_index(series, arm.onset_threshold, arm.onset_window)) arm.onset = passes[*first];
}

/// From the passes themselves, for a run whose events are lost. A phase begins with the pass that entered it.
std::vector<PhaseSpan> recorded_phases(const std::vector<const ProbeRecord*>& probes) {
  std::vector<PhaseSpan> spans;
  for (const ProbeRecord* probe : probes) {
    if (!probe->phase) continue;
    if (!spans.empty()) spans.back().to = probe->step;
    if (spans.empty()) spans.push_back({*probe->phase, 0, probe->step});
    else if (spans.back().phase != *probe->phase) spans.push_back({*probe->phase, probe->step, probe->step});
  }
  return spans;
}

void read_phases(const RunData& run, ArmSummary& arm) {
  for (const EventRecord& event : run.events) {
    if (event.kind != "phase") continue;
    const Json data = Json::parse(event.data, nullptr, false);
    if (!data.is_object()) continue;
    const auto text = [&](const char* key) {
      const auto found = data.find(key);
      return found != data.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    const std::string to = text("to");
    if (to.empty()) continue;
    if (arm.phases.empty()) {
      const std::string from = text("from");
      if (event.step > 0) arm.phases.push_back({from.empty() ? "wandering" : from, 0, event.step});
    } else {
      arm.phases.back().to = event.step;
    }
    arm.phases.push_back({to, event.step, event.step});
  }
  if (arm.phases.empty()) arm.phases = recorded_phases(arm.probes);
  if (arm.phases.empty() && !arm.probes.empty()) arm.phases.push_back({"wandering", 0, 0});
  if (!arm.phases.empty()) arm.phases.back().to = std::max(arm.phases.back().from, arm.steps);
  arm.phase = arm.phases.empty() ? "not measured" : arm.phases.back().phase;
}

void find_low_rate(const RunData& run, ArmSummary& arm) {
  double peak = 0;
  std::size_t peak_index = 0;
  for (std::size_t i = 0; i < run.steps.size(); ++i) {
    if (run.steps[i].learning_rate <= peak) continue;
    peak = run.steps[i].learning_rate;
    peak_index = i;
  }
  bool open = false;
  for (std::size_t i = peak_index; i < run.steps.size(); ++i) {
    const bool low = learning_rate_is_low(run.steps[i].learning_rate / peak);
    if (low && !open) arm.low_rate.push_back({"low", run.steps[i].step, run.steps[i].step});
    if (low) arm.low_rate.back().to = run.steps[i].step;
    open = low;
  }
}

void summarize_scores(const RunData& run, ArmSummary& arm) {
  if (!arm.probes.empty()) {
    const ProbeRecord& first = *arm.probes.front();
    const ProbeRecord& last = *arm.probes.back();
    arm.score_source = "probe set " + arm.probe_set;
    if (!first.sink_rate_from.empty() && !last.sink_rate_from.empty())
      arm.sink_rate_late = FirstLast{first.sink_rate_from.front(), last.sink_rate_from.front()};
    for (std::size_t p = 0; p < kShownPositions; ++p) {
      const auto position = static_cast<std::int64_t>(p);
      if (position < first.positions && position < last.positions)
        arm.sink_score[p] = FirstLast{mean_sink_score(first, position), mean_sink_score(last, position)};
      if (p < first.sink_rate.size() && p < last.sink_rate.size())
        arm.sink_rate[p] = FirstLast{first.sink_rate[p], last.sink_rate[p]};
      if (p < first.sink_excess.size() && p < last.sink_excess.size())
        arm.sink_excess[p] = FirstLast{first.sink_excess[p], last.sink_excess[p]};
    }
  } else if (!run.steps.empty() && !run.steps.front().sink_score.empty()) {
    arm.score_source = "training batches";
    const StepRecord& first = run.steps.front();
    const StepRecord& last = run.steps.back();
    for (std::size_t p = 0; p < kShownPositions; ++p) {
      if (p < first.sink_score.size() && p < last.sink_score.size())
        arm.sink_score[p] = FirstLast{first.sink_score[p], last.sink_score[p]};
      if (p < first.sink_rate.size() && p < last.sink_rate.size())
        arm.sink_rate[p] = FirstLast{first.sink_rate[p], last.sink_rate[p]};
    }
  }
}

/// The norms of the blocks, out of a step or of a probe pass; nothing when none were measured.
template <class Record>
std::optional<LayerNorms> layer_norms(const Record& record) {
  LayerNorms norms;
  const std::size_t rows = std::min(record.residual_norm_rest.size(), record.norm_ratio.size());
  const std::size_t positions = rows == 0 ? 0 : record.residual_norm.size() / rows;
  if (positions == 0) return std::nullopt;
  for (std::size_t row = 1; row < rows; ++row) {
    norms.first.push_back(record.residual_norm[row * positions]);
    norms.rest.push_back(record.residual_norm_rest[row]);
    norms.ratio.push_back(record.norm_ratio[row]);
  }
  if (norms.first.empty()) return std::nullopt;
  return norms;
}

void summarize_norms(const RunData& run, ArmSummary& arm) {
  if (!arm.probes.empty()) {
    const ProbeRecord& last = *arm.probes.back();
    arm.norm_ratio_first = norm_ratio_peak(arm.probes.front()->norm_ratio);
    arm.norm_ratio = norm_ratio_peak(last.norm_ratio);
    arm.step_up_layer = last.step_up_layer;
    arm.concentration = last.concentration;
    arm.excess_slope = last.excess_slope;
    arm.validation_loss_slope = last.validation_loss_slope;
    arm.layer_norms = layer_norms(last);
    const std::vector<double> ratios = value_ratios(last);
    if (!ratios.empty()) {
      const auto smallest = std::min_element(ratios.begin(), ratios.end());
      arm.value_ratio = *smallest;
      arm.value_ratio_layer = smallest - ratios.begin();
    }
  } else if (!run.steps.empty()) {
    const StepRecord& first = run.steps.front();
    const StepRecord& last = run.steps.back();
    if (first.norm_ratio.size() > 1) arm.norm_ratio_first = norm_ratio_peak(first.norm_ratio);
    if (last.norm_ratio.size() > 1) arm.norm_ratio = norm_ratio_peak(last.norm_ratio);
    arm.layer_norms = layer_norms(last);
  }
}

void summarize_training(const RunData& run, ArmSummary& arm) {
  const auto& steps = run.steps;
  if (steps.empty()) return;
  arm.steps = steps.back().step;
  arm.tokens = steps.back().tokens;
  arm.tokens_per_step = arm.steps > 0 ? static_cast<double>(arm.tokens) / static_cast<double>(arm.steps) : 0;
  arm.tail = std::clamp<std::int64_t>(static_cast<std::int64_t>(steps.size()) / 20, 1, 50);
  arm.train_loss = first_and_tail(steps, arm.tail, [](const StepRecord& s) { return s.loss; });
  arm.train_loss_common = first_and_tail(steps, arm.tail, [](const StepRecord& s) { return s.loss_common; });
  arm.validation_loss = first_and_last_present(steps, [](const StepRecord& s) { return s.validation_loss; });
  arm.validation_loss_common =
      first_and_last_present(steps, [](const StepRecord& s) { return s.validation_loss_common; });
  std::vector<double> speeds;
  std::int64_t before = 0;
  for (const StepRecord& step : steps) {
    if (!std::isfinite(step.loss)) {
      if (arm.bad_losses++ == 0) arm.first_bad_loss = step.step;
    }
    if (std::isfinite(step.tokens_per_second)) speeds.push_back(step.tokens_per_second);
    // A logged step stands for those since the one before (log.every).
    if (std::isfinite(step.step_seconds))
      arm.training_seconds += step.step_seconds * static_cast<double>(step.step - before);
    before = step.step;
  }
  if (!speeds.empty()) {
    const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
    std::nth_element(speeds.begin(), middle, speeds.end());
    arm.tokens_per_second = *middle;
  }
}

std::string first_to_last(const std::optional<FirstLast>& value) {
  if (!value) return "-";
  return format_number(value->first) + " → " + format_number(value->last);
}

std::string peak_text(const std::optional<NormRatioPeak>& peak) {
  if (!peak) return "-";
  return format_number(peak->ratio) + " (layer " + std::to_string(peak->layer) + ")";
}

std::string onset_text(const ArmSummary& arm) {
  if (arm.probes.empty()) return "not measured";
  if (!arm.onset) return "none";
  return "step " + std::to_string(arm.onset->step) + " (" + format_count(arm.onset->tokens) + " tokens)";
}

}  // namespace

NormRatioPeak norm_ratio_peak(const std::vector<double>& norm_ratio) {
  NormRatioPeak peak{-std::numeric_limits<double>::infinity(), 0};
  for (std::size_t row = 1; row < norm_ratio.size(); ++row)
    if (norm_ratio[row] > peak.ratio) peak = {norm_ratio[row], static_cast<std::int64_t>(row) - 1};
  if (!std::isfinite(peak.ratio)) peak.ratio = std::numeric_limits<double>::quiet_NaN();
  return peak;
}

std::string phase_set_of(const std::string& bos) {
  for (const auto& [policy, name] : enum_names<BosPolicy>())
    if (name == bos) return phase_probe_set(policy);
  return phase_probe_set(BosPolicy::none);
}

std::vector<double> value_ratios(const ProbeRecord& probe) {
  std::vector<double> ratios;
  const auto groups = static_cast<std::size_t>(std::max<std::int64_t>(probe.kv_heads, 1));
  const std::size_t layers = std::min(probe.value_norm_first.size(), probe.value_norm_rest.size()) / groups;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    double sum = 0;
    for (std::size_t g = 0; g < groups; ++g)
      sum += probe.value_norm_first[layer * groups + g] / probe.value_norm_rest[layer * groups + g];
    ratios.push_back(sum / static_cast<double>(groups));
  }
  return ratios;
}

double mean_sink_score(const ProbeRecord& probe, std::int64_t position) {
  const auto positions = static_cast<std::size_t>(probe.positions);
  const std::size_t heads = positions == 0 ? 0 : probe.sink_score.size() / positions;
  if (heads == 0) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (std::size_t head = 0; head < heads; ++head)
    sum += probe.sink_score[head * positions + static_cast<std::size_t>(position)];
  return sum / static_cast<double>(heads);
}

std::vector<ArmSummary> summarize(const std::vector<RunData>& runs) {
  const std::vector<std::string> labels = arm_labels(runs);
  const std::vector<std::size_t> colours = arms_of(runs);
  std::vector<ArmSummary> arms;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunData& run = runs[i];
    ArmSummary arm;
    arm.label = labels[i];
    arm.colour = colours[i];
    arm.bos = string_setting(run, "data.bos", "unknown");
    arm.planned_steps = static_cast<std::int64_t>(number_setting(run, "train.steps").value_or(0));
    arm.sequence_length = static_cast<std::int64_t>(number_setting(run, "train.sequence_length").value_or(0));
    arm.onset_threshold = number_setting(run, "probes.phase.onset").value_or(arm.onset_threshold);
    arm.onset_window = static_cast<std::int64_t>(number_setting(run, "probes.phase.window").value_or(10));
    arm.sink_threshold = number_setting(run, "probes.sink_threshold").value_or(arm.sink_threshold);
    arm.late_layers_from = static_cast<std::int64_t>(number_setting(run, "probes.from_layer").value_or(0));
    summarize_training(run, arm);
    choose_probe_set(run, arm);
    if (arm.steps == 0 && !arm.probes.empty()) arm.steps = arm.probes.back()->step;
    if (const EventRecord* event = stopping_event(run)) {
      arm.stopped_by = event->message;
      arm.stopped_step = event->step;
    }
    find_onset(arm);
    read_phases(run, arm);
    find_low_rate(run, arm);
    arm.causal = causal_series(run);
    summarize_scores(run, arm);
    summarize_norms(run, arm);
    arms.push_back(std::move(arm));
  }
  return arms;
}

std::vector<TableRow> summary_rows(const std::vector<ArmSummary>& arms) {
  std::vector<TableRow> rows;
  const auto add = [&](const std::string& label, auto&& text) {
    TableRow row{label, {}};
    for (const ArmSummary& arm : arms) row.values.push_back(text(arm));
    rows.push_back(std::move(row));
  };
  add("BOS policy", [](const ArmSummary& a) { return a.bos; });
  add("steps (tokens seen)", [](const ArmSummary& a) {
    return std::to_string(a.steps) + " (" + format_count(a.tokens) + ")";
  });
  add("training loss", [](const ArmSummary& a) { return first_to_last(a.train_loss); });
  add("training loss, common targets", [](const ArmSummary& a) { return first_to_last(a.train_loss_common); });
  add("validation loss, common targets", [](const ArmSummary& a) { return first_to_last(a.validation_loss_common); });
  add("phase at the end", [](const ArmSummary& a) { return a.phase; });
  add("sink onset", [](const ArmSummary& a) { return onset_text(a); });
  add("sink excess P0, relative change over the window",
      [](const ArmSummary& a) { return a.excess_slope ? format_change(*a.excess_slope) : std::string("-"); });
  add("validation loss, relative change over the window", [](const ArmSummary& a) {
    return a.validation_loss_slope ? format_change(*a.validation_loss_slope) : std::string("-");
  });
  for (std::size_t p = 0; p < kShownPositions; ++p)
    add("sink excess P" + std::to_string(p), [p](const ArmSummary& a) { return first_to_last(a.sink_excess[p]); });
  for (std::size_t p = 0; p < kShownPositions; ++p)
    add("mean sink score P" + std::to_string(p), [p](const ArmSummary& a) { return first_to_last(a.sink_score[p]); });
  // Settings in a row's label where they are those of all runs, else in its cells.
  const auto all_have = [&](auto member) {
    return std::all_of(arms.begin(), arms.end(),
                       [&](const ArmSummary& a) { return a.*member == arms.front().*member; });
  };
  const auto with = [](const std::string& rate, bool one, const std::string& setting) {
    return one || rate == "-" ? rate : rate + " (" + setting + ")";
  };
  const auto above = [](const ArmSummary& a) { return "above " + format_number(a.sink_threshold); };
  const auto from = [](const ArmSummary& a) { return "layers >= " + std::to_string(a.late_layers_from); };
  const bool one_threshold = all_have(&ArmSummary::sink_threshold), one_layer = all_have(&ArmSummary::late_layers_from);
  const std::string share =
      one_threshold && !arms.empty() ? " (share " + above(arms.front()) + ")" : " (share above a threshold)";
  const std::string late = one_layer && !arms.empty() ? from(arms.front()) : "late layers";
  for (std::size_t p = 0; p < kShownPositions; ++p)
    add("sink rate P" + std::to_string(p) + share, [&, p](const ArmSummary& a) {
      return with(first_to_last(a.sink_rate[p]), one_threshold, above(a));
    });
  add("sink rate P0, " + late + share, [&](const ArmSummary& a) {
    return with(with(first_to_last(a.sink_rate_late), one_threshold, above(a)), one_layer, from(a));
  });
  add("largest P0 norm ratio, first", [](const ArmSummary& a) { return peak_text(a.norm_ratio_first); });
  add("largest P0 norm ratio, last", [](const ArmSummary& a) { return peak_text(a.norm_ratio); });
  add("step-up layer l*", [](const ArmSummary& a) {
    return a.step_up_layer ? std::to_string(*a.step_up_layer) : std::string("-");
  });
  add("first-two-layer share C2", [](const ArmSummary& a) { return format_number(a.concentration); });
  add("P0 value norm / rest, smallest", [](const ArmSummary& a) {
    if (!a.value_ratio) return std::string("-");
    return format_number(a.value_ratio) + " (layer " + std::to_string(*a.value_ratio_layer) + ")";
  });
  for (TableRow& row : causal_rows(arms)) rows.push_back(std::move(row));
  add("scores read on", [](const ArmSummary& a) {
    return a.score_source.empty() ? std::string("nothing: probes off") : a.score_source;
  });
  add("tokens per second, median", [](const ArmSummary& a) { return format_number(a.tokens_per_second); });
  add("time in training steps", [](const ArmSummary& a) { return format_seconds(a.training_seconds); });
  return rows;
}

}  // namespace sinkscope
