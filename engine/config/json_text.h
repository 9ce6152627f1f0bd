// Strict reading of JSON text, and how messages show values.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "engine/config/load.h"

namespace sinkscope {

inline constexpr std::size_t kMaxNesting = 32;

/// The text is no JSON at all (as against JSON that is not accepted).
class JsonSyntaxError : public ConfigError {
 public:
  using ConfigError::ConfigError;
};

/// Parses a whole text. Throws JsonSyntaxError naming origin, line and column (in bytes, from 1);
/// ConfigError for a key given twice, nesting beyond kMaxNesting, integers beyond 64 bits and
/// numbers beyond a double. `path` leads the keys in messages.
nlohmann::ordered_json parse_strict(std::string_view text, const std::string& origin, const std::string& path = {});

/// A value as messages show it, with its type: `the integer 3`, `the string "gpt4"`, `a list`.
std::string describe_value(const nlohmann::ordered_json& value);

/// A string in quotes, control characters and invalid UTF-8 made visible, cut when long.
std::string in_quotes(std::string_view text);

bool is_valid_utf8(const std::string& text);

/// "model" + "layers": "model.layers".
std::string join_path(const std::string& path, std::string_view key);

}  // namespace sinkscope
