// The last step of sums over rows: what each block left in memory is added up, in a fixed order.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sinkscope::cuda {

/// out[s][c] += sum over blocks of partials[block, s, c]: first of every kRuns-th block, then over those.
template <int Sums>
struct PartialSums {
  std::array<float*, Sums> out;  // (C) each; null: left out
  const float* partials;         // (blocks, Sums, C)
  std::int64_t blocks, columns;
};

constexpr int kRuns = 32;

template <int Sums>
__global__ void __launch_bounds__(kWarp * kRuns) add_partials_kernel(PartialSums<Sums> sums) {
  __shared__ float runs[kRuns][kWarp];
  const int which = static_cast<int>(blockIdx.y);
  float* out = nullptr;
#pragma unroll
  for (int s = 0; s < Sums; ++s)
    if (s == which) out = sums.out[s];
  if (out == nullptr) return;
  const std::int64_t c = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float sum = 0;
  if (c < sums.columns)
    for (std::int64_t block = threadIdx.y; block < sums.blocks; block += kRuns)
      sum += sums.partials[(block * Sums + which) * sums.columns + c];
  runs[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= sums.columns) return;
  float total = 0;
#pragma unroll
  for (int run = 0; run < kRuns; ++run) total += runs[run][threadIdx.x];
  out[c] += total;
}

template <int Sums>
void add_partials(cudaStream_t stream, const PartialSums<Sums>& sums) {
  const dim3 grid(static_cast<unsigned>(ceil_div(sums.columns, kWarp)), Sums);
  add_partials_kernel<<<grid, dim3(kWarp, kRuns), 0, stream>>>(sums);
}

}  // namespace sinkscope::cuda
