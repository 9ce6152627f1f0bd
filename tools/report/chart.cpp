#include "tools/report/chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "tools/report/format.h"

namespace sinkscope {
namespace {

constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr std::size_t kEighths = 8;  // that a character has levels
constexpr std::size_t kFewestColumns = 10;
constexpr double kHeadroom = 1.2;

std::string right_aligned(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text_width(text)), ' ') + text;
}

}  // namespace

std::vector<double> resample(std::span<const std::int64_t> steps, std::span<const double> values, std::size_t columns) {
  std::vector<double> result = resample_between(steps, values, steps.front(), steps.back(), columns);
  if (steps.size() == 1) std::fill(result.begin(), result.end(), values.front());
  return result;
}

std::vector<double> resample_between(std::span<const std::int64_t> steps, std::span<const double> values,
                                     std::int64_t from, std::int64_t to, std::size_t columns) {
  const auto first = static_cast<double>(from);
  const double column_steps = (static_cast<double>(to) - first) / static_cast<double>(columns);
  std::vector<double> result;
  std::size_t next = 0;  // the first value at or after the column's begin
  for (std::size_t column = 0; column < columns; ++column) {
    const double end = first + column_steps * static_cast<double>(column + 1);
    double sum = 0;
    std::size_t count = 0;
    for (; next < values.size() && (column + 1 == columns || static_cast<double>(steps[next]) < end); ++next, ++count)
      sum += values[next];
    if (count > 0) {
      result.push_back(sum / static_cast<double>(count));
      continue;
    }
    if (next == 0 || next == values.size()) {
      result.push_back(std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    const auto left = static_cast<double>(steps[next - 1]), right = static_cast<double>(steps[next]);
    const double share = (end - column_steps / 2 - left) / (right - left);
    result.push_back(values[next - 1] + share * (values[next] - values[next - 1]));
  }
  return result;
}

std::string sparkline(std::span<const double> values) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  std::string text;
  for (const double value : values) {
    if (!std::isfinite(value)) {
      text += kBlocks[0];
      continue;
    }
    const double share = high > low ? (value - low) / (high - low) : 0.5;
    text += kBlocks[1 + static_cast<std::size_t>(std::llround(share * static_cast<double>(kEighths - 1)))];
  }
  return text;
}

std::string block_chart(std::span<const std::int64_t> steps, std::span<const double> values, double mark,
                        std::size_t rows, std::size_t width) {
  double top = kHeadroom * mark;  // so that the mark is never in the top row, which bears the largest value
  for (const double value : values)
    if (std::isfinite(value)) top = std::max(top, value);
  const auto marked_row = std::min(rows - 1, static_cast<std::size_t>(mark / top * static_cast<double>(rows)));
  const std::string top_label = format_number(top), mark_label = format_number(mark);
  const std::size_t label_width = std::max({text_width(top_label), text_width(mark_label), std::size_t{1}});
  const std::size_t frame = label_width + 2;  // "LABEL ┤"
  const std::size_t columns = std::max(kFewestColumns, width > frame ? width - frame : 0);
  const std::vector<double> curve = resample(steps, values, columns);

  std::string text;
  for (std::size_t row = rows; row-- > 0;) {
    const std::string label = row + 1 == rows ? top_label : row == marked_row ? mark_label : row == 0 ? "0" : "";
    std::string line = right_aligned(label, label_width) + (label.empty() ? " │" : " ┤");
    for (const double value : curve) {
      if (!std::isfinite(value)) {
        line += row == 0 ? "?" : " ";
        continue;
      }
      const auto eighths = static_cast<std::int64_t>(std::llround(value / top * static_cast<double>(rows * kEighths)));
      const auto level = std::clamp<std::int64_t>(eighths - static_cast<std::int64_t>(row * kEighths), 0, kEighths);
      line += level == 0 && row == marked_row ? "┄" : kBlocks[static_cast<std::size_t>(level)];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  const std::string from = std::to_string(steps.front()), to = std::to_string(steps.back());
  text += std::string(frame, ' ') + from;
  if (from.size() + to.size() < columns) text += std::string(columns - from.size() - to.size(), ' ') + to;
  return text + "\n";
}

}  // namespace sinkscope
