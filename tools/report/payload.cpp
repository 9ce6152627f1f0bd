#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/metrics/console.h"
#include "tools/report/causal_series.h"
#include "tools/report/format.h"
#include "tools/report/page.h"
#include "tools/report/series.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaximumPoints = 1500;   // of one curve
constexpr std::size_t kMaximumColumns = 400;   // of one map
constexpr std::size_t kMaximumEvents = 200;
constexpr std::size_t kMessageColumns = 400;   // that are shown of an event's message

/// Six significant digits: what a chart can show, at half the bytes. Whole numbers, such as steps, as they are.
Json json_number(double value) {
  if (!std::isfinite(value)) return nullptr;
  if (std::abs(value) < 1e15 && value == std::floor(value)) return static_cast<std::int64_t>(value);
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return std::strtod(text, nullptr);
}

Json numbers(const std::vector<double>& values) {
  Json result = Json::array();
  for (const double value : values) result.push_back(json_number(value));
  return result;
}

class Chart {
 public:
  Chart(const char* id, const char* title, const char* note, const char* y, std::vector<std::string> groups,
        bool log = false)
      : json_({{"id", id}, {"title", title}, {"note", note}, {"x", "step"}, {"y", y}, {"log", log},
               {"lines", Json::array()}, {"groups", groups}, {"series", Json::array()}}) {}

  void set_x(const char* label) { json_["x"] = label; }
  void add_line(double y) {
    const Json value = json_number(y);
    Json& lines = json_["lines"];
    if (std::find(lines.begin(), lines.end(), value) == lines.end()) lines.push_back(value);
  }
  /// A curve without any finite value is left out.
  void add(std::size_t arm, std::size_t group, const std::string& name, const char* style, const Series& series) {
    if (std::none_of(series.y.begin(), series.y.end(), [](double y) { return std::isfinite(y); })) return;
    const Series shown = downsample(series, kMaximumPoints);
    json_["series"].push_back({{"arm", arm}, {"group", group}, {"name", name}, {"style", style},
                               {"x", numbers(shown.x)}, {"y", numbers(shown.y)}});
    if (shown.low.empty()) return;
    json_["series"].back()["low"] = numbers(shown.low);
    json_["series"].back()["high"] = numbers(shown.high);
  }
  void move_to(Json& charts) {
    if (!json_["series"].empty()) charts.push_back(std::move(json_));
  }

 private:
  Json json_;
};

Series of_steps(const RunData& run, const std::function<double(const StepRecord&)>& get) {
  Series series;
  for (const StepRecord& step : run.steps) {
    series.x.push_back(static_cast<double>(step.step));
    series.y.push_back(get(step));
  }
  return series;
}

/// Only the steps that have the value.
Series of_evaluations(const RunData& run, std::optional<double> StepRecord::*member) {
  Series series;
  for (const StepRecord& step : run.steps) {
    if (!(step.*member)) continue;
    series.x.push_back(static_cast<double>(step.step));
    series.y.push_back(*(step.*member));
  }
  return series;
}

Series of_probes(const std::vector<const ProbeRecord*>& probes, const std::function<double(const ProbeRecord&)>& get) {
  Series series;
  for (const ProbeRecord* probe : probes) {
    series.x.push_back(static_cast<double>(probe->step));
    series.y.push_back(get(*probe));
  }
  return series;
}

void add_loss(const std::vector<RunData>& runs, Json& charts) {
  Chart chart(
      "loss", "Loss",
      "Nats per target. Common targets are those that every arm predicts: the only losses to compare between arms that "
      "differ in BOS. Curves are the training loss: the bold one its mean over about a fiftieth of the logged steps "
      "around each, the faint one that of the step alone (the only curve of a run with fewer than 100). Dots are the "
      "validation loss.",
      "loss", {"common targets", "all targets"});
  for (std::size_t arm = 0; arm < runs.size(); ++arm) {
    const RunData& run = runs[arm];
    const std::size_t window = std::max<std::size_t>(1, run.steps.size() / 50);
    for (std::size_t group = 0; group < 2; ++group) {
      const auto train = of_steps(run, [&](const StepRecord& s) { return group == 0 ? s.loss_common : s.loss; });
      if (window > 1) chart.add(arm, group, "train", "faint", train);
      chart.add(arm, group, window > 1 ? "train, mean" : "train", "line", {train.x, running_mean(train.y, window)});
      chart.add(arm, group, "validation", "points",
                of_evaluations(run, group == 0 ? &StepRecord::validation_loss_common : &StepRecord::validation_loss));
    }
  }
  chart.move_to(charts);
}

void add_sink_charts(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms, Json& charts) {
  std::vector<std::string> positions;
  for (std::size_t p = 0; p < kShownPositions; ++p) positions.push_back(std::string("P").append(std::to_string(p)));
  Chart excess("excess", "Sink excess", "Mean sink score over what uniform attention would give; 1 is no sink. The "
               "dashed line is the onset threshold; a vertical mark shows where an arm's sink formed.", "times uniform",
               positions);
  Chart score("score", "Sink score",
              "Mean attention that later queries pay to the position, over sequences, layers and heads: from the probe "
              "set, or from training batches where an arm has none.",
              "mean sink score", positions);
  Chart rate("rate", "Sink rate", "Share of (sequence, layer, head) whose sink score is above the threshold.", "share",
             positions);
  for (std::size_t arm = 0; arm < runs.size(); ++arm) {
    const ArmSummary& summary = arms[arm];
    for (std::size_t p = 0; p < kShownPositions; ++p) {
      const std::string& name = positions[p];
      if (summary.probes.empty()) {
        score.add(arm, p, name, "line",
                  of_steps(runs[arm], [p](const StepRecord& s) { return value_at(s.sink_score, p); }));
        rate.add(arm, p, name, "line",
                 of_steps(runs[arm], [p](const StepRecord& s) { return value_at(s.sink_rate, p); }));
        continue;
      }
      excess.add(arm, p, name, "line",
                 of_probes(summary.probes, [p](const ProbeRecord& r) { return value_at(r.sink_excess, p); }));
      score.add(arm, p, name, "line", of_probes(summary.probes, [p](const ProbeRecord& r) {
                  const auto position = static_cast<std::int64_t>(p);
                  return position < r.positions ? mean_sink_score(r, position) : kMissing;
                }));
      rate.add(arm, p, name, "line",
               of_probes(summary.probes, [p](const ProbeRecord& r) { return value_at(r.sink_rate, p); }));
    }
    if (!summary.probes.empty()) excess.add_line(summary.onset_threshold);
  }
  excess.move_to(charts);
  score.move_to(charts);
  rate.move_to(charts);
}

void add_probe_sets(const std::vector<RunData>& runs, Json& charts) {
  std::vector<std::string> sets;
  for (const RunData& run : runs)
    for (const ProbeRecord& probe : run.probes)
      if (std::find(sets.begin(), sets.end(), probe.set) == sets.end()) sets.push_back(probe.set);
  if (sets.size() < 2) return;
  Chart chart("sets", "Sink excess of position 0 on every probe set",
              "Natural text with and without BOS, at the training length and short, and the controls: random tokens, "
              "and one token repeated (the negative control).",
              "times uniform", sets);
  for (std::size_t arm = 0; arm < runs.size(); ++arm)
    for (std::size_t set = 0; set < sets.size(); ++set) {
      std::vector<const ProbeRecord*> probes;
      for (const ProbeRecord& probe : runs[arm].probes)
        if (probe.set == sets[set]) probes.push_back(&probe);
      chart.add(arm, set, sets[set], "line",
                of_probes(probes, [](const ProbeRecord& r) { return value_at(r.sink_excess, 0); }));
    }
  chart.move_to(charts);
}

void add_norms(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms, Json& charts) {
  Chart ratio("ratio", "Largest P0 norm ratio", "Residual norm of position 0 over the mean of the others, in the block "
              "where it is largest. It often grows before attention moves.", "ratio", {"over blocks"});
  Chart value("value", "Value drain", "Value norm of position 0 over the others, in the layer where it is smallest.",
              "ratio", {"smallest layer"});
  Chart layers("layers", "Residual norms by layer",
               "After each block, at the end of the run (l2, mean over sequences). Solid: position 0; dashed: the "
               "others.",
               "norm", {"norm", "P0 / others"}, true);
  layers.set_x("layer");
  for (std::size_t arm = 0; arm < runs.size(); ++arm) {
    const ArmSummary& summary = arms[arm];
    if (summary.probes.empty())
      ratio.add(arm, 0, "P0 / others", "line",
                of_steps(runs[arm], [](const StepRecord& s) { return norm_ratio_peak(s.norm_ratio).ratio; }));
    else
      ratio.add(arm, 0, "P0 / others", "line",
                of_probes(summary.probes, [](const ProbeRecord& r) { return norm_ratio_peak(r.norm_ratio).ratio; }));
    value.add(arm, 0, "P0 / others", "line", of_probes(summary.probes, [](const ProbeRecord& r) {
                const std::vector<double> ratios = value_ratios(r);
                return ratios.empty() ? kMissing : *std::min_element(ratios.begin(), ratios.end());
              }));
    if (!summary.layer_norms) continue;
    std::vector<double> index;
    for (std::size_t l = 0; l < summary.layer_norms->first.size(); ++l) index.push_back(static_cast<double>(l));
    layers.add(arm, 0, "P0", "line", {index, summary.layer_norms->first});
    layers.add(arm, 0, "others", "dashed", {index, summary.layer_norms->rest});
    layers.add(arm, 1, "P0 / others", "line", {index, summary.layer_norms->ratio});
  }
  ratio.move_to(charts);
  value.move_to(charts);
  layers.move_to(charts);
}

void add_optimization(const std::vector<RunData>& runs, Json& charts) {
  Chart chart("optimization", "Optimization", "Learning rate; global gradient norm before clipping; tokens a second.",
              "", {"learning rate", "gradient norm", "tokens per second"});
  for (std::size_t arm = 0; arm < runs.size(); ++arm) {
    chart.add(arm, 0, "learning rate", "line",
              of_steps(runs[arm], [](const StepRecord& s) { return s.learning_rate; }));
    chart.add(arm, 1, "gradient norm", "line",
              of_steps(runs[arm], [](const StepRecord& s) { return s.gradient_norm; }));
    chart.add(arm, 2, "tokens per second", "line",
              of_steps(runs[arm], [](const StepRecord& s) { return s.tokens_per_second; }));
  }
  chart.move_to(charts);
}

void add_causal(const std::vector<ArmSummary>& arms, Json& charts) {
  Chart removed(
      "causal_removed", "What the sink needs",
      "Causal tests while training: share of the sink at position 0 that is gone without the output of one layer's MLP "
      "(solid) or attention (dashed) at position 0, of the layer that removes most. Bars: intervals over sequences. No "
      "value where no sink had formed.",
      "share removed", {"most removing layer"});
  Chart moved("causal_moved", "Whether the sink moves",
              "Causal tests while training: what an edit makes of a sink at another position, in units of the sink at "
              "0. Transplant: position 0's state after the source layer (the step-up layer, where there is one before "
              "the last) written there; dashed a random direction of its norm, dotted its direction at the norm of the "
              "others. Isolation: the position sees itself alone in the first layers; dashed what its own attention "
              "accounts for, at most. Bars: intervals over sequences.",
              "share moved", moved_groups());
  for (std::size_t arm = 0; arm < arms.size(); ++arm) {
    for (const CausalCurve& c : removed_curves(arms[arm].causal)) removed.add(arm, c.group, c.name, c.style, c.series);
    for (const CausalCurve& c : moved_curves(arms[arm].causal)) moved.add(arm, c.group, c.name, c.style, c.series);
  }
  for (Chart* chart : {&removed, &moved}) {
    chart->add_line(0);
    chart->add_line(1);
    chart->move_to(charts);
  }
}

/// Calls `add(step, column)` for every column of an arm; a column's rows are layers.
using AddColumn = std::function<void(std::int64_t step, const std::vector<double>& column)>;
using ColumnsOf = std::function<void(std::size_t arm, const AddColumn& add)>;

Json heatmap(const char* id, const char* title, const char* note, const char* unit, bool log, std::size_t arms,
             const ColumnsOf& columns_of) {
  Json maps = Json::array();
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (std::size_t arm = 0; arm < arms; ++arm) {
    std::vector<double> x;
    std::vector<std::vector<double>> rows;
    columns_of(arm, [&](std::int64_t step, const std::vector<double>& column) {
      if (column.empty()) return;
      if (rows.size() < column.size()) rows.resize(column.size(), std::vector<double>(x.size(), kMissing));
      x.push_back(static_cast<double>(step));
      for (std::size_t row = 0; row < rows.size(); ++row) rows[row].push_back(value_at(column, row));
    });
    if (x.empty()) continue;
    const StepMap map = make_step_map(x, rows, kMaximumColumns);
    Json values = Json::array();
    for (const std::vector<double>& row : map.values) {
      for (const double v : row) {
        if (!std::isfinite(v) || (log && v <= 0)) continue;
        low = std::min(low, v);
        high = std::max(high, v);
      }
      values.push_back(numbers(row));
    }
    maps.push_back({{"arm", arm}, {"from", numbers(map.from)}, {"to", numbers(map.to)}, {"values", values}});
  }
  if (!(low <= high)) return nullptr;
  return {{"id", id}, {"title", title}, {"note", note}, {"unit", unit}, {"log", log},
          {"low", json_number(low)}, {"high", json_number(high)}, {"maps", maps}};
}

/// Share of the sink that each layer's knock-out removes. One scale for both maps, which spans 0..1: what removes
/// little looks so.
void add_causal_maps(const std::vector<ArmSummary>& arms, Json& result) {
  Json maps = Json::array();
  const char* note =
      "Causal tests while training: share of the sink at position 0 that is gone without the output of the layer at "
      "position 0; a column is a test and the time before it. Grey: no sink had formed. One colour scale for all arms, "
      "MLP and attention.";
  const auto add = [&](const char* id, const char* title, const char* kind) {
    Json map = heatmap(id, title, note, "share removed", false, arms.size(),
                       [&](std::size_t arm, const AddColumn& add_column) {
                         for (const CausalPoint& point : arms[arm].causal)
                           add_column(point.step, removed_by_layer(point.record, kind));
                       });
    if (!map.is_null()) maps.push_back(std::move(map));
  };
  add("removed_mlp_map", "What each layer's MLP is to the sink", "knock_out_mlp");
  add("removed_attention_map", "What each layer's attention is to the sink", "knock_out_attention");
  double low = 0, high = 1;
  for (const Json& map : maps) {
    low = std::min(low, map["low"].get<double>());
    high = std::max(high, map["high"].get<double>());
  }
  for (Json& map : maps) {
    map["low"] = json_number(low);
    map["high"] = json_number(high);
    result.push_back(std::move(map));
  }
}

/// Rows are layers; a column a probe pass, or a step where the arm has no passes.
using RowsOf = std::function<std::vector<double>(const StepRecord*, const ProbeRecord*)>;

Json probe_heatmap(const char* id, const char* title, const char* note, const char* unit, bool log,
                   const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms, const RowsOf& rows_of) {
  return heatmap(id, title, note, unit, log, runs.size(), [&](std::size_t arm, const AddColumn& add) {
    for (const ProbeRecord* probe : arms[arm].probes) add(probe->step, rows_of(nullptr, probe));
    if (arms[arm].probes.empty())
      for (const StepRecord& step : runs[arm].steps) add(step.step, rows_of(&step, nullptr));
  });
}

Json heatmaps(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms) {
  Json result = Json::array();
  const auto add = [&](Json map) {
    if (!map.is_null()) result.push_back(std::move(map));
  };
  add(probe_heatmap("score_map", "Sink score of position 0 by layer", "Mean over heads. One colour scale for all arms.",
              "sink score", false, runs, arms, [](const StepRecord* step, const ProbeRecord* probe) {
                if (step != nullptr) return step->sink_score_layer;
                std::vector<double> column;
                const auto heads = static_cast<std::size_t>(std::max<std::int64_t>(probe->heads, 1));
                const auto positions = static_cast<std::size_t>(std::max<std::int64_t>(probe->positions, 1));
                for (std::size_t l = 0; (l + 1) * heads * positions <= probe->sink_score.size(); ++l) {
                  double sum = 0;
                  for (std::size_t h = 0; h < heads; ++h) sum += probe->sink_score[(l * heads + h) * positions];
                  column.push_back(sum / static_cast<double>(heads));
                }
                return column;
              }));
  add(probe_heatmap("ratio_map", "P0 norm ratio by layer",
                    "Residual norm of position 0 over the mean of the others after each block; logarithmic colours, "
                    "one scale for all arms.",
                    "P0 / others", true, runs, arms, [](const StepRecord* step, const ProbeRecord* probe) {
                      std::vector<double> column = probe != nullptr ? probe->norm_ratio : step->norm_ratio;
                      if (!column.empty()) column.erase(column.begin());  // the embedding output
                      return column;
                    }));
  add_causal_maps(arms, result);
  return result;
}

Json spans(const std::vector<PhaseSpan>& list) {
  Json result = Json::array();
  for (const PhaseSpan& span : list) result.push_back({{"phase", span.phase}, {"from", span.from}, {"to", span.to}});
  return result;
}

/// The last events of all runs.
Json events(const std::vector<RunData>& runs) {
  std::vector<std::pair<std::size_t, const EventRecord*>> all;
  for (std::size_t arm = 0; arm < runs.size(); ++arm)
    for (const EventRecord& event : runs[arm].events) all.emplace_back(arm, &event);
  std::reverse(all.begin(), all.end());
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.second->step > b.second->step; });
  if (all.size() > kMaximumEvents) all.resize(kMaximumEvents);
  Json result = Json::array();
  for (const auto& [arm, event] : all)
    result.push_back({{"step", event->step}, {"arm", arm}, {"kind", printable(event->kind)},
                      {"message", first_columns(printable(event->message), kMessageColumns)}});
  return result;
}

}  // namespace

std::string page_payload(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms) {
  Json payload = {{"arms", Json::array()}, {"last_step", 0}, {"charts", Json::array()}, {"heatmaps", Json::array()}};
  std::int64_t last_step = 0;
  for (const ArmSummary& arm : arms) {
    last_step = std::max(last_step, arm.steps);
    payload["arms"].push_back({{"label", arm.label},
                               {"bos", arm.bos},
                               {"colour", arm.colour},
                               {"phases", spans(arm.phases)},
                               {"low_rate", spans(arm.low_rate)},
                               {"onset", arm.onset ? Json(arm.onset->step) : Json(nullptr)}});
  }
  payload["last_step"] = last_step;
  Json& charts = payload["charts"];
  add_sink_charts(runs, arms, charts);
  add_loss(runs, charts);
  add_norms(runs, arms, charts);
  add_probe_sets(runs, charts);
  add_causal(arms, charts);
  add_optimization(runs, charts);
  payload["heatmaps"] = heatmaps(runs, arms);
  payload["events"] = events(runs);
  const std::string text = payload.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  }
  return safe;
}

}  // namespace sinkscope
