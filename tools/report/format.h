// Numbers and names as text, for the terminal and for HTML.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();  // where there is no number

/// By one of printf's patterns for a double; at most 63 characters.
std::string printed(const char* pattern, double value);
/// Four significant digits; "NaN", "inf", and "-" for nothing.
std::string format_number(std::optional<double> value);
/// "812", "65.5 k", "4.1 M", "1.64 B".
std::string format_count(std::int64_t value);
/// 12 s, 3.4 min, 2.1 h.
std::string format_seconds(double seconds);
/// A share of 1 in percent: "3.100 %"; a relative change with its sign: "+3.100 %".
std::string format_percent(double share);
std::string format_change(double change);

/// "a, b, c".
std::string joined(const std::vector<std::string>& parts, const char* separator = ", ");
/// The text with & < > " ' as entities: safe as HTML content and in quoted attributes.
std::string escape_html(std::string_view text);
/// Code points of UTF-8 text: its width in a terminal, near enough.
std::size_t text_width(std::string_view text);
/// Columns as wide as their widest cell, all flush left; a line a row.
std::string text_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace sinkscope
