#include "tools/report/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace sinkscope {
std::string printed(const char* pattern, double value) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), pattern, value);
  return buffer.data();
}

std::string format_number(std::optional<double> value) {
  if (!value) return "-";
  if (std::isnan(*value)) return "NaN";
  if (std::isinf(*value)) return *value > 0 ? "inf" : "-inf";
  const double size = std::abs(*value);
  if (size == 0) return "0";
  if (size < 1e-3) return printed("%.2e", *value);
  if (size < 1) return printed("%.4f", *value);
  if (size < 10) return printed("%.3f", *value);
  if (size < 100) return printed("%.2f", *value);
  if (size < 1e5) return printed("%.0f", *value);
  return printed("%.4g", *value);
}

std::string format_count(std::int64_t value) {
  const double number = static_cast<double>(value);
  const double size = std::abs(number);
  if (size < 1e3) return std::to_string(value);
  if (size < 1e6) return printed("%.3g k", number / 1e3);
  if (size < 1e9) return printed("%.3g M", number / 1e6);
  return printed("%.3g B", number / 1e9);
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 120) return printed("%.3g s", seconds);
  if (seconds < 7200) return printed("%.3g min", seconds / 60);
  return printed("%.3g h", seconds / 3600);
}

std::string joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

std::string escape_html(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += c;
    }
  }
  return result;
}

std::size_t text_width(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text)
    if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) ++width;
  return width;
}

std::string format_percent(double share) { return format_number(100 * share) + " %"; }

std::string format_change(double change) { return (change > 0 ? "+" : "") + format_percent(change); }

std::string text_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], text_width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - text_width(row[i]) + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace sinkscope
