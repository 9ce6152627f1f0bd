// The rows of a warpgroup's (64, D) accumulators, written to memory as bf16, and rotated.
#pragma once

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/sm90/ptx.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda::sm90 {

/// Word k of lane q of four goes to word q of lane k.
__device__ inline void transpose_quad(std::uint32_t (&words)[4], int lane) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const bool high = (lane & bit) != 0;
      const std::uint32_t other = __shfl_xor_sync(kAllLanes, high ? words[i] : words[i | bit], bit);
      if (high) {
        words[i] = other;
      } else {
        words[i | bit] = other;
      }
    }
}

/// Writes c (64, D) times `factor` as bf16 rows `stride` apart, the first `count` of them.
template <int D>
__device__ void write_rows(bf16* rows, std::int64_t stride, const float* c, float factor, int count, int warp,
                           int lane) {
#pragma unroll
  for (int columns = 0; columns < D / 32; ++columns)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp * 16 + lane / 4 + 8 * h;
      std::uint32_t words[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* pair = c + 4 * (4 * columns + k) + 2 * h;
        words[k] = pack_bf16(pair[0] * factor, pair[1] * factor);
      }
      transpose_quad(words, lane);
      if (row < count)
        *reinterpret_cast<uint4*>(rows + row * stride + columns * 32 + lane % 4 * 8) =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
}

/// Rotates c (64, D), rows from `position` on of a sequence, as `rotary` tells, the first `count` of them.
template <int D>
__device__ void rotate_rows(float* c, const Rotary& rotary, int position, int count, int warp, int lane) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp * 16 + lane / 4 + 8 * h;
    if (row >= count) continue;
    // Angles of two columns.
    const auto* angles = reinterpret_cast<const float4*>(rotary.angles_at(position + row)) + lane % 4;
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      const float4 two = angles[4 * j];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &first = c[4 * j + 2 * h + i], &second = c[4 * j + D / 4 + 2 * h + i];
        const float cosine = i == 0 ? two.x : two.z, sine = rotary.sign * (i == 0 ? two.y : two.w), before = first;
        first = before * cosine - second * sine;
        second = second * cosine + before * sine;
      }
    }
  }
}

}  // namespace sinkscope::cuda::sm90
