// The line of a log with its long lists apart, for readers that want few of them.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

namespace sinkscope {

/// The text of a string member that stands before the list in question; "" where there is none.
using TextOf = std::function<std::string_view(std::string_view key)>;
/// Where the numbers of a list go; null: nobody wants it.
using ListPlace = std::function<std::vector<double>*(std::string_view key, const TextOf& text_of)>;

/// The JSON object `line` less the lists among its members: those of numbers alone go where `place` says, those that it
/// has no place for go nowhere and cost a search for their end, what is in them unchecked; one with something else in
/// it ("NaN", lists) stays a member. Throws as parse_json for what is no JSON; JSON that is no object comes back whole.
nlohmann::ordered_json read_members(std::string_view line, const ListPlace& place);

}  // namespace sinkscope
