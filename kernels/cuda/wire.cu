#include "kernels/cuda/wire.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kBlocks = 1056;  // eight a multiprocessor of an H100

bool aligned(const void* a, const void* b) {
  return (reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % 16 == 0;
}

template <class To, class From, bool Aligned>
__global__ void __launch_bounds__(kThreads) convert_kernel(To* out, const From* in, std::int64_t n) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kVector;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < n; i += stride) {
    float v[kVector];
    if (Aligned && i + kVector <= n) {
      load_vector(in + i, v);
      store_vector(out + i, v);
    } else {
      load_some<false>(in + i, n - i, v);
      store_some<false>(out + i, n - i, v);
    }
  }
}

template <class To, class From>
void convert(cudaStream_t stream, To* out, const From* in, std::int64_t n) {
  if (n == 0) return;
  const unsigned blocks = grid_of(n, kThreads * kVector, kBlocks);
  if (aligned(out, in))
    convert_kernel<To, From, true><<<blocks, kThreads, 0, stream>>>(out, in, n);
  else
    convert_kernel<To, From, false><<<blocks, kThreads, 0, stream>>>(out, in, n);
}

template <bool Aligned>
__global__ void __launch_bounds__(kThreads)
    add_kernel(float* own, const bf16* received, std::int64_t n, int ranks, int mine) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kVector;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < n; i += stride) {
    const bool whole = Aligned && i + kVector <= n;
    float mine_at[kVector], sum[kVector] = {};
    whole ? load_vector(own + i, mine_at) : load_some<false>(own + i, n - i, mine_at);
    const bf16* row = received + i;
    for (int rank = 0; rank < ranks; ++rank) {
      float v[kVector] = {};
      if (rank != mine) {
        whole ? load_vector(row, v) : load_some<false>(row, n - i, v);
        row += n;
      }
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const float addend = rank == mine ? mine_at[k] : v[k];
        sum[k] = rank == 0 ? addend : sum[k] + addend;
      }
    }
    whole ? store_vector(own + i, sum) : store_some<false>(own + i, n - i, sum);
  }
}

}  // namespace

void to_wire(cudaStream_t stream, void* wire, const float* x, std::int64_t n) { convert(stream, static_cast<bf16*>(wire), x, n); }

void from_wire(cudaStream_t stream, float* x, const void* wire, std::int64_t n) {
  convert(stream, x, static_cast<const bf16*>(wire), n);
}

void add_in_rank_order(cudaStream_t stream, float* own, const void* received, std::int64_t n, int ranks, int mine) {
  if (n == 0) return;
  const auto* rows = static_cast<const bf16*>(received);
  const unsigned blocks = grid_of(n, kThreads * kVector, kBlocks);
  if (aligned(own, received) && n % kVector == 0)
    add_kernel<true><<<blocks, kThreads, 0, stream>>>(own, rows, n, ranks, mine);
  else
    add_kernel<false><<<blocks, kThreads, 0, stream>>>(own, rows, n, ranks, mine);
}

}  // namespace sinkscope::cuda
