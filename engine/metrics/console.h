// The console sink on any stream and clock; sinks.h has the one on standard output.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "engine/metrics/sinks.h"

namespace sinkscope {

inline constexpr const char* kEraseLine = "\r\x1b[K";  // ECMA-48: to the line's start, erase to its end

using ConsoleClock = std::function<std::chrono::steady_clock::time_point()>;

/// As make_console_sink(options). `output` must outlive the sink; a stream that fails throws
/// std::runtime_error naming `output_name`.
std::unique_ptr<MetricSink> make_console_sink(const ConsoleOptions& options, std::ostream& output,
                                              const std::string& output_name, ConsoleClock clock);

/// `text` on one line, safe to print: control characters and bytes that are not UTF-8 are written
/// as \n, \t or \xNN, so that a sampled text cannot move the cursor or change colours.
std::string printable(std::string_view text);

/// The first characters of printable text, at most so many.
std::string first_columns(std::string_view text, std::size_t columns);

/// "12 s", "3:07" (minutes), "2:03:07" (hours), "4 d 02 h"; "?" for what is negative or not finite.
std::string format_duration(double seconds);

}  // namespace sinkscope
