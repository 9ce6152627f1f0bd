#include "engine/metrics/json_members.h"

#include <charconv>
#include <system_error>
#include <utility>

namespace sinkscope {
namespace {

using Place = std::optional<std::size_t>;  // in the text; nothing where it ends too early

std::size_t skip_space(std::string_view text, std::size_t at) {
  const std::size_t next = text.find_first_not_of(" \t\r\n", at);
  return next == std::string_view::npos ? text.size() : next;
}

/// Behind the string whose opening quote is at `at`.
Place string_end(std::string_view text, std::size_t at) {
  for (++at; at < text.size(); ++at) {
    if (text[at] == '"') return at + 1;
    if (text[at] == '\\') ++at;
  }
  return std::nullopt;
}

/// Behind the object or list that opens at `at`.
Place nested_end(std::string_view text, std::size_t at) {
  if (text[at] == '[') {  // a list of numbers, as nearly all of a log is
    const std::size_t close = text.find(']', at);
    if (close == std::string_view::npos) return std::nullopt;
    const auto has = [inside = text.substr(at + 1, close - at - 1)](char c) {
      return inside.find(c) != std::string_view::npos;  // by memchr, as fast as memory
    };
    if (!has('"') && !has('[') && !has('{')) return close + 1;
  }
  int depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      const Place end = string_end(text, at);
      if (!end) return std::nullopt;
      at = *end;
      continue;
    }
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    ++at;
    if (depth == 0) return at;
  }
  return std::nullopt;
}

Place value_end(std::string_view text, std::size_t at) {
  if (at >= text.size()) return std::nullopt;
  if (text[at] == '"') return string_end(text, at);
  if (text[at] == '[' || text[at] == '{') return nested_end(text, at);
  const std::size_t end = text.find_first_of(",}", at);
  if (end == std::string_view::npos || end == at) return std::nullopt;
  return end;
}

}  // namespace

std::string keep_members(std::string_view line, const std::function<bool(std::string_view, std::string_view)>& wanted) {
  std::string kept = "{";
  bool first = true;
  std::size_t at = skip_space(line, 0);
  if (at >= line.size() || line[at] != '{') return std::string(line);
  while (true) {
    at = skip_space(line, at + 1);  // behind '{' or ','
    if (at < line.size() && line[at] == '}' && first) break;  // the empty object
    first = false;
    if (at >= line.size() || line[at] != '"') return std::string(line);
    const Place key_end = string_end(line, at);
    if (!key_end) return std::string(line);
    const std::string_view key = line.substr(at + 1, *key_end - at - 2);
    const std::size_t colon = skip_space(line, *key_end);
    if (colon >= line.size() || line[colon] != ':') return std::string(line);
    const std::size_t value = skip_space(line, colon + 1);
    const Place end = value_end(line, value);
    if (!end) return std::string(line);
    if (key.find('\\') != std::string_view::npos || wanted(key, line.substr(value, *end - value))) {
      if (kept.size() > 1) kept += ',';
      kept += line.substr(at, *end - at);
    }
    at = skip_space(line, *end);
    if (at < line.size() && line[at] == ',') continue;
    if (at < line.size() && line[at] == '}') break;
    return std::string(line);
  }
  if (skip_space(line, at + 1) != line.size()) return std::string(line);
  return kept + '}';
}

std::optional<std::vector<double>> number_list(std::string_view text) {
  std::vector<double> numbers;
  std::size_t at = skip_space(text, 0);
  if (at >= text.size() || text[at] != '[') return std::nullopt;
  at = skip_space(text, at + 1);
  if (at < text.size() && text[at] == ']' && skip_space(text, at + 1) == text.size()) return numbers;
  while (at < text.size()) {
    // from_chars reads "inf" and "nan" as well, which JSON has not.
    const std::size_t digit = at + (text[at] == '-' ? 1 : 0);
    if (digit >= text.size() || text[digit] < '0' || text[digit] > '9') return std::nullopt;
    double number = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), number);
    if (error != std::errc()) return std::nullopt;
    numbers.push_back(number);
    at = skip_space(text, static_cast<std::size_t>(end - text.data()));
    if (at >= text.size()) return std::nullopt;
    if (text[at] == ']') {
      if (skip_space(text, at + 1) != text.size()) return std::nullopt;
      return numbers;
    }
    if (text[at] != ',') return std::nullopt;
    at = skip_space(text, at + 1);
  }
  return std::nullopt;
}

}  // namespace sinkscope
