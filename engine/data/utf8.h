// Where a text stops being UTF-8.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace sinkscope {

/// Offset of the first byte that begins no well-formed UTF-8 sequence (Unicode 15, table 3-7:
/// overlong forms, surrogates and values beyond U+10FFFF are ill-formed); none when all is well.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);

/// Does a character begin at `offset`? True at the end of the text as well. For valid UTF-8.
bool begins_character(std::string_view text, std::size_t offset);

}  // namespace sinkscope
