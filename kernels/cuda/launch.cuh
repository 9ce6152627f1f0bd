// Grid sizes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sinkscope::cuda {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Blocks for `items` of which a block takes `per_block`, at most `limit`; loops in the kernel do the rest.
inline unsigned grid_of(std::int64_t items, std::int64_t per_block, std::int64_t limit = 1 << 20) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(ceil_div(items, per_block), 1, limit));
}

}  // namespace sinkscope::cuda
