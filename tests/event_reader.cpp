#include "tests/event_reader.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <stdexcept>

#include "engine/metrics/event_file.h"
#include "tests/files.h"

namespace sinkscope::test {

std::uint64_t little_endian(const std::string& bytes, std::size_t at, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = count; i-- > 0;) value = (value << 8U) | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

double double_at(const std::string& bytes, std::size_t at) {
  return std::bit_cast<double>(little_endian(bytes, at, 8));
}

namespace {

std::uint64_t take_varint(const std::string& bytes, std::size_t& at) {
  std::uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at(at++));
    value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
    if (byte < 0x80U) return value;
  }
}

}  // namespace

Fields fields_of(const std::string& message) {
  Fields fields;
  std::size_t at = 0;
  while (at < message.size()) {
    const std::uint64_t key = take_varint(message, at);
    const auto number = static_cast<unsigned>(key >> 3U);
    if ((key & 7U) == 0) {
      fields.emplace_back(number, std::to_string(take_varint(message, at)));
      continue;
    }
    const std::size_t size = (key & 7U) == 1 ? 8 : (key & 7U) == 5 ? 4 : take_varint(message, at);
    if (at + size > message.size()) throw std::runtime_error("message ends early");
    fields.emplace_back(number, message.substr(at, size));
    at += size;
  }
  return fields;
}

std::string field(const std::string& message, unsigned number) {
  for (const auto& [found, value] : fields_of(message))
    if (found == number) return value;
  return {};
}

std::vector<std::string> records_of(const std::string& file) {
  const auto expect = [](bool holds) {
    if (!holds) throw std::runtime_error("a record's checksum is wrong");
  };
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) {
    const std::size_t length = little_endian(file, at, 8);
    expect(little_endian(file, at + 8, 4) == masked_crc32c(file.substr(at, 8)));
    records.push_back(file.substr(at + 12, length));
    expect(little_endian(file, at + 12 + length, 4) == masked_crc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

std::int64_t step_of(const std::string& event) {
  const std::string step = field(event, 2);
  return step.empty() ? 0 : std::stoll(step);
}

std::map<std::string, std::string> values_of(const std::string& event) {
  std::map<std::string, std::string> values;
  for (const auto& [number, value] : fields_of(field(event, 5)))
    if (number == 1) values[field(value, 1)] = value;
  return values;
}

double scalar(const std::string& value) {
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(little_endian(field(value, 2), 0, 4))));
}

std::vector<std::filesystem::path> event_files(const std::filesystem::path& run) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(run / "tensorboard")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> events_of(const std::filesystem::path& run) {
  std::vector<std::string> events;
  for (const auto& file : event_files(run))
    for (std::string& record : records_of(read_file(file))) events.push_back(std::move(record));
  return events;
}

std::vector<std::string> event_outline(const std::filesystem::path& run) {
  std::vector<std::string> lines;
  for (const std::string& event : events_of(run)) {
    if (field(event, 5).empty()) continue;
    std::string line = std::to_string(step_of(event)) + ":";
    for (const auto& [tag, value] : values_of(event)) line += " " + tag;
    if (!line.ends_with(" event/resume")) lines.push_back(line);
  }
  return lines;
}

}  // namespace sinkscope::test
