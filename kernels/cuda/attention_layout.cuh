// Where the heads of attention's tensors are.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/launch.cuh"

namespace sinkscope::cuda {

/// Of a (B, T, H+2G, D) tensor of queries, keys and values, and a (B, T, H, D) tensor of outputs.
struct HeadLayout {
  std::int64_t length;   // T
  int query_heads, kv_heads, head_dim;

  __host__ __device__ int row_heads() const { return query_heads + 2 * kv_heads; }
  __host__ __device__ int group() const { return query_heads / kv_heads; }
  /// First element of `head` (of H+2G) of sequence b; rows are `stride()` apart.
  __host__ __device__ std::int64_t offset(std::int64_t b, int head) const {
    return (b * length * row_heads() + head) * head_dim;
  }
  __host__ __device__ std::int64_t stride() const { return std::int64_t{row_heads()} * head_dim; }
  /// The same in a (B, T, H, D) tensor.
  __host__ __device__ std::int64_t out_offset(std::int64_t b, int head) const {
    return (b * length * query_heads + head) * head_dim;
  }
  __host__ __device__ std::int64_t out_stride() const { return std::int64_t{query_heads} * head_dim; }
  __host__ __device__ int key_head(int head) const { return query_heads + head / group(); }
  __host__ __device__ int value_head(int head) const { return query_heads + kv_heads + head / group(); }
  std::int64_t tiles(int rows) const { return ceil_div(length, rows); }
};

/// Query heads in a batch, which are a dimension of grids.
constexpr std::int64_t kMostHeads = 65535;

/// The layout of checked extents.
inline HeadLayout head_layout(const Check& check, const Tensor& qkv, const AttentionExtents& extents) {
  check.that(extents.sequences * extents.query_heads <= kMostHeads, "qkv",
             "is " + describe(qkv) + ", expected at most " + std::to_string(kMostHeads) + " query heads in a batch");
  return {extents.length, static_cast<int>(extents.query_heads), static_cast<int>(extents.kv_heads),
          static_cast<int>(extents.head_dim)};
}

}  // namespace sinkscope::cuda
