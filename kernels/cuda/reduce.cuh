// Sums and maxima over a warp or a block, in a fixed order: the same bits every time.
#pragma once

#include <cuda_runtime.h>

namespace sinkscope::cuda {

constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kWarp = 32;

template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Over the four lanes that hold a row of an accumulator of the tensor cores.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/// The sum of x over a block of Threads threads (a multiple of 32), given to all of them. Ends with
/// every thread past the reads of the shared array, so that calls may follow each other.
template <int Threads, class T>
__device__ inline T block_sum(T x) {
  x = warp_sum(x);
  if constexpr (Threads > kWarp) {
    __shared__ T parts[Threads / kWarp];
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) parts[warp] = x;
    __syncthreads();
    x = parts[0];
#pragma unroll
    for (int i = 1; i < Threads / kWarp; ++i) x += parts[i];
    __syncthreads();
  }
  return x;
}
template <int Threads>
__device__ inline float block_max(float x) {
  x = warp_max(x);
  if constexpr (Threads > kWarp) {
    __shared__ float parts[Threads / kWarp];
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) parts[warp] = x;
    __syncthreads();
    x = parts[0];
#pragma unroll
    for (int i = 1; i < Threads / kWarp; ++i) x = fmaxf(x, parts[i]);
    __syncthreads();
  }
  return x;
}

}  // namespace sinkscope::cuda
