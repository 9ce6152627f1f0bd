#include "engine/data/vocabulary.h"

#include <xxhash.h>

#include <charconv>
#include <stdexcept>

#include "engine/data/utf8.h"

namespace sinkscope {

std::uint64_t hash_vocabulary(std::span<const std::string> pieces) {
  std::string bytes;
  for (const std::string& piece : pieces) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(piece.size() >> shift & 0xff));
    bytes += piece;
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string to_hex(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = 0; i < 16; ++i) text[15 - i] = kDigits[value >> (4 * i) & 0xf];
  return text;
}

std::uint64_t from_hex(const std::string& digits) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (digits.size() != 16 || error != std::errc() || end != digits.data() + digits.size())
    throw std::runtime_error("expected 16 hexadecimal digits, found \"" + digits + "\"");
  return value;
}

void require_utf8(std::string_view text) {
  if (const auto offset = first_invalid_utf8(text))
    throw std::runtime_error("the text is not valid UTF-8 at byte " + std::to_string(*offset));
}

void require_ids(std::span<const std::int32_t> ids, std::int64_t vocab_size) {
  for (const std::int32_t id : ids)
    if (id < 0 || id >= vocab_size)
      throw std::runtime_error("token " + std::to_string(id) + " is outside the vocabulary of " +
                               std::to_string(vocab_size));
}

}  // namespace sinkscope
