#include <algorithm>
#include <array>
#include <cmath>

#include "tools/report/format.h"
#include "tools/report/page_parts.h"
#include "tools/report/probe_report.h"
#include "tools/report/series.h"
#include "tools/report/svg.h"

namespace sinkscope {
namespace {

constexpr double kChartWidth = 620, kChartHeight = 250;
constexpr std::size_t kReadableColumns = 16;  // of a heatmap, with a number in each cell
constexpr std::size_t kProfilePoints = 200;
// A share of a sink that has hardly formed may be anything; beyond these a bar is cut.
constexpr double kLowestShare = -0.5, kHighestShare = 1.5;

const SvgTheme kPageTheme = {"var(--ink)", "var(--soft)", "var(--line)"};

constexpr std::string_view kStyle = R"(
svg { max-width: 100%; height: auto; display: block; }
.numbers td, .numbers th, .heat td, .heat th { min-width: 0; white-space: nowrap; padding: .15em .55em; }
.numbers td, .numbers th { text-align: right; } .numbers th:first-child { text-align: left; }
.heat table { border-spacing: 1px; border-collapse: separate; }
.heat td { border: 0; text-align: center; font-size: .85em; }
.heat th { border: 0; font-weight: normal; color: var(--soft); text-align: center; }
.heat .light { color: #fff; } .heat .dark { color: #111; }
.dense td { padding: 0; width: 11px; height: 15px; font-size: 1px; color: transparent; }
.dense thead th { font-size: .6em; padding: 0; }
dt { font-weight: 600; } dd { margin: 0 0 .5em; max-width: 90ch; }
)";

// ---- numbers ---------------------------------------------------------------------------------

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(std::max<std::int64_t>(value, 0)); }

std::string shown(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  std::array<char, 400> text{};  // the largest double has 309 digits before the point
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

double mean_of_finite(const std::vector<double>& values) {
  double sum = 0, count = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? sum / count : kMissing;
}

Series by_index(const std::vector<double>& values) {
  Series series;
  for (std::size_t i = 0; i < values.size(); ++i) {
    series.x.push_back(static_cast<double>(i));
    series.y.push_back(values[i]);
  }
  return series;
}

// ---- HTML ------------------------------------------------------------------------------------

std::string element(const std::string& name, std::string_view text) {
  return "<" + name + ">" + escape_html(text) + "</" + name + ">";
}

std::string section(std::string_view title, std::string_view note, const std::string& body) {
  return "<section>" + element("h2", title) + (note.empty() ? "" : "<p class=\"note\">" + escape_html(note) + "</p>") +
         body + "</section>\n";
}

std::string figure(std::string_view title, std::string_view note, const std::string& body) {
  return "<div class=\"chart\">" + element("h2", title) + "<p class=\"note\">" + escape_html(note) + "</p>" + body +
         "</div>\n";
}

std::string table_html(const ProbeTable& table) {
  std::string html = "<div class=\"scroll numbers\"><table><thead><tr>";
  for (const std::string& head : table.front()) html += element("th", head);
  html += "</tr></thead><tbody>";
  for (std::size_t row = 1; row < table.size(); ++row) {
    html += "<tr>";
    for (std::size_t column = 0; column < table[row].size(); ++column)
      html += element(column == 0 ? "th" : "td", table[row][column]);
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

// ---- heatmaps --------------------------------------------------------------------------------

using Colour = std::array<double, 3>;
// The colours of the maps of `compare`'s page (heatmap.js).
constexpr std::array<Colour, 9> kStops = {{{68, 1, 84}, {71, 44, 122}, {59, 81, 139}, {44, 113, 142}, {33, 144, 141},
                                           {39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37}}};

Colour colour_of(double part) {
  const double place = std::clamp(part, 0.0, 1.0) * static_cast<double>(kStops.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(place), kStops.size() - 2);
  const double rest = place - static_cast<double>(i);
  Colour colour{};
  for (std::size_t c = 0; c < 3; ++c) colour[c] = std::round(kStops[i][c] + rest * (kStops[i + 1][c] - kStops[i][c]));
  return colour;
}

std::string css(const Colour& colour) {
  return "rgb(" + shown(colour[0], 0) + "," + shown(colour[1], 0) + "," + shown(colour[2], 0) + ")";
}

std::string scale_html(double high) {
  std::string gradient = "linear-gradient(90deg";
  for (const Colour& stop : kStops) gradient += "," + css(stop);
  return "<div class=\"scale\"><span>0</span><i style=\"background:" + gradient + ")\"></i><span>" + shown(high, 3) +
         "</span></div>";
}

/// `values`: a row a layer. Colours go from 0 to the largest value.
std::string heatmap(const std::string& columns, const std::string& letter,
                    const std::vector<std::vector<double>>& values) {
  double high = 0;
  std::size_t width = 0;
  for (const auto& row : values) {
    width = std::max(width, row.size());
    for (const double value : row)
      if (std::isfinite(value)) high = std::max(high, value);
  }
  const bool dense = width > kReadableColumns;
  const int digits = high < 0.1 ? 3 : 2;
  std::string html =
      scale_html(high) + "<div class=\"scroll heat" + (dense ? " dense" : "") + "\"><table><thead><tr><th>layer</th>";
  for (std::size_t c = 0; c < width; ++c)
    html += "<th>" + (dense && c % 8 != 0 ? std::string() : letter + std::to_string(c)) + "</th>";
  html += "</tr></thead><tbody>\n";
  for (std::size_t l = 0; l < values.size(); ++l) {
    html += "<tr><th>" + std::to_string(l) + "</th>";
    for (std::size_t c = 0; c < values[l].size(); ++c) {
      const double value = values[l][c];
      const std::string title =
          "layer " + std::to_string(l) + ", " + columns + " " + std::to_string(c) + ": " + shown(value, 4);
      html += "<td" + svg_attribute("title", title);
      if (std::isfinite(value)) {
        const Colour colour = colour_of(high > 0 ? value / high : 0);
        // Rec. 709 luma, of the text that is readable on the colour.
        const bool bright = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 120;
        html += svg_attribute("style", "background:" + css(colour)) + svg_attribute("class", bright ? "dark" : "light");
      }
      html += ">" + shown(value, digits) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>";
}

std::string head_map(const ProbeRecord& set) {
  std::vector<std::vector<double>> values(size(set.layers));
  for (std::size_t l = 0; l < values.size(); ++l)
    for (std::size_t h = 0; h < size(set.heads); ++h)
      values[l].push_back(value_at(set.sink_score, (l * size(set.heads) + h) * size(set.positions)));
  return heatmap("head", "H", values);
}

std::string position_map(const ProbeRecord& set) {
  const std::size_t heads = size(set.heads), positions = size(set.positions);
  std::vector<std::vector<double>> values(size(set.layers));
  for (std::size_t l = 0; l < values.size(); ++l)
    for (std::size_t p = 0; p < positions; ++p) {
      std::vector<double> scores;
      for (std::size_t h = 0; h < heads; ++h)
        scores.push_back(value_at(set.sink_score, (l * heads + h) * positions + p));
      values[l].push_back(mean_of_finite(scores));
    }
  return heatmap("position", "P", values);
}

// ---- line charts -----------------------------------------------------------------------------

struct Line {
  Series series;
  std::string style;   // of the path
  std::string marks;   // fill of a dot a point; empty: none
};

struct LineChart {
  std::string label, x_label;
  std::vector<Line> lines;
  bool logarithmic = false;
  std::vector<double> references;  // values with a dashed line
  std::optional<std::int64_t> marked;  // x with a dashed line
  std::string mark;
};

std::string stroke(std::string_view colour, double width, double opacity = 1) {
  return svg_attribute("stroke", colour) + svg_attribute("stroke-width", tick_label(width)) +
         svg_attribute("stroke-opacity", tick_label(opacity)) + svg_attribute("stroke-linejoin", "round") +
         svg_attribute("stroke-linecap", "round");
}

std::string dashed(std::string_view colour) {
  return svg_attribute("stroke", colour) + svg_attribute("stroke-dasharray", "4 3");
}

std::string text_style(std::string_view anchor) {
  return svg_attribute("font-size", "12") + svg_attribute("fill", kPageTheme.soft) +
         svg_attribute("text-anchor", anchor);
}

std::string line_chart(const LineChart& chart) {
  std::vector<double> values = chart.references, places;
  for (const Line& line : chart.lines)
    for (std::size_t i = 0; i < line.series.x.size(); ++i) {
      places.push_back(line.series.x[i]);
      if (std::isfinite(line.series.y[i])) values.push_back(line.series.y[i]);
    }
  if (values.size() == chart.references.size()) return "<p>-</p>";  // nothing was measured
  const SvgRange range = svg_range(values, chart.logarithmic);
  const auto [first, last] = std::minmax_element(places.begin(), places.end());
  const double room = *last > *first ? 0.02 * (*last - *first) : 0.5;
  const SvgPanel panel = {SvgScale(*first - room, *last + room, 58, kChartWidth - 12),
                          SvgScale(range.low, range.high, kChartHeight - 42, 14, chart.logarithmic)};
  SvgDrawing drawing(kChartWidth, kChartHeight);
  draw_y_axis(drawing, panel, kPageTheme, panel.y.ticks(6));
  std::vector<double> ticks = panel.x.ticks(10);
  std::erase_if(ticks,
                [&](double tick) { return std::abs(tick - std::round(tick)) > 1e-6 || tick < *first || tick > *last; });
  std::vector<std::string> labels;
  for (const double tick : ticks) labels.push_back(tick_label(tick));
  draw_x_axis(drawing, panel, kPageTheme, ticks, labels);
  drawing.text((panel.left() + panel.right()) / 2, kChartHeight - 6, chart.x_label, text_style("middle"));
  for (const double reference : chart.references) {
    const double y = panel.y(reference);
    drawing.line(panel.left(), y, panel.right(), y, dashed(kPageTheme.soft));
  }
  if (chart.marked) {
    const double x = panel.x(static_cast<double>(*chart.marked));
    drawing.line(x, panel.top(), x, panel.bottom(), dashed("var(--a1)"));
    const bool left = x > (panel.left() + panel.right()) / 2;
    drawing.text(x + (left ? -5 : 5), panel.top() + 11, chart.mark, text_style(left ? "end" : "start"));
  }
  for (const Line& line : chart.lines) {
    const Series points = in_pixels(panel, line.series);
    drawing.path(points, line.style);
    if (line.marks.empty()) continue;
    for (std::size_t i = 0; i < points.x.size(); ++i)
      drawing.circle(points.x[i], points.y[i], 3.5, svg_attribute("fill", line.marks),
                     chart.x_label + " " + tick_label(line.series.x[i]) + ": " + shown(line.series.y[i], 3));
  }
  return drawing.finish(chart.label, false);
}

std::string by_layer_chart(const std::string& label, const std::vector<double>& values,
                           const std::optional<std::int64_t>& step_up) {
  LineChart chart;
  chart.label = label;
  chart.x_label = "layer";
  chart.lines.push_back({by_index(values), stroke("var(--a0)", 2), "var(--a0)"});
  chart.logarithmic = spans_factor(values, 20);
  chart.references = {1};
  chart.marked = step_up;
  chart.mark = "l*";
  return line_chart(chart);
}

/// What uniform attention would give: sum_{t=k}^{T-1} 1/(t+1).
std::vector<double> uniform_key_mass(std::size_t length) {
  std::vector<double> mass(length);
  double sum = 0;
  for (std::size_t k = length; k-- > 0;) {
    sum += 1.0 / static_cast<double>(k + 1);
    mass[k] = sum;
  }
  return mass;
}

std::string key_mass_chart(const ProbeRecord& set) {
  const std::size_t length = size(set.length), layers = size(set.layers);
  LineChart chart;
  chart.label = "Key mass over key positions";
  chart.x_label = "key position";
  std::vector<std::vector<double>> columns(length);
  for (std::size_t l = 0; l < layers; ++l) {
    std::vector<double> masses;
    for (std::size_t k = 0; k < length; ++k) {
      masses.push_back(value_at(set.key_mass, l * length + k));
      columns[k].push_back(masses.back());
    }
    chart.lines.push_back({downsample(by_index(masses), kProfilePoints), stroke("var(--soft)", 1, 0.35), ""});
  }
  std::vector<double> mean;
  for (const auto& column : columns) mean.push_back(mean_of_finite(column));
  if (!std::any_of(mean.begin(), mean.end(), [](double value) { return std::isfinite(value); })) return "<p>-</p>";
  chart.lines.push_back({downsample(by_index(uniform_key_mass(length)), kProfilePoints),
                         stroke("var(--a1)", 1.5) + svg_attribute("stroke-dasharray", "4 4"), ""});
  chart.lines.push_back({downsample(by_index(mean), kProfilePoints), stroke("var(--a0)", 2), ""});
  chart.lines.push_back({{{0}, {mean.front()}}, "", "var(--a0)"});
  std::vector<double> sorted = mean;
  std::erase_if(sorted, [](double value) { return !std::isfinite(value); });
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  chart.logarithmic = mean.front() > 10 * *middle;
  return line_chart(chart);
}

// ---- causal tests ----------------------------------------------------------------------------

struct Bar {
  std::string label;
  std::string colour;
  Estimate share;
};
struct BarRow {
  std::string label;
  std::vector<Bar> bars;
};

double cut(double share) { return std::isnan(share) ? kMissing : std::clamp(share, kLowestShare, kHighestShare); }

std::string bar_chart(const std::string& label, const std::vector<BarRow>& rows) {
  constexpr double kBar = 10, kGap = 7, kTop = 6;
  double label_width = 0, height = kTop, low = 0, high = 1;
  for (const BarRow& row : rows) {
    label_width = std::max(label_width, svg_text_width(row.label, 12));
    height += kBar * static_cast<double>(row.bars.size()) + kGap;
    for (const Bar& bar : row.bars)
      for (const double share : {cut(bar.share.value), cut(bar.share.low), cut(bar.share.high)}) {
        if (share < low) low = share;
        if (share > high) high = share;
      }
  }
  const SvgPanel panel = {SvgScale(100 * low, 100 * high, label_width + 14, kChartWidth - 20),
                          SvgScale(0, 1, height, 0)};
  SvgDrawing drawing(kChartWidth, height + 40);
  const std::vector<double> ticks = panel.x.ticks(8);
  std::vector<std::string> labels;
  for (const double tick : ticks) {
    labels.push_back(tick_label(tick));
    drawing.line(panel.x(tick), 0, panel.x(tick), height, svg_attribute("stroke", kPageTheme.grid));
  }
  draw_x_axis(drawing, panel, kPageTheme, ticks, labels);
  drawing.text((panel.left() + panel.right()) / 2, height + 35, "%", text_style("middle"));
  double y = kTop;
  for (const BarRow& row : rows) {
    const double row_height = kBar * static_cast<double>(row.bars.size());
    drawing.text(panel.left() - 8, y + row_height / 2 + 4, row.label, text_style("end"));
    for (const Bar& bar : row.bars) {
      const double zero = panel.x(0), end = panel.x(100 * cut(bar.share.value)), middle = y + kBar / 2;
      const std::string title = bar.label + ": " + shown(100 * bar.share.value, 0) + " % [" +
                                shown(100 * bar.share.low, 0) + ", " + shown(100 * bar.share.high, 0) + "]";
      drawing.rectangle(std::min(zero, end), y + 1, std::abs(end - zero), kBar - 2,
                        svg_attribute("fill", bar.colour) + svg_attribute("fill-opacity", "0.75"), title);
      if (!std::isfinite(end)) drawing.text(zero + 4, middle + 4, "-", text_style("start"));
      const double from = panel.x(100 * cut(bar.share.low)), to = panel.x(100 * cut(bar.share.high));
      const std::string ink = svg_attribute("stroke", kPageTheme.ink);
      drawing.line(from, middle, to, middle, ink);
      for (const double tip : {from, to})
        if (std::isfinite(from + to)) drawing.line(tip, middle - 3, tip, middle + 3, ink);
      y += kBar;
    }
    y += kGap;
  }
  drawing.line(panel.x(0), 0, panel.x(0), height, svg_attribute("stroke", kPageTheme.ink));
  return drawing.finish(label, false);
}

std::string key(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string html = "<p class=\"note\">";
  for (const auto& [colour, text] : entries)
    html += "<span class=\"swatch\" style=\"background:" + colour + "\"></span>" + escape_html(text) + " &#160; ";
  return html + "</p>";
}

std::string removed_chart(const CausalRecord& record) {
  std::vector<BarRow> rows;
  for (const auto& [kind, colour, name] : {std::tuple{"knock_out_mlp", "var(--a0)", "MLP"},
                                           std::tuple{"knock_out_attention", "var(--a1)", "attention"}})
    for (const CausalTest& test : record.tests) {
      if (test.kind != kind || !test.layer) continue;
      const std::string label = "layer " + std::to_string(*test.layer);
      auto row = std::find_if(rows.begin(), rows.end(), [&](const BarRow& r) { return r.label == label; });
      if (row == rows.end()) row = rows.insert(rows.end(), {label, {}});
      row->bars.push_back({label + ", " + name, colour, test.removed});
    }
  if (rows.empty()) return "<p>-</p>";
  return key({{"var(--a0)", "MLP"}, {"var(--a1)", "attention"}}) +
         bar_chart("Share of the sink that each knock-out removes", rows);
}

std::string moved_chart(const CausalRecord& record) {
  std::vector<BarRow> rows;
  const auto add = [&](const CausalTest& test, const std::string& label, const char* colour) {
    rows.push_back({label, {{label, colour, test.moved}}});
  };
  for (const CausalTest& test : record.tests) {
    const std::string layer = test.layer ? std::to_string(*test.layer) : "-";
    if (test.kind == "transplant") add(test, "after layer " + layer, "var(--a0)");
    if (test.kind == "transplant_random_direction") add(test, "random direction, layer " + layer, "var(--soft)");
    if (test.kind == "transplant_small") add(test, "small norm, layer " + layer, "var(--soft)");
    if (test.kind == "isolate") add(test, "isolated below layer " + layer, "var(--a2)");
  }
  if (rows.empty()) return "<p>-</p>";
  return key({{"var(--a0)", "state of position 0 transplanted"},
              {"var(--soft)", "controls"}, {"var(--a2)", "position sees itself alone"}}) +
         bar_chart("Share of the sink that appears at the other position", rows);
}

std::string causal_html(const CausalRecord& record) {
  std::string sentences;
  for (const std::string& sentence : causal_reading(record)) sentences += element("p", sentence);
  const std::string p = std::to_string(record.position);
  std::string html =
      section("Causal tests",
              "On " + record.set + ", T = " + std::to_string(record.length) + ", " + std::to_string(record.sequences) +
                  " sequences; intervals: " + shown(100 * record.confidence, 0) + " % bootstrap over sequences, " +
                  std::to_string(record.resamples) + " resamples.",
              "<div class=\"reading\">" + sentences + "</div>");
  if (record.sink_formed)  // shares of a sink that is not there say nothing
    html += "<div class=\"charts\">" +
            figure("Removed by knock-outs",
                   "One branch's output at position 0 set to zero in one layer: the share of the excess over "
                   "uniform attention that is gone. Whiskers: the interval. Bars are cut at -50 % and 150 %; the table "
                   "has the numbers.",
                   removed_chart(record)) +
            figure("Moved to position " + p, "What appears there, in units of the sink at position 0.",
                   moved_chart(record)) +
            "</div>";
  return html + section("Causal tests, all numbers", "", table_html(causal_table(record)));
}

// ---- the page --------------------------------------------------------------------------------

std::string meanings(const ProbeReport& report) {
  const auto list = [](const std::vector<std::pair<std::string, std::string>>& entries) {
    std::string html = "<dl>";
    for (const auto& [name, meaning] : entries) html += element("dt", name) + element("dd", meaning);
    return html + "</dl>";
  };
  return section(
      "What the numbers mean", "",
      list({{"sink score",
             "The mean attention weight that the queries from a key position on give to it. It falls with T, so "
             "compare it only at one T."},
            {"excess",
             "The mean sink score over what uniform attention would give at that T and position: 1 is no sink, 2 and "
             "more is one."},
            {"rate", "The share of (sequence, layer, head) with a sink score above " + shown(report.sink_threshold, 2) +
                         "; late: in the layers from " + std::to_string(report.from_layer) + " on."},
            {"leads", "The position with the largest mean sink score; under uniform attention that is position 0 too."},
            {"key mass",
             "The attention weight that all queries of a sequence together give to a key position; the sum over the "
             "positions is T, less what sink logits draw."},
            {"R, l*, C2",
             "R: the residual norm of position 0 after a block over the mean norm of the others. l*: the layer in "
             "which it grows by the largest factor. C2: the share of the first two layers in that growth, on a log "
             "scale. The last two are undefined while R stays below 2."},
            {"G",
             "By how much a layer's MLP lengthens the state of position 0, over how much it lengthens the others'."},
            {"|h|, |attention|, |MLP|",
             "Norms of the residual stream after the block and of what its two branches add: at position 0, and the "
             "mean of the rest."},
            {"k0/k, v0/v",
             "Key and value norm of position 0 over the others'. A sink's value is small: attention goes there to do "
             "little."},
            {"max/median |h|",
             "The largest entry of the residual stream over the median one, with its position and channel: massive "
             "activations."},
            {"stable",
             "The mean cosine between sequences of the state of position 0: 1 is one direction whatever the text."},
            {"entropy", "Of the attention weights on keys, in nats, mean over queries."},
            {"on logit",
             "Of a model with sink logits (model.attention.sink): the share of attention that goes to the layer's sink "
             "logits, mean over heads and queries. It reaches no value."},
            {"removed, moved",
             "Excess of position 0 that an edit takes away, and excess that it makes at the other position; both over "
             "(excess of position 0 - 1) of the model as it is."}}));
}

std::string facts(const ProbeReport& report) {
  std::string text = report.step ? "Step " + std::to_string(*report.step) + ". " : "";
  text += format_count(report.parameters) + " parameters, " + std::to_string(report.model.layers) + " layers of " +
          std::to_string(report.model.heads) + " heads. On " + report.device + ", by " + report.build +
          ". Text: " + report.text + "; sequences chosen by seed " + std::to_string(report.seed) + ".";
  return text;
}

}  // namespace

std::string probe_page(const ProbeReport& report) {
  const ProbeRecord& set = report.sets.at(report.shown);
  const std::string where =
      set.set + ", T = " + std::to_string(set.length) + ", " + std::to_string(set.sequences) + " sequences";
  std::vector<double> ratio(set.norm_ratio.begin() + (set.norm_ratio.empty() ? 0 : 1), set.norm_ratio.end());
  const std::string title = escape_html("Attention sinks in " + report.source);
  std::string html =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"generator\" "
      "content=\"sinkscope probe\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n<title>" +
      title + "</title>\n<style>" + std::string(kPageCss) + std::string(kStyle) +
      "</style>\n</head>\n<body>\n<header><h1>" + title + "</h1></header>\n<main>\n" + element("p", facts(report)) +
      "\n";
  if (report.causal) html += causal_html(*report.causal);
  html += section("Probe sets", "", table_html(probe_set_table(report)));
  html +=
      "<div class=\"charts\">" + figure("Sink scores of position 0, by layer and head", where + ".", head_map(set)) +
      figure("Sink scores by layer and position", where + "; mean over heads.", position_map(set)) +
      figure("Norm ratio R by layer", "Residual norm of position 0 over the others', after each block; " + where + ".",
             by_layer_chart("Norm ratio R by layer", ratio, set.step_up_layer)) +
      figure("MLP amplification G by layer",
             "Lengthening of position 0 by the MLP over that of the others; " + where + ".",
             by_layer_chart("MLP amplification G by layer", set.mlp_amplification, std::nullopt)) +
      figure("Key mass over key positions",
             "Bold: mean over layers; faint: each layer; dashed: uniform attention. " + where + ".",
             key_mass_chart(set)) +
      "</div>\n";
  html += section("By layer", where + ".", table_html(probe_layer_table(report)));
  return html + meanings(report) + "</main>\n</body>\n</html>\n";
}

}  // namespace sinkscope
