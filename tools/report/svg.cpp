#include "tools/report/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/metrics/console.h"
#include "tools/report/format.h"

namespace sinkscope {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

template <class... Numbers>
bool finite(Numbers... numbers) {
  return (std::isfinite(numbers) && ...);
}

/// A tenth of a pixel: below what a screen shows, at half the bytes.
std::string pixel(double value) {
  std::string text = printed("%.1f", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

/// XML has no place for control characters and for bytes that are not UTF-8, escaped or not.
std::string content_of(std::string_view text) { return escape_html(printable(text)); }

std::string coordinate(std::string_view name, double value) { return svg_attribute(name, pixel(value)); }

std::string with_title(std::string_view element, std::string_view title) {
  if (title.empty()) return "/>";
  return "><title>" + content_of(title) + "</title></" + std::string(element) + ">";
}

/// 1, 2 or 5 times a power of ten, at least `least`.
double round_step(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

std::vector<double> linear_ticks(double low, double high, std::size_t about) {
  const double step = round_step((high - low) / static_cast<double>(std::max<std::size_t>(about, 1)));
  std::vector<double> ticks;
  const double slack = 1e-9 * (high - low);
  const double first = std::ceil((low - slack) / step);
  // Where a step is less than a rounding of the values, all of them may be one number.
  for (std::size_t i = 0; i < 4 * about + 4; ++i) {
    const double tick = (first + static_cast<double>(i)) * step;
    if (tick > high + slack) break;
    if (ticks.empty() || tick > ticks.back()) ticks.push_back(tick);
  }
  return ticks;
}

std::vector<double> logarithmic_ticks(double low, double high, std::size_t about) {
  const auto collect = [&](const std::vector<double>& factors, int stride) {
    std::vector<double> ticks;
    for (int power = static_cast<int>(std::floor(std::log10(low)));
         power <= static_cast<int>(std::ceil(std::log10(high))); ++power)
      for (const double factor : factors) {
        const double value = factor * std::pow(10.0, power);
        if (power % stride == 0 && value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push_back(value);
      }
    return ticks;
  };
  // The finest of the usual divisions that is not too dense; within a factor of two not even 1-2-5 has two of them.
  for (const std::vector<double>& factors :
       {std::vector<double>{1, 2, 5}, std::vector<double>{1, 3}, std::vector<double>{1}})
    if (const auto ticks = collect(factors, 1); ticks.size() <= about + about / 2)
      return ticks.size() < 2 ? linear_ticks(low, high, about) : ticks;
  int stride = 2;
  while (collect({1}, stride).size() > about + about / 2) ++stride;
  return collect({1}, stride);
}

}  // namespace

SvgScale::SvgScale(double low, double high, double from, double to, bool logarithmic)
    : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {
  if (!finite(low, high, from, to) || !(low < high) || (logarithmic && !(low > 0)))
    throw std::invalid_argument("a scale from " + format_number(low) + " to " + format_number(high) +
                                " has no room for values");
}

double SvgScale::operator()(double value) const {
  if (!finite(value) || (logarithmic_ && value <= 0)) return kNone;
  const double part = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
  return from_ + part * (to_ - from_);
}

double SvgScale::clamped(double value) const {
  if (std::isnan(value)) return kNone;
  return (*this)(std::clamp(value, low_, high_));
}

std::vector<double> SvgScale::ticks(std::size_t about) const {
  return logarithmic_ ? logarithmic_ticks(low_, high_, about) : linear_ticks(low_, high_, about);
}

SvgRange svg_range(const std::vector<double>& values, bool logarithmic) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double value : values) {
    if (!finite(value) || (logarithmic && value <= 0)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (!(low <= high)) return logarithmic ? SvgRange{1, 10} : SvgRange{0, 1};
  if (logarithmic) {
    const double room = std::max(1.05, std::pow(high / low, 0.05));
    return {low / room, high * room};
  }
  // Values that differ by little more than a rounding get room for ticks that differ.
  const double room = high > low ? std::max(0.05 * (high - low), 1e-9 * std::max(std::abs(low), std::abs(high)))
                                 : std::max(0.05 * std::abs(high), 0.5);
  return {low - room, high + room};
}

bool spans_factor(const std::vector<double>& values, double factor) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const double value : values) {
    if (!finite(value) || value <= 0) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  return low < high && high / low > factor;
}

std::string tick_label(double value) {
  if (!finite(value)) return "-";
  const std::string text = printed("%.6g", value);
  return text == "-0" ? "0" : text;
}

double svg_text_width(std::string_view text, double font_size) {
  return 0.53 * font_size * static_cast<double>(text_width(text));
}

std::string svg_attribute(std::string_view name, std::string_view value) {
  return " " + std::string(name) + "=\"" + content_of(value) + "\"";
}

void SvgDrawing::line(double x1, double y1, double x2, double y2, std::string_view style) {
  if (!finite(x1, y1, x2, y2)) return;
  body_ += "<line" + coordinate("x1", x1) + coordinate("y1", y1) + coordinate("x2", x2) + coordinate("y2", y2) +
           std::string(style) + "/>\n";
}

void SvgDrawing::rectangle(double x, double y, double width, double height, std::string_view style,
                           std::string_view title) {
  if (!finite(x, y, width, height) || width < 0 || height < 0) return;
  body_ += "<rect" + coordinate("x", x) + coordinate("y", y) + coordinate("width", width) +
           coordinate("height", height) + std::string(style) + with_title("rect", title) + "\n";
}

void SvgDrawing::circle(double x, double y, double radius, std::string_view style, std::string_view title) {
  if (!finite(x, y, radius)) return;
  body_ += "<circle" + coordinate("cx", x) + coordinate("cy", y) + coordinate("r", radius) + std::string(style) +
           with_title("circle", title) + "\n";
}

void SvgDrawing::text(double x, double y, std::string_view content, std::string_view style) {
  if (!finite(x, y)) return;
  body_ +=
      "<text" + coordinate("x", x) + coordinate("y", y) + std::string(style) + ">" + content_of(content) + "</text>\n";
}

void SvgDrawing::path(const Series& points, std::string_view style) {
  std::string data;
  bool open = false;
  for (std::size_t i = 0; i < points.x.size(); ++i) {
    if (!finite(points.x[i], points.y[i])) {
      open = false;
      continue;
    }
    data += (open ? " " : "M") + pixel(points.x[i]) + "," + pixel(points.y[i]);
    const bool last = i + 1 == points.x.size() || !finite(points.x[i + 1], points.y[i + 1]);
    if (!open && last) data += "h0.1";  // with round caps: a dot
    open = true;
  }
  if (data.empty()) return;
  body_ += "<path" + svg_attribute("d", data) + svg_attribute("fill", "none") + std::string(style) + "/>\n";
}

void SvgDrawing::open_group(std::string_view style) { body_ += "<g" + std::string(style) + ">\n"; }

void SvgDrawing::close_group() { body_ += "</g>\n"; }

std::string SvgDrawing::finish(std::string_view label, bool standalone, std::string_view comment) const {
  std::string text = standalone ? "<svg xmlns=\"http://www.w3.org/2000/svg\"" : "<svg";
  text += svg_attribute("viewBox", "0 0 " + pixel(width_) + " " + pixel(height_)) + coordinate("width", width_) +
          coordinate("height", height_) + svg_attribute("role", "img") + svg_attribute("aria-label", label) +
          svg_attribute("font-family", standalone ? "Helvetica, Arial, sans-serif" : "inherit") + ">\n";
  if (!comment.empty()) text += "<!-- " + std::string(comment) + " -->\n";
  return text + "<title>" + content_of(label) + "</title>\n" + body_ + "</svg>\n";
}

void draw_y_axis(SvgDrawing& drawing, const SvgPanel& panel, const SvgTheme& theme, const std::vector<double>& ticks) {
  for (const double tick : ticks) {
    const double y = panel.y(tick);
    drawing.line(panel.left(), y, panel.right(), y, svg_attribute("stroke", theme.grid));
    drawing.text(
        panel.left() - 7, y + 4, tick_label(tick),
        svg_attribute("text-anchor", "end") + svg_attribute("font-size", "12") + svg_attribute("fill", theme.soft));
  }
}

void draw_x_axis(SvgDrawing& drawing, const SvgPanel& panel, const SvgTheme& theme, const std::vector<double>& ticks,
                 const std::vector<std::string>& labels) {
  const std::string stroke = svg_attribute("stroke", theme.soft);
  drawing.line(panel.left(), panel.bottom(), panel.right(), panel.bottom(), stroke);
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    const double x = panel.x(ticks[i]);
    drawing.line(x, panel.bottom(), x, panel.bottom() + 4, stroke);
    if (i < labels.size())
      drawing.text(x, panel.bottom() + 18, labels[i],
                   svg_attribute("text-anchor", "middle") + svg_attribute("font-size", "12") +
                       svg_attribute("fill", theme.soft));
  }
}

Series in_pixels(const SvgPanel& panel, const Series& series) {
  Series result;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    result.x.push_back(panel.x(series.x[i]));
    result.y.push_back(panel.y(series.y[i]));
  }
  return result;
}

Series as_steps(const Series& series) {
  Series result;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    // A value that stays needs no point of its own, but for the last.
    const bool same = i > 0 && i + 1 < series.x.size() && series.y[i] == series.y[i - 1];
    if (same) continue;
    if (i > 0) {
      result.x.push_back(series.x[i]);
      result.y.push_back(series.y[i - 1]);
    }
    result.x.push_back(series.x[i]);
    result.y.push_back(series.y[i]);
  }
  return result;
}

}  // namespace sinkscope
