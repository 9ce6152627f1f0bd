// Members of a log's line by key, without parsing what is not wanted of it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

/// The JSON object `line` with only the members that `wanted` picks by key and by the text of the value, in their order
/// and as they are written: a long list that nobody asks for costs a search for its end. What is dropped is not checked,
/// and keys with escapes are kept. Text that is no JSON object comes back whole, for the parser to say what is wrong.
std::string keep_members(std::string_view line,
                         const std::function<bool(std::string_view key, std::string_view value)>& wanted);

/// The numbers of a JSON list that holds nothing else, read without building JSON of them; else nothing.
std::optional<std::vector<double>> number_list(std::string_view text);

}  // namespace sinkscope
