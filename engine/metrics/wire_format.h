// The protocol buffers wire format: fields as bytes, a key (field number and wire type) and the value of each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

enum class Wire : std::uint8_t { varint = 0, fixed64 = 1, length = 2, fixed32 = 5 };

/// The lowest `bytes` bytes of a number, lowest first.
std::string little_endian(std::uint64_t value, int bytes);

std::string integer_field(unsigned field, std::int64_t value);
std::string double_field(unsigned field, double value);
std::string float_field(unsigned field, float value);
/// A string, bytes, or a message within this one.
std::string bytes_field(unsigned field, std::string_view bytes);
/// Packed.
std::string doubles_field(unsigned field, const std::vector<double>& values);

}  // namespace sinkscope
