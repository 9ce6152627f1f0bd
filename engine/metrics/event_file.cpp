#include "engine/metrics/event_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <fstream>
#include <stdexcept>

#include "engine/files/replacement.h"
#include "engine/metrics/wire_format.h"

namespace sinkscope {
namespace {

constexpr std::size_t kHeaderBytes = 12;  // length and its checksum
constexpr std::size_t kFooterBytes = 4;

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1U) ^ ((value & 1U) != 0 ? 0x82f63b78U : 0U);
    table[i] = value;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kCrcTable = make_crc_table();

std::uint64_t read_little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = (value << 8U) | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// Takes `count` bytes off the front.
std::string_view take(std::string_view& bytes, std::uint64_t count) {
  if (count > bytes.size()) throw std::runtime_error("the event's message ends early");
  const std::string_view front = bytes.substr(0, count);
  bytes.remove_prefix(count);
  return front;
}

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(bytes, 1)[0]);
    value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
    if (byte < 0x80U) return value;
  }
  throw std::runtime_error("the event's message holds an integer of more than 64 bits");
}

// Field numbers of Event.
constexpr unsigned kWallTime = 1;
constexpr unsigned kStep = 2;
constexpr unsigned kFileVersion = 3;
constexpr unsigned kSummary = 5;
constexpr unsigned kSessionLog = 7;

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t value = 0xffffffffU;
  for (const char byte : bytes) value = (value >> 8U) ^ kCrcTable[(value ^ static_cast<unsigned char>(byte)) & 0xffU];
  return ~value;
}

std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

std::string to_record(std::string_view data) {
  const std::string length = little_endian(data.size(), 8);
  std::string record = length + little_endian(masked_crc32c(length), 4);
  record += data;
  return record + little_endian(masked_crc32c(data), 4);
}

void Summary::add_value(const std::string& tag, const std::string& fields) {
  bytes_ += bytes_field(1, bytes_field(1, tag) + fields);
}

void Summary::add_scalar(const std::string& tag, double value) {
  add_value(tag, float_field(2, static_cast<float>(value)));
}

void Summary::add_histogram(const std::string& tag, const std::vector<double>& values) {
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](double x) { return std::isfinite(x); });
  if (finite.empty()) return;
  const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
  const double lowest = *low;
  // One value alone still needs a bucket that is wider than nothing.
  const double width = std::max(*high - lowest, 1e-12 * std::max(1.0, std::fabs(lowest)));
  constexpr std::size_t kBuckets = 30;
  std::vector<double> limits(kBuckets);
  std::vector<double> counts(kBuckets, 0.0);
  for (std::size_t i = 0; i < kBuckets; ++i)
    limits[i] = lowest + width * static_cast<double>(i + 1) / static_cast<double>(kBuckets);
  double sum = 0;
  double squares = 0;
  for (const double value : finite) {
    const double place = (value - lowest) / width * static_cast<double>(kBuckets);
    counts[std::min(kBuckets - 1, static_cast<std::size_t>(place))] += 1;
    sum += value;
    squares += value * value;
  }
  add_value(tag, bytes_field(5, double_field(1, lowest) + double_field(2, *high) +
                                    double_field(3, static_cast<double>(finite.size())) + double_field(4, sum) +
                                    double_field(5, squares) + doubles_field(6, limits) + doubles_field(7, counts)));
}

void Summary::add_image(const std::string& tag, std::int64_t width, std::int64_t height, const std::string& png) {
  constexpr std::int64_t kRgb = 3;
  add_value(tag, bytes_field(4, integer_field(1, height) + integer_field(2, width) + integer_field(3, kRgb) +
                                    bytes_field(4, png)));
}

void Summary::add_text(const std::string& tag, const std::string& text) {
  constexpr std::int64_t kString = 7;  // DT_STRING
  const std::string metadata = bytes_field(9, bytes_field(1, bytes_field(1, "text")));
  const std::string shape = bytes_field(2, bytes_field(2, integer_field(1, 1)));  // (1)
  add_value(tag, bytes_field(8, integer_field(1, kString) + shape + bytes_field(8, text)) + metadata);
}

void Summary::add_plugin(const std::string& tag, const std::string& plugin, const std::string& content) {
  add_value(tag, bytes_field(9, bytes_field(1, bytes_field(1, plugin) + bytes_field(2, content))));
}

void Summary::add_plugin_text(const std::string& tag, const std::string& plugin, const std::string& text) {
  constexpr std::int64_t kString = 7;  // DT_STRING
  add_value(tag, bytes_field(8, integer_field(1, kString) + bytes_field(2, "") + bytes_field(8, text)) +
                     bytes_field(9, bytes_field(1, bytes_field(1, plugin))));
}

std::string version_event(double seconds) {
  return double_field(kWallTime, seconds) + bytes_field(kFileVersion, "brain.Event:2");
}

std::string summary_event(double seconds, std::int64_t step, const Summary& summary) {
  return double_field(kWallTime, seconds) + integer_field(kStep, step) + bytes_field(kSummary, summary.bytes());
}

std::string restart_event(double seconds, std::int64_t step) {
  constexpr std::int64_t kStart = 1;  // SessionLog::START
  return double_field(kWallTime, seconds) + integer_field(kStep, step) +
         bytes_field(kSessionLog, integer_field(1, kStart));
}

std::int64_t event_step(std::string_view event) {
  std::int64_t step = 0;
  while (!event.empty()) {
    const std::uint64_t field = take_varint(event);
    switch (static_cast<Wire>(field & 7U)) {
      case Wire::varint: {
        const std::uint64_t value = take_varint(event);
        if (field >> 3U == kStep) step = static_cast<std::int64_t>(value);
        break;
      }
      case Wire::fixed64:
        take(event, 8);
        break;
      case Wire::length: {
        const std::uint64_t length = take_varint(event);
        take(event, length);
        break;
      }
      case Wire::fixed32:
        take(event, 4);
        break;
      default:
        throw std::runtime_error("the event's message holds a field of unknown type");
    }
  }
  return step;
}

void drop_later_events(const std::filesystem::path& path, std::int64_t last_step) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + ": cannot open");
  const std::uint64_t size = std::filesystem::file_size(path);
  // TensorBoard reads every file whose name holds "tfevents", so this one must not.
  FileReplacement replacement(path, "rewritten_events.tmp");

  bool drops = false;
  std::string bytes;
  const auto read = [&](std::uint64_t count) {
    bytes.resize(count);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(count)))
      throw std::runtime_error(path.string() + ": cannot read");
    return std::string_view(bytes);
  };
  std::uint64_t at = 0;
  const auto damaged = [&](const std::string& what) {
    throw std::runtime_error(path.string() + ": byte " + std::to_string(at) + ": " + what);
  };
  // What a power cut leaves of pages that were not written, which begin anywhere.
  const auto only_zeros_follow = [&] {
    char byte = 0;
    while (file.get(byte))
      if (byte != 0) return false;
    return true;
  };
  while (at < size) {
    const std::uint64_t rest = size - at;
    if (rest < kHeaderBytes) break;
    const std::string header(read(kHeaderBytes));
    const std::string_view length_bytes = std::string_view(header).substr(0, 8);
    if (read_little_endian(std::string_view(header).substr(8)) != masked_crc32c(length_bytes)) {
      if (header.back() == '\0' && only_zeros_follow()) break;
      damaged("the record's length does not match its checksum");
    }
    const std::uint64_t length = read_little_endian(length_bytes);
    if (length > rest - kHeaderBytes || rest - kHeaderBytes - length < kFooterBytes) break;
    const std::string record = header + std::string(read(length + kFooterBytes));
    const std::string_view data = std::string_view(record).substr(kHeaderBytes, length);
    if (read_little_endian(std::string_view(record).substr(kHeaderBytes + length)) != masked_crc32c(data)) {
      if (record.size() == rest || (record.back() == '\0' && only_zeros_follow())) break;
      damaged("the record does not match its checksum");
    }
    std::int64_t step = 0;
    try {
      step = event_step(data);
    } catch (const std::runtime_error& error) {
      damaged(error.what());
    }
    if (step > last_step) {
      drops = true;
    } else {
      replacement.write(record);
    }
    at += record.size();
  }
  if (drops || at < size) replacement.commit();
}

}  // namespace sinkscope
