// What the tokenizers share: the hash of a vocabulary, and the checks of texts and ids.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace sinkscope {

/// XXH3-64 over the pieces in the order of their ids, each preceded by its length (u32), so that
/// "a","bc" and "ab","c" differ.
std::uint64_t hash_vocabulary(std::span<const std::string> pieces);

/// 16 lower-case hexadecimal digits, and back; throws std::runtime_error for anything else.
std::string to_hex(std::uint64_t value);
std::uint64_t from_hex(const std::string& digits);

/// Throws std::runtime_error naming the first byte that is no UTF-8.
void require_utf8(std::string_view text);
/// Throws std::runtime_error naming the first id outside [0, vocab_size).
void require_ids(std::span<const std::int32_t> ids, std::int64_t vocab_size);

}  // namespace sinkscope
