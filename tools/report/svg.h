// Static SVG drawings: scales, axes, lines and bars. What is not a finite number is never written: an element with such
// a coordinate is left out, a path breaks there.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tools/report/series.h"

namespace sinkscope {

/// Colours of what is not data, as an SVG attribute takes them ("#333", "var(--ink)").
struct SvgTheme {
  std::string ink, soft, grid;
};

/// Values to pixels, linear or logarithmic.
class SvgScale {
 public:
  /// `low` is drawn at pixel `from`, `high` at `to`. Throws std::invalid_argument unless low < high, both finite, and
  /// low > 0 where logarithmic.
  SvgScale(double low, double high, double from, double to, bool logarithmic = false);
  /// NaN for what the scale has no place for: what is not finite, what is not positive where it is logarithmic.
  double operator()(double value) const;
  /// As operator(), with what lies beyond an end drawn at it.
  double clamped(double value) const;
  /// Round values within the range: near `about` of them where linear, 1-2-5 or powers of ten where logarithmic.
  std::vector<double> ticks(std::size_t about) const;
  double low() const { return low_; }
  double high() const { return high_; }
  double from() const { return from_; }
  double to() const { return to_; }

 private:
  double low_, high_, from_, to_;
  bool logarithmic_;
};

/// A range that holds the finite values (positive ones where logarithmic) with some room around them; 0..1, or 1..10,
/// without any.
struct SvgRange {
  double low = 0, high = 1;
};
SvgRange svg_range(const std::vector<double>& values, bool logarithmic = false);
/// Whether a logarithmic scale shows these values better: the largest is over `factor` times the smallest positive one.
bool spans_factor(const std::vector<double>& values, double factor);

/// "0.2", "15", "0.001", "20000": a tick's value without digits that say nothing.
std::string tick_label(double value);
/// Pixels that text of this size takes, near enough for a layout.
double svg_text_width(std::string_view text, double font_size);

/// An attribute as it stands in an element: ` name="value"`, escaped.
std::string svg_attribute(std::string_view name, std::string_view value);

/// Elements in the order in which they are drawn. `style` arguments are attributes as they stand (svg_attribute);
/// everything else is escaped here.
class SvgDrawing {
 public:
  SvgDrawing(double width, double height) : width_(width), height_(height) {}

  void line(double x1, double y1, double x2, double y2, std::string_view style);
  /// `title` is shown on hovering, and read aloud.
  void rectangle(double x, double y, double width, double height, std::string_view style, std::string_view title = {});
  void circle(double x, double y, double radius, std::string_view style, std::string_view title = {});
  void text(double x, double y, std::string_view content, std::string_view style);
  /// Through the points, in pixels; NaN in either breaks it. Points with gaps on both sides become dots.
  void path(const Series& points, std::string_view style);
  void open_group(std::string_view style);
  void close_group();
  /// As it stands: definitions.
  void raw(std::string_view elements) { body_ += elements; }

  /// The element, to stand in a page (`standalone` false) or to be a file. `comment` comes first in it.
  std::string finish(std::string_view label, bool standalone, std::string_view comment = {}) const;

 private:
  double width_, height_;
  std::string body_;
};

/// Where a chart's data are drawn; x grows to the right, y upwards.
struct SvgPanel {
  SvgScale x, y;
  double left() const { return x.from(); }
  double right() const { return x.to(); }
  double bottom() const { return y.from(); }
  double top() const { return y.to(); }
};

/// Grid lines and labels at `ticks` of the y axis.
void draw_y_axis(SvgDrawing& drawing, const SvgPanel& panel, const SvgTheme& theme, const std::vector<double>& ticks);
/// The base line, and marks at `ticks`; `labels`, one a tick, may be empty: of panels above one that has them.
void draw_x_axis(SvgDrawing& drawing, const SvgPanel& panel, const SvgTheme& theme, const std::vector<double>& ticks,
                 const std::vector<std::string>& labels);
/// The same series in pixels. What lies outside is the drawing's to clip.
Series in_pixels(const SvgPanel& panel, const Series& series);
/// A step's value up to the next: horizontal from each point to where the next one begins.
Series as_steps(const Series& series);

}  // namespace sinkscope
