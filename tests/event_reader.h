// Reads TensorBoard event files back, for tests. Every length and checksum is checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace sinkscope::test {

/// A message as its fields in order; numbers as their raw little-endian bytes, integers as text.
using Fields = std::vector<std::pair<unsigned, std::string>>;

std::uint64_t little_endian(const std::string& bytes, std::size_t at, std::size_t count);
double double_at(const std::string& bytes, std::size_t at);
Fields fields_of(const std::string& message);
/// The first field of that number; empty when there is none.
std::string field(const std::string& message, unsigned number);
/// The data of every record of a file.
std::vector<std::string> records_of(const std::string& file);
std::int64_t step_of(const std::string& event);
/// Tag to value message of one event's summary.
std::map<std::string, std::string> values_of(const std::string& event);
double scalar(const std::string& value);
/// A run's event files, and the events of all of them, in the order in which TensorBoard reads them.
std::vector<std::filesystem::path> event_files(const std::filesystem::path& run);
std::vector<std::string> events_of(const std::filesystem::path& run);
/// A line "step: tags" for every event that holds values, resumes left out: what a run shows and when.
std::vector<std::string> event_outline(const std::filesystem::path& run);

}  // namespace sinkscope::test
