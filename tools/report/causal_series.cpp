#include "tools/report/causal_series.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "engine/metrics/json_lines.h"
#include "tools/report/format.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

constexpr const char* kMlp = "knock_out_mlp";
constexpr const char* kAttention = "knock_out_attention";
constexpr std::size_t kNamedNeeds = 3;

enum Group : std::size_t { kTransplant, kFirstLayers, kSourceLayers, kAllLayers };

bool is_knock_out(const CausalTest& test) { return test.kind == kMlp || test.kind == kAttention; }

const CausalTest* find_test(const CausalRecord& record, const std::string& kind, std::int64_t layer) {
  for (const CausalTest& test : record.tests)
    if (test.kind == kind && test.layer == layer) return &test;
  return nullptr;
}

const CausalTest* source_test(const CausalRecord& record, const std::string& kind) {
  return find_test(record, kind, record.source_layer);
}

/// The knock-out of `kind` (of either, where it is empty) that removes most.
const CausalTest* most_removing(const CausalRecord& record, const std::string& kind) {
  const CausalTest* most = nullptr;
  for (const CausalTest& test : record.tests)
    if ((kind.empty() ? is_knock_out(test) : test.kind == kind) &&
        (most == nullptr || test.removed.value > most->removed.value))
      most = &test;
  return most;
}

std::int64_t layers_of(const CausalRecord& record) {
  return std::count_if(record.tests.begin(), record.tests.end(),
                       [](const CausalTest& test) { return test.kind == kMlp; });
}

std::string name_of(const CausalTest& test) {
  return std::string(test.kind == kMlp ? "the MLP" : "the attention") + " of layer " + std::to_string(*test.layer);
}

std::string at_step(const CausalPoint& point) {
  return "step " + std::to_string(point.step) + " (" + format_count(point.tokens) + " tokens)";
}

bool is_needed(const CausalTest* test) { return test != nullptr && test->removed.low > kNeededShare; }

bool needs(const CausalPoint& point, const CausalTest& knock_out) {
  return point.record.sink_formed && is_needed(find_test(point.record, knock_out.kind, *knock_out.layer));
}

const CausalPoint* first_with_sink(const std::vector<CausalPoint>& points) {
  const auto found =
      std::find_if(points.begin(), points.end(), [](const CausalPoint& point) { return point.record.sink_formed; });
  return found == points.end() ? nullptr : &*found;
}

/// From when on, without a break, the tests up to the last one say that the sink needs it.
std::string since(const std::vector<CausalPoint>& points, const CausalTest& knock_out) {
  std::size_t begin = points.size() - 1;
  while (begin > 0 && needs(points[begin - 1], knock_out)) --begin;
  const bool is_last = begin + 1 == points.size();
  if (&points[begin] == first_with_sink(points))
    return is_last ? "; it is the first test with a sink"
                   : "; so in every test since " + at_step(points[begin]) + ", the first with a sink";
  const CausalPoint& before = points[begin - 1];
  return (is_last ? "" : "; so in every test since " + at_step(points[begin])) + std::string("; at step ") +
         std::to_string(before.step) + (before.record.sink_formed ? " that was not clear" : " there was no sink");
}

std::string need_sentences(const std::vector<CausalPoint>& points) {
  const CausalPoint& last = points.back();
  std::vector<const CausalTest*> needed;
  for (const CausalTest& test : last.record.tests)
    if (is_knock_out(test) && is_needed(&test)) needed.push_back(&test);
  std::stable_sort(needed.begin(), needed.end(),
                   [](const auto* a, const auto* b) { return a->removed.value > b->removed.value; });
  const std::string when = " At its last causal test, step " + std::to_string(last.step) + ", ";
  if (needed.empty()) {
    const CausalTest* most = most_removing(last.record, "");
    if (most == nullptr || most->removed.low <= 0)
      return when + "no knock-out of one layer at position 0 clearly takes any of the sink away.";
    return when + "no single layer clearly carries half of the sink: " + name_of(*most) +
           " matters most, without it at position 0 " + share_text(most->removed) +
           " of the excess over uniform is gone.";
  }
  std::string text;
  for (std::size_t i = 0; i < std::min(needed.size(), kNamedNeeds); ++i)
    text += (i == 0 ? when + "the sink needs " : std::string(" It also needs ")) + name_of(*needed[i]) +
            ": without it at position 0 " + share_text(needed[i]->removed) + " of the excess over uniform is gone" +
            since(points, *needed[i]) + ".";
  if (needed.size() > kNamedNeeds)
    text += " So it does " + std::to_string(needed.size() - kNamedNeeds) + " more outputs of layers.";
  return text;
}

std::string move_sentence(const CausalRecord& record) {
  const CausalTest* state = source_test(record, "transplant");
  const CausalTest* random = source_test(record, "transplant_random_direction");
  if (state == nullptr || random == nullptr) return "";
  const std::string start = " Position 0's state after layer " + std::to_string(record.source_layer) +
                            ", written to position " + std::to_string(record.position) + ", makes ";
  if (state->moved.low > 0 && state->moved.low > random->moved.high)
    return start + share_text(state->moved) + " of that sink there, a random direction of its norm " +
           share_text(random->moved) + ".";
  return start + "no sink there that is clearly more than that of a random direction of its norm (" +
         share_text(state->moved) + " and " + share_text(random->moved) + " of that at 0).";
}

/// `text` of the first test with a sink -> of the last test.
template <class Text>
std::string first_to_last(const ArmSummary& arm, Text text) {
  if (arm.causal.empty()) return "-";
  const CausalPoint* first = first_with_sink(arm.causal);
  if (first == nullptr) return "no sink";
  const CausalPoint& last = arm.causal.back();
  if (first == &last) return text(last.record);
  return text(first->record) + " → " + (last.record.sink_formed ? text(last.record) : std::string("no sink"));
}

/// A curve of `estimate_of(record)`; of a pointer that is null, or without a sink, there is no value.
template <class EstimateOf>
Series curve(const std::vector<CausalPoint>& points, EstimateOf estimate_of) {
  Series series;
  for (const CausalPoint& point : points) {
    const Estimate* found = point.record.sink_formed ? estimate_of(point.record) : nullptr;
    const Estimate estimate = found != nullptr ? *found : Estimate{kMissing, kMissing, kMissing};
    series.x.push_back(static_cast<double>(point.step));
    series.y.push_back(estimate.value);
    series.low.push_back(estimate.low);
    series.high.push_back(estimate.high);
  }
  return series;
}

const Estimate* removed_of(const CausalTest* test) { return test != nullptr ? &test->removed : nullptr; }
const Estimate* moved_of(const CausalTest* test) { return test != nullptr ? &test->moved : nullptr; }

std::int64_t isolated_layers(const CausalRecord& record, Group group) {
  if (group == kFirstLayers) return CausalOptions{}.isolated_layers;
  return group == kSourceLayers ? record.source_layer + 1 : layers_of(record);
}

}  // namespace

std::vector<CausalPoint> causal_series(const RunData& run) {
  std::vector<CausalPoint> points;
  for (const EventRecord& event : run.events) {
    if (event.kind != "causal") continue;
    try {
      points.push_back({event.step, event.tokens, causal_record_from_json(parse_json(event.data))});
    } catch (const std::runtime_error& error) {
      throw std::runtime_error((run.directory / "events.jsonl").string() + ": the causal tests of step " +
                               std::to_string(event.step) + ": " + error.what());
    }
  }
  return points;
}

std::vector<TableRow> causal_rows(const std::vector<ArmSummary>& arms) {
  std::vector<TableRow> rows;
  if (std::all_of(arms.begin(), arms.end(), [](const ArmSummary& arm) { return arm.causal.empty(); })) return rows;
  const auto add = [&](const std::string& label, auto&& text) {
    TableRow row{label, {}};
    for (const ArmSummary& arm : arms) row.values.push_back(text(arm));
    rows.push_back(std::move(row));
  };
  add("causal tests, of them with a sink", [](const ArmSummary& arm) -> std::string {
    if (arm.causal.empty()) return "-";
    const CausalPoint* first = first_with_sink(arm.causal);
    const auto formed = std::count_if(arm.causal.begin(), arm.causal.end(),
                                      [](const CausalPoint& point) { return point.record.sink_formed; });
    return std::to_string(arm.causal.size()) + ", " + std::to_string(formed) +
           (first != nullptr ? " (from step " + std::to_string(first->step) + ")" : "");
  });
  for (const auto& [kind, label] :
       {std::pair{kMlp, "MLP at P0 that removes most"}, std::pair{kAttention, "attention at P0 that removes most"}})
    add(label, [kind = kind](const ArmSummary& arm) {
      return first_to_last(arm, [&](const CausalRecord& record) {
        const CausalTest* most = most_removing(record, kind);
        return most == nullptr ? std::string("-")
                               : "layer " + std::to_string(*most->layer) + ": " + share_text(most->removed);
      });
    });
  for (const auto& [kind, label] : {std::pair{"transplant", "P0's state written elsewhere moves"},
                                    std::pair{"transplant_random_direction", "a random direction of its norm moves"}})
    add(label, [kind = kind](const ArmSummary& arm) {
      return first_to_last(arm, [&](const CausalRecord& record) {
        const CausalTest* test = source_test(record, kind);
        return test == nullptr ? std::string("-") : share_text(test->moved);
      });
    });
  return rows;
}

std::string causal_sentence(const ArmSummary& arm) {
  if (arm.causal.empty()) return "";
  const CausalPoint& last = arm.causal.back();
  if (last.record.sink_formed) return need_sentences(arm.causal) + move_sentence(last.record);
  return " At its last causal test, step " + std::to_string(last.step) + ", there was no sink to take away" +
         (first_with_sink(arm.causal) != nullptr ? "" : ", nor before") + ".";
}

std::vector<std::string> causal_notes(const std::vector<ArmSummary>& arms) {
  const CausalRecord* first = nullptr;
  std::vector<std::string> passes, labels;  // of which arms each is
  for (const ArmSummary& arm : arms) {
    if (arm.causal.empty()) continue;
    const CausalRecord& record = arm.causal.back().record;
    if (first == nullptr) first = &record;
    const std::string text = std::to_string(record.sequences) + " sequences of " + record.set +
                             " (T = " + std::to_string(record.length) + ")";
    const auto known = std::find(passes.begin(), passes.end(), text);
    if (known == passes.end()) {
      passes.push_back(text);
      labels.push_back(arm.label);
    } else {
      labels[static_cast<std::size_t>(known - passes.begin())] += ", " + arm.label;
    }
  }
  if (first == nullptr) return {};
  std::string over;
  for (std::size_t i = 0; i < passes.size(); ++i)
    over += (i == 0 ? "" : "; ") + passes[i] + (passes.size() > 1 ? " [" + labels[i] + "]" : "");
  return {"Causal tests edit passes over " + over +
          " of the model as it then was. A sink is said to need a layer's output where the whole interval of "
          "what is gone without it lies above half. Intervals (" +
          std::to_string(std::llround(100 * first->confidence)) +
          " %) are over those sequences: how far seeds differ is not in them. Where no sink has formed there is "
          "nothing to remove or move, and no share is given."};
}

std::vector<CausalCurve> removed_curves(const std::vector<CausalPoint>& points) {
  const auto most = [&](const char* kind) {
    return curve(points, [kind](const CausalRecord& record) { return removed_of(most_removing(record, kind)); });
  };
  return {{0, "MLP", "line", most(kMlp)}, {0, "attention", "dashed", most(kAttention)}};
}

std::vector<std::string> moved_groups() {
  return {"transplant", "isolation, first " + std::to_string(CausalOptions{}.isolated_layers) + " layers",
          "isolation, to the source layer", "isolation, all layers"};
}

std::vector<CausalCurve> moved_curves(const std::vector<CausalPoint>& points) {
  const auto moved = [&](const char* kind) {
    return curve(points, [kind](const CausalRecord& record) { return moved_of(source_test(record, kind)); });
  };
  std::vector<CausalCurve> curves = {{kTransplant, "P0's state", "line", moved("transplant")},
                                     {kTransplant, "random direction", "dashed", moved("transplant_random_direction")},
                                     {kTransplant, "P0's direction, small", "points", moved("transplant_small")}};
  for (const Group group : {kFirstLayers, kSourceLayers, kAllLayers}) {
    const auto isolation = [group](const CausalRecord& record) {
      return find_test(record, "isolate", isolated_layers(record, group));
    };
    curves.push_back({group, "isolated", "line",
                      curve(points, [&](const CausalRecord& record) { return moved_of(isolation(record)); })});
    Series itself;
    for (const CausalPoint& point : points) {
      const CausalTest* test = point.record.sink_formed ? isolation(point.record) : nullptr;
      itself.x.push_back(static_cast<double>(point.step));
      itself.y.push_back(test != nullptr ? isolation_by_itself(point.record, *test) : kMissing);
    }
    curves.push_back({group, "its own attention, at most", "dashed", std::move(itself)});
  }
  return curves;
}

std::vector<double> removed_by_layer(const CausalRecord& record, const std::string& kind) {
  std::vector<double> column;
  for (const CausalTest& test : record.tests)
    if (test.kind == kind) column.push_back(record.sink_formed ? test.removed.value : kMissing);
  return column;
}

}  // namespace sinkscope
