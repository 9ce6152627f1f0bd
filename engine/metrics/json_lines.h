// The line format of the logs: one JSON object a line, and what a crash may do to the last of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace sinkscope {

/// The record's line with its newline. Bytes that are not UTF-8 are replaced by U+FFFD.
std::string to_line(const nlohmann::ordered_json& json);

/// The number, or the strings "NaN", "Infinity", "-Infinity", which JSON has no numbers for.
nlohmann::ordered_json number_to_json(double value);

/// The reverse. Throws std::runtime_error naming `key` for what is neither.
double number_from_json(const char* key, const nlohmann::ordered_json& json);

/// Parses JSON text, at most 64 levels deep. Throws std::runtime_error saying what is wrong.
nlohmann::ordered_json parse_json(const std::string& text);

/// Calls `visit(json, text)` for every line of `path`, in order, without the newline. A last line
/// that has no newline and is no JSON object is torn and left out. Throws std::runtime_error naming
/// file and line for any other malformed line, and for whatever std::exception `visit` throws.
/// Returns whether the file ends as it should: empty, or with a newline.
bool for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const nlohmann::ordered_json&, const std::string&)>& visit);

/// Drops the torn end of `path` and every line whose "step" is above `last_step`; the file is replaced
/// in one step, or left alone when nothing is to be dropped. Throws as for_each_json_line.
void drop_later_lines(const std::filesystem::path& path, std::int64_t last_step);

}  // namespace sinkscope
