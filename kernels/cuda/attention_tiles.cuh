// Attention on plain fp32 arithmetic, for fp32 and the head dims without tensor core kernels: tiles of 32 queries and
// 32 keys in shared memory, a warp to four rows of one of them and a lane to a row of the other. Any T, D <= 256, both
// compute dtypes.
#pragma once

#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda {

constexpr int kTile = 32;
constexpr int kTileThreads = 256;
constexpr int kRowsPerWarp = kTile / (kTileThreads / kWarp);  // 4
constexpr std::int64_t kMaxHeadDim = 256;

/// Rows of shared tiles are one element apart from a power of two: lanes read different banks.
__host__ __device__ inline int tile_width(int head_dim) { return head_dim + 1; }
inline std::size_t tile_bytes(int head_dim, int tiles) {
  return static_cast<std::size_t>(tiles) * kTile * static_cast<std::size_t>(tile_width(head_dim)) * sizeof(float);
}

/// tile (32, D+1) = rows [first, first + 32) of a head; rows from T on are zeros.
template <class T>
__device__ void load_tile(float* tile, const T* head, std::int64_t stride, std::int64_t first, std::int64_t length,
                          int head_dim) {
  const int width = tile_width(head_dim);
  for (int row = static_cast<int>(threadIdx.x) / kWarp; row < kTile; row += kTileThreads / kWarp)
    for (int d = static_cast<int>(threadIdx.x) % kWarp; d < head_dim; d += kWarp)
      tile[row * width + d] = first + row < length ? to_float(head[(first + row) * stride + d]) : 0.0F;
}

__device__ inline float tile_dot(const float* a, const float* b, int head_dim) {
  float sum = 0;
#pragma unroll 4
  for (int d = 0; d < head_dim; ++d) sum += a[d] * b[d];
  return sum;
}

/// Calls f<Slices> with the number of 32-element slices of D that a lane holds one element of.
template <class F>
void with_slices(std::int64_t head_dim, F&& f) {
  if (head_dim <= 32) return f.template operator()<1>();
  if (head_dim <= 64) return f.template operator()<2>();
  if (head_dim <= 128) return f.template operator()<4>();
  return f.template operator()<8>();
}

/// The layout of checked extents; D over 256 is refused.
inline HeadLayout tile_layout(const Check& check, const Tensor& qkv, const AttentionExtents& extents) {
  check.that(extents.head_dim <= kMaxHeadDim, "qkv",
             "is " + describe(qkv) + ", expected a head dimension of at most " + std::to_string(kMaxHeadDim));
  return head_layout(check, qkv, extents);
}

}  // namespace sinkscope::cuda
