// What the attention passes share: tile sizes, padded copies of one head, and strips of scores.
//
// A pass works on one head of one sequence at a time. Rows are padded with zeros to `rows`, a whole
// number of strips and vectors, and head dimensions to `width`; padded queries and keys add exactly
// zero to every sum. Scores are made a strip of queries against a tile of keys at a time, only up to
// the diagonal.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/tile_gemm.h"

namespace sinkscope {

constexpr std::int64_t kQueryTile = 64;  // multiples of kStripRows and kLanes, so that tiles,
constexpr std::int64_t kKeyTile = 128;   // strips and vectors meet the diagonal together
static_assert(kQueryTile % kLanes == 0 && kKeyTile % kQueryTile == 0 && kLanes % kStripRows == 0);

struct HeadExtents {
  std::int64_t length = 0;    // T
  std::int64_t head_dim = 0;  // D
  std::int64_t rows = 0;      // T padded
  std::int64_t width = 0;     // D padded

  explicit HeadExtents(const AttentionExtents& extents)
      : length(extents.length),
        head_dim(extents.head_dim),
        rows(round_up(extents.length, kLanes)),
        width(round_up(extents.head_dim, kLanes)) {}

  std::int64_t size() const { return rows * width; }
};

/// to (rows, width) = factor * the T vectors at `from`, `stride` apart; zero elsewhere.
inline void gather_head(const HeadExtents& head, const float* from, std::int64_t stride, float factor, float* to) {
  for (std::int64_t t = 0; t < head.length; ++t) {
    const float* source = from + t * stride;
    float* target = to + t * head.width;
#pragma omp simd
    for (std::int64_t d = 0; d < head.head_dim; ++d) target[d] = factor * source[d];
    std::fill(target + head.head_dim, target + head.width, 0.0F);
  }
  std::fill(to + head.length * head.width, to + head.size(), 0.0F);
}

/// to (D, rows) = the transpose of `from` (rows, width).
inline void transpose_head(const HeadExtents& head, const float* from, float* to) {
  for (std::int64_t t = 0; t < head.rows; t += kLanes)
    for (std::int64_t d = 0; d < head.head_dim; ++d)
      for (std::int64_t i = 0; i < kLanes; ++i) to[d * head.rows + t + i] = from[(t + i) * head.width + d];
}

/// The T vectors at `to`, `stride` apart, = factor * from (rows, width).
inline void scatter_head(const HeadExtents& head, const float* from, float factor, float* to, std::int64_t stride) {
  for (std::int64_t t = 0; t < head.length; ++t) {
    const float* source = from + t * head.width;
    float* target = to + t * stride;
#pragma omp simd
    for (std::int64_t d = 0; d < head.head_dim; ++d) target[d] = factor * source[d];
  }
}

/// Keys that the strip of queries starting at `query` needs of the tile starting at `key`: those up
/// to the strip's last query.
inline std::int64_t strip_keys(std::int64_t query, std::int64_t key) {
  return std::min(kKeyTile, query + kStripRows - key);
}

/// Queries of the tile that starts at `query`, padded ones included.
inline std::int64_t tile_queries(const HeadExtents& head, std::int64_t query) {
  return std::min(kQueryTile, head.rows - query);
}

/// products (kStripRows, kKeyTile): rows [query, +kStripRows) of `left` (rows, width) times the keys
/// of the tile at `key` of `right_transposed` (D, rows), for strip_keys() keys and those that fill
/// the last vector.
inline void strip_products(const HeadExtents& head, const float* left, const float* right_transposed,
                           std::int64_t query, std::int64_t key, float* products) {
  strip_gemm<StripOf::rows>(left + query * head.width, head.width, right_transposed + key, head.rows, products,
                            kKeyTile, round_up(strip_keys(query, key), kLanes), head.head_dim, false);
}

}  // namespace sinkscope
