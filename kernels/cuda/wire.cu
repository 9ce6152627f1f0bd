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

/// Block (of elements, rank).
template <class To, bool Aligned>
__global__ void __launch_bounds__(kThreads) pack_kernel(To* rows, std::int64_t pitch, const float* x, std::int64_t n, std::int64_t part, int mine) {
  const int rank = static_cast<int>(blockIdx.y);
  if (rank == mine) return;
  const float* in = x + rank * part;
  To* row = rows + rank * pitch;
  const std::int64_t left = n - rank * part, count = left < part ? left : part, stride = std::int64_t{gridDim.x} * kThreads * kVector;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < count; i += stride) {
    float v[kVector];
    if (Aligned && i + kVector <= count) {
      load_vector(in + i, v);
      store_vector(row + i, v);
    } else {
      load_some<false>(in + i, count - i, v);
      store_some<false>(row + i, count - i, v);
    }
  }
}

template <class To>
void pack_parts_as(cudaStream_t stream, const WireRows& rows, const float* x, std::int64_t n, std::int64_t part) {
  const dim3 blocks(grid_of(part, kThreads * kVector, ceil_div(kBlocks, std::int64_t{rows.ranks})), static_cast<unsigned>(rows.ranks));
  auto* to = static_cast<To*>(rows.data);
  if (aligned(rows.data, x) && part % kVector == 0 && rows.pitch % kVector == 0)
    pack_kernel<To, true><<<blocks, kThreads, 0, stream>>>(to, rows.pitch, x, n, part, rows.mine);
  else
    pack_kernel<To, false><<<blocks, kThreads, 0, stream>>>(to, rows.pitch, x, n, part, rows.mine);
}

template <class From, bool Aligned>
__global__ void __launch_bounds__(kThreads)
    add_kernel(float* sums, const float* own, const From* rows, std::int64_t pitch, std::int64_t n, int ranks, int mine) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kVector;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < n; i += stride) {
    const bool whole = Aligned && i + kVector <= n;
    float mine_at[kVector], sum[kVector] = {};
    whole ? load_vector(own + i, mine_at) : load_some<false>(own + i, n - i, mine_at);
    const From* row = rows + i;
    for (int rank = 0; rank < ranks; ++rank, row += pitch) {
      float v[kVector] = {};
      if (rank != mine) whole ? load_vector(row, v) : load_some<false>(row, n - i, v);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const float addend = rank == mine ? mine_at[k] : v[k];
        sum[k] = rank == 0 ? addend : sum[k] + addend;
      }
    }
    whole ? store_vector(sums + i, sum) : store_some<false>(sums + i, n - i, sum);
  }
}

template <class From>
void add_in_rank_order_of(cudaStream_t stream, float* sum, const float* own, const WireRows& rows, std::int64_t n) {
  const unsigned blocks = grid_of(n, kThreads * kVector, kBlocks);
  const auto* from = static_cast<const From*>(rows.data);
  if (aligned(sum, own) && aligned(own, rows.data) && rows.pitch % kVector == 0)
    add_kernel<From, true><<<blocks, kThreads, 0, stream>>>(sum, own, from, rows.pitch, n, rows.ranks, rows.mine);
  else
    add_kernel<From, false><<<blocks, kThreads, 0, stream>>>(sum, own, from, rows.pitch, n, rows.ranks, rows.mine);
}

}  // namespace

void to_wire(cudaStream_t stream, void* wire, const float* x, std::int64_t n) { convert(stream, static_cast<bf16*>(wire), x, n); }

void from_wire(cudaStream_t stream, float* x, const void* wire, std::int64_t n) {
  convert(stream, x, static_cast<const bf16*>(wire), n);
}

void pack_parts(cudaStream_t stream, const WireRows& rows, const float* x, std::int64_t n, std::int64_t part) {
  if (n == 0) return;
  rows.dtype == DType::bf16 ? pack_parts_as<bf16>(stream, rows, x, n, part) : pack_parts_as<float>(stream, rows, x, n, part);
}

void add_in_rank_order(cudaStream_t stream, float* sum, const float* own, const WireRows& rows, std::int64_t n) {
  if (n == 0) return;
  rows.dtype == DType::bf16 ? add_in_rank_order_of<bf16>(stream, sum, own, rows, n) : add_in_rank_order_of<float>(stream, sum, own, rows, n);
}

}  // namespace sinkscope::cuda
