#include "tools/report/phase_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "engine/config/enums.h"
#include "engine/metrics/console.h"
#include "engine/metrics/json_lines.h"
#include "engine/probes/probe_sets.h"
#include "tools/report/chart.h"
#include "tools/report/format.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kChartRows = 8;
constexpr std::size_t kShownDifferences = 10;

std::string count(std::int64_t number, const std::string& noun) {
  const bool plural = number != 1;
  const bool sibilant = noun.back() == 's';
  return std::to_string(number) + " " + noun + (plural ? sibilant ? "es" : "s" : "");
}

const ReplayPass& last_pass(const PhaseReport& report) { return report.replay.passes.back(); }

bool has_left_wandering(const PhaseReport& report) {
  return std::any_of(report.replay.passes.begin(), report.replay.passes.end(),
                     [](const ReplayPass& pass) { return pass.reading.phase != Phase::wandering; });
}

/// The pass with the largest excess of position 0; nothing when none is a number.
const ReplayPass* highest_pass(const PhaseReport& report) {
  const ReplayPass* highest = nullptr;
  for (const ReplayPass& pass : report.replay.passes) {
    const double excess = pass.input.sink_excess.front();
    if (!std::isnan(excess) && (highest == nullptr || excess > highest->input.sink_excess.front())) highest = &pass;
  }
  return highest;
}

std::string threshold_text(const PhaseConfig& config) {
  return "onset " + format_number(config.onset) + ", plateau " + format_percent(config.plateau) + ", window " +
         std::to_string(config.window) + ", confirm " + std::to_string(config.confirm);
}

std::string progress_text(const PhaseReport& report) {
  std::string text = "step " + std::to_string(report.steps);
  if (report.steps != report.planned_steps) text += " of " + std::to_string(report.planned_steps);
  return text + (report.ended ? ", finished" : ", unfinished");
}

std::string set_text(const PhaseReport& report) {
  const std::int64_t first = report.replay.passes.front().input.step;
  return report.set + " (data.bos " + report.bos + "): " + count(report.sequences, "sequence") + " of " +
         count(report.length, "token") + ", " + count(std::ssize(report.replay.passes), "pass") + ", steps " +
         std::to_string(first) + " to " + std::to_string(last_pass(report).input.step);
}

std::string change_table(const PhaseReport& report) {
  std::vector<std::vector<std::string>> rows = {
      {"step", "tokens", "phase", "loss", "excess", "change", "P0 leads", "l*", "C2", "sink rate", "rate < peak/10"}};
  for (const ReplayPass& pass : report.replay.passes) {
    if (!pass.reading.change) continue;
    const PhaseChange& change = *pass.reading.change;
    rows.push_back({std::to_string(change.step), format_count(change.tokens),
                    std::string(name_of(change.from)) + " → " + std::string(name_of(change.to)),
                    pass.loss_logged ? format_number(change.loss) : "not logged", format_number(change.excess),
                    change.relative_change ? format_change(*change.relative_change) : "-",
                    format_percent(change.dominant_share),
                    change.step_up_layer ? std::to_string(*change.step_up_layer) : "-",
                    format_number(change.concentration),
                    format_number(change.sink_rate), change.learning_rate_low ? "yes" : "no"});
  }
  return rows.size() == 1 ? std::string() : text_table(rows) + "\n";
}

std::string onset_text(const PhaseReport& report) {
  const std::string held =
      format_number(report.used.onset) + " or more for " + count(report.used.window, "pass") + " in a row";
  if (!report.replay.onset) return "none: the excess has not been " + held;
  const ReplayPass& pass = report.replay.passes[*report.replay.onset];
  return "step " + std::to_string(pass.input.step) + " (" + format_count(pass.input.tokens) +
         " tokens): from there the excess is " + held;
}

/// The share of the steps so far that a band covers; of a run without steps, all of it.
double share_of(const PhaseBand& band, const PhaseReport& report) {
  const std::int64_t steps = last_pass(report).input.step;
  return steps == 0 ? 1.0 : static_cast<double>(band.to - band.from) / static_cast<double>(steps);
}

std::string bands_text(const PhaseReport& report) {
  std::string text;
  for (const PhaseBand& band : phase_bands(report.replay))
    text += (text.empty() ? "" : ", ") + std::string(name_of(band.phase)) + " " + std::to_string(band.from) + "-" +
            std::to_string(band.to) + " (" + format_percent(share_of(band, report)) + ")";
  return text;
}

std::string end_text(const PhaseReport& report) {
  const ReplayPass& pass = last_pass(report);
  const PhaseReading& reading = pass.reading;
  std::string text = std::string(name_of(reading.phase)) + " since step " +
                     std::to_string(phase_bands(report.replay).back().from) + "; excess " +
                     format_number(pass.input.sink_excess.front()) + ", change over the window " +
                     (reading.relative_change ? format_change(*reading.relative_change) : "not known yet") +
                     ", position 0 leads " + format_percent(reading.dominant_share) + " of it, l* " +
                     (pass.input.step_up_layer ? std::to_string(*pass.input.step_up_layer) : "undefined") + ", C2 " +
                     (pass.input.concentration ? format_number(pass.input.concentration) : "undefined") +
                     ", sink rate " + format_number(pass.input.sink_rate);
  if (pass.validation_loss_slope)
    text += ", validation loss " + format_change(*pass.validation_loss_slope) + " over as many evaluations";
  if (learning_rate_is_low(pass.input.learning_rate_fraction))
    text += "; the learning rate is under a tenth of its peak, which flattens every curve";
  return text;
}

std::string wandering_text(const PhaseReport& report) {
  std::string text = "No sink formed" + std::string(report.ended ? "" : " so far") + ": the run stayed wandering.";
  const ReplayPass* highest = highest_pass(report);
  if (highest == nullptr) return text + " No excess in its log is a number.";
  const double excess = highest->input.sink_excess.front();
  text += " The excess of position 0 was at most " + format_number(excess) + " (step " +
          std::to_string(highest->input.step) + "), ";
  if (excess < report.used.onset) return text + "under the onset of " + format_number(report.used.onset) + ".";
  return text + "but " + count(report.used.confirm, "pass") + " in a row at or above the onset of " +
         format_number(report.used.onset) + ", with position 0 in the lead, were not reached.";
}

std::string few_passes_text(const PhaseReport& report) {
  return "Only " + count(std::ssize(report.replay.passes), "pass") + ": onset and the phase stable take a window of " +
         std::to_string(report.used.window) + ".";
}

std::string check_text(const PhaseReport& report) {
  if (!report.check)
    return "not held against the log: the thresholds are not the run's (" + threshold_text(report.own) + ")";
  const ReplayCheck& check = *report.check;
  if (!check.differences.empty()) {
    std::string text = "THE REPLAY DIFFERS FROM THE LOG: ";
    const std::size_t shown = std::min(check.differences.size(), kShownDifferences);
    for (std::size_t i = 0; i < shown; ++i) text += "\n  - " + printable(check.differences[i]);
    if (shown < check.differences.size())
      text += "\n  - and " + std::to_string(check.differences.size() - shown) + " more, which --json lists";
    return text;
  }
  const std::int64_t replayed = std::count_if(report.replay.passes.begin(), report.replay.passes.end(),
                                              [](const ReplayPass& pass) { return pass.reading.change.has_value(); });
  std::string text;
  if (!report.events_logged)
    text =
        "NOT AGAINST events.jsonl, which is missing or empty, so neither its phase changes nor whether the run has "
        "ended are known; against the signals";
  else if (check.changes == 0 && replayed > 0)
    text = "the run has not logged the " + count(replayed, "phase change") + " of the replay yet";
  else if (check.changes == 0)
    text = "the run logged no phase change, and the replay gives none";
  else
    text = "the replay gives the " + count(check.changes, "phase change") + " that the run logged";
  if (check.passes > 0) text += (report.events_logged ? ", and the signals of " : " of ") + count(check.passes, "pass");
  if (check.rounded == 0) return text + ", bit for bit";
  return text + "; " + count(check.rounded, "number") + " to the precision of float, to which the log holds the excess";
}

Json optional_json(const std::optional<double>& value) { return value ? number_to_json(*value) : Json(nullptr); }

Json thresholds_json(const PhaseConfig& config) {
  return {{"onset", config.onset}, {"plateau", config.plateau}, {"window", config.window}, {"confirm", config.confirm}};
}

Json pass_json(const ReplayPass& pass) {
  Json excess = Json::array();
  for (const double value : pass.input.sink_excess) excess.push_back(number_to_json(value));
  return {{"step", pass.input.step},
          {"tokens", pass.input.tokens},
          {"phase", name_of(pass.reading.phase)},
          {"loss", pass.loss_logged ? number_to_json(pass.input.loss) : Json(nullptr)},
          {"sink_excess", std::move(excess)},
          {"sink_rate", number_to_json(pass.input.sink_rate)},
          {"step_up_layer", pass.input.step_up_layer ? Json(*pass.input.step_up_layer) : Json(nullptr)},
          {"concentration", optional_json(pass.input.concentration)},
          {"learning_rate_fraction", number_to_json(pass.input.learning_rate_fraction)},
          {"excess_slope", optional_json(pass.reading.relative_change)},
          {"dominant_share", pass.reading.dominant_share},
          {"validation_loss_slope", optional_json(pass.validation_loss_slope)}};
}

Json changes_json(const PhaseReport& report) {
  Json changes = Json::array();
  for (const ReplayPass& pass : report.replay.passes) {
    if (!pass.reading.change) continue;
    const EventRecord event = phase_event(*pass.reading.change);
    Json change = {{"step", event.step}, {"tokens", event.tokens}};
    change.update(parse_json(event.data));
    if (!pass.loss_logged) change["loss"] = nullptr;
    changes.push_back(std::move(change));
  }
  return changes;
}

}  // namespace

bool same_thresholds(const PhaseConfig& a, const PhaseConfig& b) {
  return a.onset == b.onset && a.plateau == b.plateau && a.window == b.window && a.confirm == b.confirm;
}

PhaseReport report_phases(const RunData& run, const Config& config, const PhaseConfig& thresholds) {
  const std::string log = (run.directory / "probes.jsonl").string();
  PhaseReport report;
  report.directory = run.directory.string();
  report.name = run.name;
  report.bos = to_string(config.data.bos);
  report.set = phase_probe_set(config.data.bos);
  if (run.probes.empty()) {
    std::string why;
    if (!config.probes.enabled) why = "; probes.enabled is false";
    if (config.probes.every == 0) why = "; probes.every is 0";
    throw std::runtime_error(log + ": holds no probe pass, so that nothing is known about the run's phases" + why);
  }
  for (const ProbeRecord& probe : run.probes) {
    if (probe.set != report.set) continue;
    if (probe.sink_excess.empty())
      throw std::runtime_error(log + ": step " + std::to_string(probe.step) + ", set " + report.set +
                               ": sink_excess is missing");
    if (probe.step < 0 || probe.step > config.train.steps)
      throw std::runtime_error(log + ": step " + std::to_string(probe.step) + " is not one of the run's " +
                               std::to_string(config.train.steps) + " (train.steps)");
    report.length = probe.length;
    report.sequences = probe.sequences;
  }
  if (report.length == 0)
    throw std::runtime_error(log + ": holds no pass over " + report.set +
                             ", the set that phases are read from where data.bos is " + report.bos);
  report.planned_steps = config.train.steps;
  report.steps = std::max(run.steps.empty() ? 0 : run.steps.back().step, run.probes.back().step);
  report.ended =
      std::any_of(run.events.begin(), run.events.end(), [](const EventRecord& e) { return e.kind == "end"; });
  report.events_logged = !run.events.empty();
  report.own = config.probes.phase;
  report.used = thresholds;
  report.replay =
      replay_phases(run.probes, report.set, run.steps, config.train.schedule, config.train.steps, thresholds);
  if (same_thresholds(report.own, report.used))
    report.check = check_replay(report.replay, run.probes, report.set, run.events);
  return report;
}

std::string phase_text(const PhaseReport& report, std::size_t width) {
  std::string text = printable(report.directory) + ": " + progress_text(report) + "\n\n";
  text += "phases from  " + set_text(report) + "\n";
  text += "thresholds   " + threshold_text(report.used) + (report.check ? " (the run's own)" : "") + "\n";
  text += "checked      " + check_text(report) + "\n\n";
  text += change_table(report);
  if (!has_left_wandering(report)) text += wandering_text(report) + "\n";
  if (std::ssize(report.replay.passes) < report.used.window) text += few_passes_text(report) + "\n";
  text += "onset        " + onset_text(report) + "\n";
  text += "phases       " + bands_text(report) + "\n";
  text += "at the end   " + end_text(report) + "\n\n";
  text += "sink excess of position 0 over steps; dashed: the onset\n";
  std::vector<std::int64_t> steps;
  std::vector<double> excess;
  for (const ReplayPass& pass : report.replay.passes) {
    steps.push_back(pass.input.step);
    excess.push_back(pass.input.sink_excess.front());
  }
  return text + block_chart(steps, excess, report.used.onset, kChartRows, width);
}

Json phase_json(const PhaseReport& report) {
  Json json = {{"run", report.directory},
               {"name", report.name},
               {"bos", report.bos},
               {"set", report.set},
               {"steps", report.steps},
               {"planned_steps", report.planned_steps},
               {"finished", report.ended},
               {"thresholds", thresholds_json(report.used)},
               {"run_thresholds", thresholds_json(report.own)}};
  json["onset"] = nullptr;
  if (report.replay.onset) {
    const PhaseInput& input = report.replay.passes[*report.replay.onset].input;
    json["onset"] = {{"step", input.step}, {"tokens", input.tokens}};
  }
  json["changes"] = changes_json(report);
  json["phases"] = Json::array();
  for (const PhaseBand& band : phase_bands(report.replay))
    json["phases"].push_back(
        {{"phase", name_of(band.phase)}, {"from", band.from}, {"to", band.to}, {"share", share_of(band, report)}});
  json["passes"] = Json::array();
  for (const ReplayPass& pass : report.replay.passes) json["passes"].push_back(pass_json(pass));
  json["check"] = nullptr;
  if (report.check)
    json["check"] = {{"events_logged", report.events_logged},
                     {"changes", report.check->changes},
                     {"passes", report.check->passes},
                     {"rounded", report.check->rounded},
                     {"differences", report.check->differences}};
  return json;
}

}  // namespace sinkscope
