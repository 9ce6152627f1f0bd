// Words that were mistyped, and those that they may have meant.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace sinkscope {

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other
/// (optimal string alignment).
std::size_t edit_distance(const std::string& a, const std::string& b);

/// Whether one may have been meant by the other: at most a third of the known word's letters differ.
bool is_near(const std::string& typed, const std::string& known);

/// The known word of the least edit distance, the first of several; empty when more than a third of the
/// letters of each would differ.
std::string nearest_word(const std::string& typed, const std::vector<std::string>& known);

}  // namespace sinkscope
