#include "tools/watch/runs_view.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "engine/metrics/console.h"
#include "engine/probes/sink_scores.h"
#include "tools/report/chart.h"
#include "tools/report/format.h"
#include "tools/report/summary.h"

namespace sinkscope {
namespace {

constexpr std::size_t kFewestColumns = 20;  // of a line
constexpr std::size_t kLabelColumns = 9;    // before a curve
constexpr std::size_t kScaleColumns = 24;   // behind it
constexpr std::size_t kMostCurveColumns = 100;
constexpr std::size_t kMostEvents = 3;

// ECMA-48, SGR.
constexpr const char* kPlain = "\x1b[0m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kRed = "\x1b[31m";
constexpr const char* kDim = "\x1b[2m";

/// How much of a run is shown.
struct Detail {
  bool curves = true;
  std::size_t events = kMostEvents;
};

struct PhaseStyle {
  const char* name;
  char letter;
  const char* colour;
};
constexpr PhaseStyle kPhaseStyles[] = {
    {"wandering", 'w', "\x1b[30;47m"}, {"transition", 't', "\x1b[30;43m"}, {"stable", 's', "\x1b[30;42m"}};

const PhaseStyle* style_of(const std::string& phase) {
  for (const PhaseStyle& style : kPhaseStyles)
    if (phase == style.name) return &style;
  return nullptr;
}

struct Curve {
  std::vector<std::int64_t> steps;
  std::vector<double> values;
};

/// What one run's block is made from.
struct Block {
  const RunData& run;
  const ArmSummary& arm;
  const RunStatus& status;
  const ViewOptions& options;

  std::string coloured(const char* colour, const std::string& text) const {
    return options.colour ? colour + text + kPlain : text;
  }
  std::string line(const std::string& text) const { return first_columns(text, options.width) + "\n"; }

  /// Fields side by side, on as many lines as they need.
  std::string fields(const std::vector<std::string>& parts) const {
    std::string text, row;
    for (const std::string& part : parts) {
      if (!row.empty() && text_width(row) + 3 + text_width(part) > options.width) text += line(std::exchange(row, ""));
      row += (row.empty() ? "" : "   ") + part;
    }
    return row.empty() ? text : text + line(row);
  }

  /// It will not go on by itself.
  bool stopped() const { return status.state == RunState::quiet && !arm.stopped_by.empty(); }

  std::string state_text() const {
    switch (status.state) {
      case RunState::waiting: return "waiting: there is no run in " + printable(run.directory.string()) + " yet";
      case RunState::training: return "training";
      case RunState::finished: return "finished";
      case RunState::quiet: break;
    }
    if (stopped()) return printable(stopped_text(arm));
    std::string text = "no process trains here";
    if (status.seconds_since_step) text += ", last step " + format_duration(*status.seconds_since_step) + " ago";
    return text;
  }

  std::string head() const {
    const std::string name = first_columns(printable(arm.label), options.width);
    const std::size_t left = options.width - text_width(name);
    std::string text = coloured(kBold, name) + first_columns("   " + state_text(), left) + "\n";
    if (!status.problem.empty())
      text += coloured(kRed, first_columns("! " + printable(status.problem), options.width)) + "\n";
    if (status.unread_bytes > 0)
      text += line("reading the logs: " + format_count(status.unread_bytes) + " bytes to go");
    return text;
  }

  std::vector<std::string> progress() const {
    std::vector<std::string> parts;
    std::string text = "step " + std::to_string(arm.steps);
    if (arm.planned_steps > 0) {
      text += " of " + std::to_string(arm.planned_steps);
      const double share = static_cast<double>(arm.steps) / static_cast<double>(arm.planned_steps);
      text += " (" + std::to_string(static_cast<std::int64_t>(std::min(100 * share, 1e9))) + " %)";
    }
    parts.push_back(text);
    if (arm.tokens > 0) parts.push_back(format_count(arm.tokens) + " tokens");
    const std::int64_t steps_left = arm.planned_steps - arm.steps;
    if (steps_left > 0 && status.seconds_per_step && !stopped())
      parts.push_back("left " + format_duration(*status.seconds_per_step * static_cast<double>(steps_left)));
    return parts;
  }

  std::vector<std::string> training() const {
    std::vector<std::string> parts;
    if (run.steps.empty()) return parts;
    const StepRecord& step = run.steps.back();
    parts.push_back("loss " + format_number(step.loss));
    if (arm.validation_loss) parts.push_back("validation " + format_number(arm.validation_loss->last));
    parts.push_back("gradient norm " + format_number(step.gradient_norm));
    if (std::isfinite(step.tokens_per_second))
      parts.push_back(format_count(std::llround(step.tokens_per_second)) + " tokens/s");
    if (step.mfu) parts.push_back("MFU " + format_percent(*step.mfu));
    return parts;
  }

  /// The step's own numbers where it has them, else those of the last probe pass. The excess is that of the passes,
  /// which the phases are read from.
  std::vector<std::string> sink() const {
    std::vector<std::string> parts;
    const StepRecord* step = run.steps.empty() || run.steps.back().sink_score.empty() ? nullptr : &run.steps.back();
    std::optional<double> score, rate;
    if (step != nullptr) {
      score = step->sink_score.front();
      if (!step->sink_rate.empty()) rate = step->sink_rate.front();
    } else {
      if (arm.sink_score[0]) score = arm.sink_score[0]->last;
      if (arm.sink_rate[0]) rate = arm.sink_rate[0]->last;
    }
    if (!score && arm.probes.empty()) return parts;
    const Curve excess = excess_curve();
    parts.push_back("sink " + format_number(score) + ", excess " +
                    (excess.values.empty() ? "-" : format_number(excess.values.back())));
    parts.push_back("Sink_0 " + format_number(rate));
    parts.push_back("l* " + (arm.step_up_layer ? std::to_string(*arm.step_up_layer) : std::string("-")));
    if (arm.concentration) parts.push_back("C2 " + format_number(arm.concentration));
    if (!arm.phases.empty()) {
      std::string phase = "phase " + printable(arm.phase);
      if (arm.phases.back().from > 0) phase += " since step " + std::to_string(arm.phases.back().from);
      parts.push_back(phase);
    }
    return parts;
  }

  Curve loss_curve() const {
    Curve curve;
    for (const StepRecord& step : run.steps) {
      curve.steps.push_back(step.step);
      curve.values.push_back(step.loss);
    }
    return curve;
  }

  /// Of the probe passes; without them of the training batches.
  Curve excess_curve() const {
    Curve curve;
    for (const ProbeRecord* probe : arm.probes) {
      if (probe->sink_excess.empty()) continue;
      curve.steps.push_back(probe->step);
      curve.values.push_back(probe->sink_excess.front());
    }
    if (!curve.steps.empty() || arm.sequence_length < 1) return curve;
    for (const StepRecord& step : run.steps) {
      if (step.sink_score.empty()) continue;
      curve.steps.push_back(step.step);
      curve.values.push_back(sink_excess(std::span(step.sink_score).first(1), arm.sequence_length).front());
    }
    return curve;
  }

  std::size_t curve_columns() const {
    const std::size_t frame = kLabelColumns + kScaleColumns;
    const std::size_t columns = options.width > frame ? options.width - frame : 0;
    return std::clamp(columns, kFewestColumns, kMostCurveColumns);
  }

  std::string curve_line(const std::string& label, const Curve& curve) const {
    if (curve.steps.empty()) return {};
    const std::vector<double> columns = resample_between(curve.steps, curve.values, 0, arm.steps, curve_columns());
    std::vector<double> sorted;
    for (const double value : columns)
      if (std::isfinite(value)) sorted.push_back(value);
    std::string scale = "not finite";
    if (!sorted.empty()) {
      const auto [low, high] = std::minmax_element(sorted.begin(), sorted.end());
      scale = format_number(*low) + " .. " + format_number(*high);
    }
    return line(label + std::string(kLabelColumns - label.size(), ' ') + sparkline(columns) + "  " + scale);
  }

  std::string phase_line() const {
    if (arm.phases.empty() || arm.steps < 1) return {};
    const std::size_t columns = std::min(curve_columns(), options.width - kLabelColumns);
    std::string text = "phase    ";
    std::string band;
    const PhaseStyle* shown = nullptr;
    const auto put = [&] {
      if (!band.empty()) text += shown != nullptr ? coloured(shown->colour, band) : band;
      band.clear();
    };
    for (std::size_t column = 0; column < columns; ++column) {
      const double share = (static_cast<double>(column) + 0.5) / static_cast<double>(columns);
      const double middle = share * static_cast<double>(arm.steps);
      const PhaseStyle* style = nullptr;
      for (const PhaseSpan& span : arm.phases)
        if (static_cast<double>(span.from) <= middle && middle <= static_cast<double>(span.to))
          style = style_of(span.phase);
      if (style != shown) put();
      shown = style;
      band += style != nullptr ? style->letter : ' ';
    }
    put();
    return text + "\n";
  }

  std::string last_events(std::size_t count) const {
    std::string text;
    const std::size_t begin = run.events.size() - std::min(count, run.events.size());
    for (std::size_t i = begin; i < run.events.size(); ++i) {
      const EventRecord& event = run.events[i];
      const std::string shown = first_columns("  step " + std::to_string(event.step) + "  " + printable(event.kind) +
                                                  (event.message.empty() ? "" : ": " + printable(event.message)),
                                              options.width);
      text += coloured(event.kind == "warning" || event.kind == "alert" ? kRed : kDim, shown) + "\n";
    }
    return text;
  }

  std::string text(const Detail& detail) const {
    std::string text = head();
    if (status.state == RunState::waiting && run.steps.empty() && run.probes.empty()) return text;
    text += fields(progress()) + fields(training()) + fields(sink());
    if (detail.curves) text += curve_line("loss", loss_curve()) + curve_line("excess", excess_curve()) + phase_line();
    return text + last_events(detail.events);
  }
};

std::size_t count_lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

std::string runs_view(const std::vector<RunData>& runs, const std::vector<RunStatus>& status,
                      const ViewOptions& options) {
  ViewOptions used = options;
  used.width = std::max(options.width, kFewestColumns);
  const std::vector<ArmSummary> arms = summarize(runs);
  const bool any_phase =
      std::any_of(arms.begin(), arms.end(), [](const ArmSummary& arm) { return !arm.phases.empty(); });
  std::string text;
  for (const Detail& detail : {Detail{}, Detail{true, 1}, Detail{true, 0}, Detail{false, 0}}) {
    text.clear();
    for (std::size_t i = 0; i < runs.size(); ++i)
      text += (i == 0 ? "" : "\n") + Block{runs[i], arms[i], status[i], used}.text(detail);
    if (detail.curves && any_phase)
      text += first_columns("phases: w wandering, t transition, s stable", used.width) + "\n";
    if (options.rows == 0 || count_lines(text) <= options.rows) return text;
  }
  std::size_t end = 0;
  for (std::size_t row = 1; row < options.rows; ++row) end = text.find('\n', end) + 1;
  const std::size_t hidden = count_lines(text) - (options.rows - 1);
  const std::string more = "... " + std::to_string(hidden) + " more lines: enlarge the window";
  return text.substr(0, end) + first_columns(more, used.width) + "\n";
}

}  // namespace sinkscope
