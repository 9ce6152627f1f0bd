#include "tools/report/figure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "engine/files/replacement.h"
#include "tools/report/comparison.h"
#include "tools/report/format.h"
#include "tools/report/series.h"
#include "tools/report/svg.h"

namespace sinkscope {
namespace {

constexpr std::string_view kMarker = "sinkscope compare figure";
constexpr double kWidth = 900, kLeft = 64, kRight = 836;  // of the drawing, of the panels
constexpr double kTitleHeight = 26, kLegendHeight = 20;
constexpr double kBandHeight = 8, kBandGap = 3;
constexpr double kBeside = 3;  // pixels between curves of the same layer, where there is room
// Of the tokens: the loss falls so far in them that its scale would show nothing else.
constexpr double kOpening = 0.03;

const SvgTheme kTheme = {"#1c1e21", "#555b63", "#e6e8eb"};
constexpr std::array<std::string_view, 8> kColours = {"#1f6fd6", "#d9541e", "#138a55", "#9a3fc4",
                                                      "#b8860b", "#0e8f9c", "#d02f73", "#6b5b4d"};
constexpr std::array<std::string_view, 4> kDashes = {"", "6 3", "1.5 3", "9 3 1.5 3"};

struct PhaseColour {
  std::string_view phase, colour;
};
constexpr std::array<PhaseColour, 3> kPhaseColours = {
    {{"wandering", "#c9ced6"}, {"transition", "#f3c35c"}, {"stable", "#7fd39b"}}};

struct Curve {
  std::size_t run = 0;
  Series series;  // over tokens
};

struct Plot {
  std::string title;
  double height = 0;
  std::vector<Curve> curves;
  SvgRange range;
  bool logarithmic = false;
  bool layers = false;  // whole numbers, in steps
};

std::string stroke_of(const RunStyle& style, double width) {
  std::string text = svg_attribute("stroke", kColours[style.colour % kColours.size()]) +
                     svg_attribute("stroke-width", tick_label(width));
  if (const std::string_view dash = kDashes[style.dash % kDashes.size()]; !dash.empty())
    text += svg_attribute("stroke-dasharray", dash);
  if (style.dash >= kDashes.size()) text += svg_attribute("stroke-opacity", "0.55");  // the dashes begin again
  return text + svg_attribute("stroke-linejoin", "round") +
         svg_attribute("stroke-linecap", style.dash == 0 ? "round" : "butt");
}

std::string text_style(std::string_view fill, int size, std::string_view anchor = "start") {
  return svg_attribute("font-size", std::to_string(size)) + svg_attribute("fill", fill) +
         svg_attribute("text-anchor", anchor);
}

template <class Get>
Series of_probes(const ArmSummary& arm, Get get) {
  Series series;
  for (const ProbeRecord* probe : arm.probes) {
    series.x.push_back(static_cast<double>(probe->tokens));
    series.y.push_back(get(*probe));
  }
  return series;
}

Series validation_curve(const RunData& run) {
  Series series;
  for (const StepRecord& step : run.steps) {
    if (!step.validation_loss_common) continue;
    series.x.push_back(static_cast<double>(step.tokens));
    series.y.push_back(*step.validation_loss_common);
  }
  return series;
}

Series norm_ratio_curve(const RunData& run, const ArmSummary& arm) {
  if (!arm.probes.empty())
    return of_probes(arm, [](const ProbeRecord& r) { return norm_ratio_peak(r.norm_ratio).ratio; });
  Series series;
  for (const StepRecord& step : run.steps) {
    series.x.push_back(static_cast<double>(step.tokens));
    series.y.push_back(norm_ratio_peak(step.norm_ratio).ratio);
  }
  return series;
}

bool has_values(const Series& series) {
  return std::any_of(series.y.begin(), series.y.end(), [](double y) { return std::isfinite(y); });
}

std::vector<double> values_of(const Plot& plot, double from_tokens) {
  std::vector<double> values;
  for (const Curve& curve : plot.curves)
    for (std::size_t i = 0; i < curve.series.x.size(); ++i)
      if (curve.series.x[i] >= from_tokens) values.push_back(curve.series.y[i]);
  return values;
}

/// A run's curves, before the scales are known.
template <class SeriesOf>
Plot plot_of(const std::string& title, double height, std::size_t runs, SeriesOf series_of) {
  Plot plot;
  plot.title = title;
  plot.height = height;
  for (std::size_t run = 0; run < runs; ++run)
    if (Series series = series_of(run); has_values(series)) plot.curves.push_back({run, std::move(series)});
  return plot;
}

void scale_freely(Plot& plot) {
  const std::vector<double> values = values_of(plot, 0);
  plot.logarithmic = spans_factor(values, 8);
  plot.range = svg_range(values, plot.logarithmic);
}

class Figure {
 public:
  Figure(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms)
      : runs_(runs), arms_(arms), styles_(run_styles(runs)) {
    excess_ = plot_of("Sink excess of position 0", 190, runs.size(), [&](std::size_t run) {
      return of_probes(arms[run],
                       [](const ProbeRecord& r) { return r.sink_excess.empty() ? kMissing : r.sink_excess.front(); });
    });
    ratio_ = plot_of("Residual norm of position 0 over the others' (R), in the layer where it is largest", 140,
                     runs.size(), [&](std::size_t run) { return norm_ratio_curve(runs[run], arms[run]); });
    step_up_ = plot_of("Step-up layer l* (defined where R exceeds 2)", 0, runs.size(), [&](std::size_t run) {
      return of_probes(arms[run], [](const ProbeRecord& r) {
        return r.step_up_layer ? static_cast<double>(*r.step_up_layer) : kMissing;
      });
    });
    loss_ = plot_of("Validation loss on common targets (nats)", 160, runs.size(),
                    [&](std::size_t run) { return validation_curve(runs[run]); });
    for (const Plot* plot : {&excess_, &ratio_, &step_up_, &loss_})
      for (const Curve& curve : plot->curves) last_token_ = std::max(last_token_, curve.series.x.back());
    scale_plots();
  }

  std::string draw() {
    std::vector<Plot*> shown;
    for (Plot* plot : {&excess_, &ratio_, &step_up_, &loss_})
      if (!plot->curves.empty()) shown.push_back(plot);
    if (shown.empty())
      throw std::runtime_error("there is nothing to draw: no run holds probe passes, step probes or validation losses");
    lay_out_legend();
    height_ = legend_.back().y + 14;
    for (const Plot* plot : shown)
      height_ += kTitleHeight + plot->height + (plot == &excess_ ? bands_height() : 0) + 10;
    height_ += 40;
    SvgDrawing drawing(kWidth, height_);
    drawing.rectangle(0, 0, kWidth, height_, svg_attribute("fill", "#fff"));
    draw_legend(drawing);
    double top = legend_.back().y + 14;
    for (std::size_t i = 0; i < shown.size(); ++i) {
      draw_title(drawing, *shown[i], static_cast<char>('a' + i), top + 17);
      if (shown[i] == &excess_) {
        draw_phase_key(drawing, top + 17);
        draw_bands(drawing, top + kTitleHeight);
        top += bands_height();
      }
      draw_plot(drawing, *shown[i], i, top + kTitleHeight, i + 1 == shown.size());
      top += kTitleHeight + shown[i]->height + 10;
    }
    drawing.text((kLeft + kRight) / 2, height_ - 8, "training tokens", text_style(kTheme.ink, 13, "middle"));
    std::string label = "Attention sink, norms and loss over training tokens:";
    for (const ArmSummary& arm : arms_) label += " " + arm.label;
    return drawing.finish(label, true, kMarker);
  }

 private:
  struct LegendEntry {
    double x = 0, y = 0;
  };

  void scale_plots() {
    std::vector<double> values = values_of(excess_, 0);
    for (const ArmSummary& arm : arms_)
      if (!arm.probes.empty()) values.push_back(arm.onset_threshold);
    excess_.logarithmic = spans_factor(values, 8);
    excess_.range = svg_range(values, excess_.logarithmic);
    scale_freely(ratio_);
    step_up_.layers = true;
    if (!step_up_.curves.empty()) {
      const std::vector<double> layers = values_of(step_up_, 0);
      double low = std::numeric_limits<double>::infinity(), high = 0;
      for (const double layer : layers) {
        if (std::isnan(layer)) continue;
        low = std::min(low, layer);
        high = std::max(high, layer);
      }
      step_up_.range = {low - 0.6, high + 0.6};
      const double row = std::max(20.0, kBeside * static_cast<double>(arms_.size()) + 8);
      step_up_.height = std::clamp(row * (high - low + 1.2), 50.0, 170.0);
    }
    values = values_of(loss_, kOpening * last_token_);
    if (std::none_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }))
      values = values_of(loss_, 0);
    loss_.range = svg_range(values);
  }

  double bands_height() const {
    return static_cast<double>(arms_.size()) * (kBandHeight + kBandGap) + 3;
  }

  SvgScale x_scale() const { return {0, last_token_ > 0 ? last_token_ : 1, kLeft, kRight}; }

  void lay_out_legend() {
    double x = kLeft, y = 18;
    for (const ArmSummary& arm : arms_) {
      const double width = 34 + svg_text_width(arm.label, 13) + 22;
      if (x > kLeft && x + width > kRight) {
        x = kLeft;
        y += kLegendHeight;
      }
      legend_.push_back({x, y});
      x += width;
    }
  }

  void draw_legend(SvgDrawing& drawing) const {
    for (std::size_t i = 0; i < arms_.size(); ++i) {
      drawing.line(legend_[i].x, legend_[i].y - 4, legend_[i].x + 28, legend_[i].y - 4, stroke_of(styles_[i], 2));
      drawing.text(legend_[i].x + 34, legend_[i].y, arms_[i].label, text_style(kTheme.ink, 13));
    }
  }

  static void draw_title(SvgDrawing& drawing, const Plot& plot, char letter, double y) {
    drawing.text(kLeft, y, "(" + std::string(1, letter) + ")",
                 text_style(kTheme.ink, 13) + svg_attribute("font-weight", "bold"));
    drawing.text(kLeft + 24, y, plot.title, text_style(kTheme.ink, 13));
  }

  /// From the right end of the title's line to the left.
  void draw_phase_key(SvgDrawing& drawing, double y) const {
    double x = kRight;
    const auto entry = [&](std::string_view text, auto&& mark) {
      x -= svg_text_width(text, 12);
      drawing.text(x, y, text, text_style(kTheme.soft, 12));
      x -= 15;
      mark();
      x -= 12;
    };
    const auto has_onset = [](const ArmSummary& arm) { return arm.onset.has_value(); };
    if (std::any_of(arms_.begin(), arms_.end(), has_onset))
      entry("onset", [&] {
        drawing.circle(x + 5, y - 4, 4, svg_attribute("fill", "#fff") + svg_attribute("stroke", kTheme.ink));
      });
    if (std::any_of(arms_.begin(), arms_.end(), [](const ArmSummary& arm) { return !arm.low_rate.empty(); }))
      entry("learning rate under 1/10",
            [&] { drawing.rectangle(x, y - 9, 10, 10, svg_attribute("fill", "url(#low-rate)")); });
    for (auto colour = kPhaseColours.rbegin(); colour != kPhaseColours.rend(); ++colour)
      entry(colour->phase, [&] { drawing.rectangle(x, y - 9, 10, 10, svg_attribute("fill", colour->colour)); });
  }

  void draw_bands(SvgDrawing& drawing, double top) const {
    const SvgScale x = x_scale();
    drawing.raw(
        "<defs><pattern id=\"low-rate\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\"><path d=\"M0,0V5\" stroke=\"#000\" stroke-opacity=\"0.55\" "
        "stroke-width=\"1.5\"/></pattern></defs>\n");
    for (std::size_t run = 0; run < arms_.size(); ++run) {
      const ArmSummary& arm = arms_[run];
      const double y = top + static_cast<double>(run) * (kBandHeight + kBandGap);
      drawing.line(kLeft - 34, y + kBandHeight / 2, kLeft - 8, y + kBandHeight / 2, stroke_of(styles_[run], 2));
      drawing.rectangle(
          kLeft, y, kRight - kLeft, kBandHeight,
          svg_attribute("fill", "none") + svg_attribute("stroke", kTheme.grid) + svg_attribute("stroke-width", "0.5"));
      if (arm.probes.empty()) continue;
      // Beyond the last pass nothing was measured.
      const auto last = static_cast<double>(arm.probes.back()->tokens);
      const auto at = [&](std::int64_t step) {
        return x(std::min(static_cast<double>(step) * arm.tokens_per_step, last));
      };
      for (const PhaseSpan& span : arm.phases)
        for (const PhaseColour& colour : kPhaseColours)
          if (colour.phase == span.phase)
            drawing.rectangle(at(span.from), y, at(span.to) - at(span.from), kBandHeight,
                              svg_attribute("fill", colour.colour),
                              arm.label + ": " + span.phase + ", steps " + std::to_string(span.from) + " to " +
                                  std::to_string(span.to));
      for (const PhaseSpan& span : arm.low_rate)
        drawing.rectangle(at(span.from), y, at(span.to) - at(span.from), kBandHeight,
                          svg_attribute("fill", "url(#low-rate)"));
    }
  }

  void draw_thresholds(SvgDrawing& drawing, const SvgPanel& panel) const {
    std::vector<double> drawn;
    for (const ArmSummary& arm : arms_) {
      if (arm.probes.empty() || std::find(drawn.begin(), drawn.end(), arm.onset_threshold) != drawn.end()) continue;
      drawn.push_back(arm.onset_threshold);
      const double y = panel.y(arm.onset_threshold);
      drawing.line(panel.left(), y, panel.right(), y,
                   svg_attribute("stroke", kTheme.soft) + svg_attribute("stroke-dasharray", "4 3"));
      drawing.text(panel.right() + 6, y + 4, "onset " + tick_label(arm.onset_threshold), text_style(kTheme.soft, 11));
    }
    const double uniform = panel.y(1);
    const bool hidden =
        std::any_of(drawn.begin(), drawn.end(), [&](double y) { return std::abs(panel.y(y) - uniform) < 12; });
    if (!hidden && uniform >= panel.top() && uniform <= panel.bottom())
      drawing.text(panel.right() + 6, uniform + 4, "uniform 1", text_style(kTheme.soft, 11));
  }

  void draw_onsets(SvgDrawing& drawing, const SvgPanel& panel) const {
    for (std::size_t run = 0; run < arms_.size(); ++run) {
      if (!arms_[run].onset) continue;
      for (const ProbeRecord* probe : arms_[run].probes)
        if (probe->step == arms_[run].onset->step)
          drawing.circle(panel.x(static_cast<double>(probe->tokens)), panel.y(probe->sink_excess.front()), 4,
                         svg_attribute("fill", "#fff") +
                             svg_attribute("stroke", kColours[styles_[run].colour % kColours.size()]) +
                             svg_attribute("stroke-width", "1.5"),
                         arms_[run].label + ": onset at step " + std::to_string(probe->step));
    }
  }

  void draw_plot(SvgDrawing& drawing, const Plot& plot, std::size_t index, double top, bool lowest) const {
    const SvgPanel panel = {x_scale(),
                            SvgScale(plot.range.low, plot.range.high, top + plot.height, top, plot.logarithmic)};
    std::vector<double> y_ticks = panel.y.ticks(static_cast<std::size_t>(plot.height / (plot.layers ? 14 : 28)));
    if (plot.layers) std::erase_if(y_ticks, [](double tick) { return std::abs(tick - std::round(tick)) > 1e-6; });
    draw_y_axis(drawing, panel, kTheme, y_ticks);
    const std::vector<double> x_ticks = panel.x.ticks(8);
    std::vector<std::string> labels;
    if (lowest)
      for (const double tick : x_ticks) labels.push_back(format_count(std::llround(tick)));
    draw_x_axis(drawing, panel, kTheme, x_ticks, labels);
    if (&plot == &excess_) draw_thresholds(drawing, panel);
    const std::string clip = "panel-" + std::to_string(index);
    drawing.raw("<clipPath" + svg_attribute("id", clip) + ">");
    drawing.rectangle(panel.left(), panel.top(), panel.right() - panel.left(), plot.height, "");
    drawing.raw("</clipPath>\n");
    drawing.open_group(svg_attribute("clip-path", "url(#" + clip + ")"));
    // 8 runs must not make the file too large to embed.
    const std::size_t limit = std::min<std::size_t>(400, 2400 / runs_.size());
    for (const Curve& curve : plot.curves) {
      Series points = in_pixels(panel, plot.layers ? as_steps(curve.series) : downsample(curve.series, limit));
      // Whole numbers would hide each other: curves are drawn beside each other, all nearer to their layer than to the
      // next.
      const double beside =
          std::min(kBeside, 0.65 * std::abs(panel.y(1) - panel.y(0)) / static_cast<double>(runs_.size()));
      const double offset = beside * (static_cast<double>(curve.run) - static_cast<double>(runs_.size() - 1) / 2);
      if (plot.layers)
        for (double& y : points.y) y -= offset;
      drawing.path(plot.layers ? downsample(points, limit) : points, stroke_of(styles_[curve.run], 1.5));
    }
    drawing.close_group();
    if (&plot == &excess_) draw_onsets(drawing, panel);
  }

  const std::vector<RunData>& runs_;
  const std::vector<ArmSummary>& arms_;
  std::vector<RunStyle> styles_;
  Plot excess_, ratio_, step_up_, loss_;
  std::vector<LegendEntry> legend_;
  double last_token_ = 0, height_ = 0;
};

}  // namespace

std::vector<RunStyle> run_styles(const std::vector<RunData>& runs) {
  std::vector<RunStyle> styles;
  const std::vector<std::size_t> arms = arms_of(runs);
  for (std::size_t i = 0; i < runs.size(); ++i)
    styles.push_back({arms[i], static_cast<std::size_t>(
                                   std::count(arms.begin(), arms.begin() + static_cast<std::ptrdiff_t>(i), arms[i]))});
  return styles;
}

std::string figure_svg(const std::vector<RunData>& runs, const std::vector<ArmSummary>& arms) {
  return Figure(runs, arms).draw();
}

void require_figure_possible(const std::filesystem::path& file) {
  if (file.extension() != ".svg")
    throw std::runtime_error("--figure " + file.string() + ": the figure is an SVG; expected a name that ends in .svg");
  if (!std::filesystem::exists(std::filesystem::symlink_status(file))) return;
  std::string beginning(4096, '\0');
  std::ifstream in(file, std::ios::binary);
  in.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  if (beginning.find("<!-- " + std::string(kMarker) + " -->") == std::string::npos)
    throw std::runtime_error("--figure " + file.string() +
                             ": exists and is not a figure of this program; choose another name");
}

void write_figure(const std::vector<RunData>& runs, const std::filesystem::path& file) {
  require_figure_possible(file);
  std::string figure;
  try {
    figure = figure_svg(runs, summarize(runs));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("--figure " + file.string() + ": " + error.what());
  }
  FileReplacement replacement(file);
  replacement.write(figure);
  replacement.commit();
}

}  // namespace sinkscope
