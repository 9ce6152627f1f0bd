#include "engine/metrics/wire_format.h"

#include <bit>

namespace sinkscope {
namespace {

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80U; value >>= 7U) out += static_cast<char>((value & 0x7fU) | 0x80U);
  return out + static_cast<char>(value);
}

std::string key(unsigned field, Wire wire) { return varint((field << 3U) | static_cast<unsigned>(wire)); }

}  // namespace

std::string little_endian(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>((value >> (8 * i)) & 0xffU);
  return out;
}

std::string integer_field(unsigned field, std::int64_t value) {
  return key(field, Wire::varint) + varint(static_cast<std::uint64_t>(value));
}
std::string double_field(unsigned field, double value) {
  return key(field, Wire::fixed64) + little_endian(std::bit_cast<std::uint64_t>(value), 8);
}
std::string float_field(unsigned field, float value) {
  return key(field, Wire::fixed32) + little_endian(std::bit_cast<std::uint32_t>(value), 4);
}
std::string bytes_field(unsigned field, std::string_view bytes) {
  return key(field, Wire::length) + varint(bytes.size()) + std::string(bytes);
}
std::string doubles_field(unsigned field, const std::vector<double>& values) {  // packed
  std::string bytes;
  for (const double value : values) bytes += little_endian(std::bit_cast<std::uint64_t>(value), 8);
  return bytes_field(field, bytes);
}

}  // namespace sinkscope
