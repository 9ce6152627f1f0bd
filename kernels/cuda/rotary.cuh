// Rotary embedding in kernels that have heads in registers or in memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sinkscope::cuda {

/// The rotation of heads (B, T, heads, D), of pairs (d, d + half): CudaOps::rotary.
struct Rotary {
  const float2* table;  // (positions, half): cos and sin
  int half;             // R/2; 0: nothing is rotated
  float sign;           // -1: by minus the angle
  std::int64_t length;  // T
  std::int64_t first_index;  // t of position 0

  /// (half) of a position.
  __device__ const float2* angles_at(std::int64_t position) const {
    return table + (position == 0 ? first_index : position) * half;
  }
  /// (half) of `row` of B*T.
  __device__ const float2* angles(std::int64_t row) const { return angles_at(row % length); }
};

}  // namespace sinkscope::cuda
