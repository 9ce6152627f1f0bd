// What a configuration key that is not known may have meant.
#pragma once

#include <string>
#include <vector>

#include "engine/config/spec.h"

namespace sinkscope {

/// "a", "b" or "c", each in quotes.
std::string either(const std::vector<std::string>& options);

/// The keys that an unknown path may have meant, none when no guess is a good one. Its parent is taken for the
/// section of that path, of a path that ends with it, or the nearest one; its last part for a key there or, as an
/// abbreviation ("lr", "weight_dec") or the name in other software ("batch_size") too, for one anywhere. `value` is
/// what the path was given: an object means a section, all else a field.
std::vector<std::string> suggestions(const std::string& path, const Json& value);

/// "; did you mean ...?" where a guess is a good one, else "; known here are ..." with the keys of its section.
std::string hint_for(const std::string& path, const Json& value);

}  // namespace sinkscope
