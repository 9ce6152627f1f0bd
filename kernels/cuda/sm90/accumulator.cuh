// What a warpgroup does with the (64, N) accumulators of its products, and how rows of heads lie in shared memory.
#pragma once

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/ptx.cuh"

namespace sinkscope::cuda::sm90 {

/// Rows of a warpgroup; bytes of a row of 64 columns, under a swizzle of 128.
constexpr int kGroupRows = 64, kRowBytes = 128;

/// An accumulator of Count floats a thread as bf16 left factors of 16 columns each.
template <int Count>
__device__ void pack(std::uint32_t* p, const float* c) {
#pragma unroll
  for (int i = 0; i < Count / 2; ++i) p[i] = pack_bf16(c[2 * i], c[2 * i + 1]);
}

/// Into p, which holds c so rounded, what the rounding took off.
template <int Count>
__device__ void pack_rest(std::uint32_t* p, const float* c) {
#pragma unroll
  for (int i = 0; i < Count / 2; ++i)
    p[i] = pack_bf16(c[2 * i] - low_bf16(p[i]), c[2 * i + 1] - high_bf16(p[i]));
}

/// Writes c (64, D), each of a thread's two rows times its factor, as bf16 to rows `first_row` on of a matrix in shared
/// memory whose halves of 64 columns are HalfBytes apart. `warp` is that of the warpgroup.
template <int D, int HalfBytes>
__device__ void stage_rows(unsigned char* matrix, const float* c, const float (&factor)[2], int first_row, int warp,
                           int lane) {
  const int row = first_row + warp * 16 + lane % 16;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    std::uint32_t packed[4];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      packed[j] = pack_bf16(c[8 * step + 2 * j] * factor[j % 2], c[8 * step + 2 * j + 1] * factor[j % 2]);
    const int unit = step % 4 * 2 + lane / 16;
    store_matrices(shared_address(matrix + step / 4 * HalfBytes + row * kRowBytes + ((unit ^ row % 8) << 4)), packed);
  }
}

/// sums (64) = column sums over a warp's rows of an accumulator (64, 64), 32 floats c a thread, times `factor`; of the
/// first `count` of its 16 rows.
__device__ inline void sum_rows(float* sums, const float* c, float factor, int count, int lane) {
  const bool there[2] = {lane / 4 < count, lane / 4 + 8 < count}, upper = (lane & 16) != 0, odd = (lane & 8) != 0;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    // A thread's columns 2 (l % 4), + 1, and 8 further; then over lanes of other rows, of which each half keeps half of
    // the columns.
    float sum[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* rows = c + 8 * step + j / 2 * 4 + j % 2;
      sum[j] = (there[0] ? rows[0] : 0.0F) + (there[1] ? rows[2] : 0.0F);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float sent = upper ? sum[j] : sum[j + 2], kept = upper ? sum[j + 2] : sum[j];
      sum[j] = kept + __shfl_xor_sync(kAllLanes, sent, 16);
    }
    const float sent = odd ? sum[0] : sum[1], kept = odd ? sum[1] : sum[0];
    float total = kept + __shfl_xor_sync(kAllLanes, sent, 8);
    total += __shfl_xor_sync(kAllLanes, total, 4);
    if ((lane & 4) == 0) sums[step * 16 + (upper ? 8 : 0) + lane % 4 * 2 + (odd ? 1 : 0)] = total * factor;
  }
}

/// Begins the store of a warpgroup's rows of such a matrix, `tile_row` on, to row `row` on of a head.
template <int D, int HalfBytes>
__device__ void store_rows(const CUtensorMap& map, const unsigned char* matrix, int tile_row, int head, int row,
                           int b) {
#pragma unroll
  for (int half = 0; half < D / 64; ++half)
    store_box(&map, matrix + half * HalfBytes + tile_row * kRowBytes, head, row, half, b);
}

}  // namespace sinkscope::cuda::sm90
