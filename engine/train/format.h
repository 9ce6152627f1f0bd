// Lines of numbers for people, by printf's patterns.
#pragma once

#include <array>
#include <cstdio>
#include <string>

namespace sinkscope {

/// At most 255 characters; what is longer is cut off.
template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

}  // namespace sinkscope
