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

/// Rows of a whole that is dealt to ranks: row r has elements [r * part, (r + 1) * part), as far as there are n.
struct Parts {
  std::int64_t n, part;
  int left_out;  // rank, or -1

  __device__ std::int64_t size_of(int rank) const {
    const std::int64_t left = n - rank * part;
    return rank == left_out ? 0 : left < part ? left : part;
  }
};

/// Block (of words, rank): to's row r = from's, of `to_pitch` and `from_pitch` words.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(Word* to, std::int64_t to_pitch, const Word* from, std::int64_t from_pitch, Parts parts) {
  constexpr int kAtATime = 4;
  const int rank = static_cast<int>(blockIdx.y);
  const std::int64_t count = parts.size_of(rank), step = std::int64_t{gridDim.x} * kThreads;
  to += rank * to_pitch;
  from += rank * from_pitch;
  for (std::int64_t first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; first < count;
       first += kAtATime * step) {
    Word words[kAtATime];
#pragma unroll
    for (int k = 0; k < kAtATime; ++k)
      if (first + k * step < count) words[k] = from[first + k * step];
#pragma unroll
    for (int k = 0; k < kAtATime; ++k)
      if (first + k * step < count) to[first + k * step] = words[k];
  }
}

dim3 blocks_of(std::int64_t part, std::int64_t per_block, int ranks) {
  return {grid_of(part, per_block, ceil_div(kBlocks, std::int64_t{ranks})), static_cast<unsigned>(ranks)};
}

/// Of elements of `size` bytes, by words of 16 bytes where rows begin and end with them.
void copy_rows(cudaStream_t stream, void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch,
               const Parts& parts, std::size_t size, int ranks) {
  const auto copy = [&]<class Word>(Word) {
    const auto each = static_cast<std::int64_t>(sizeof(Word) / size);
    const Parts words{.n = parts.n / each, .part = parts.part / each, .left_out = parts.left_out};
    copy_rows_kernel<<<blocks_of(words.part, kThreads, ranks), kThreads, 0, stream>>>(
        static_cast<Word*>(to), to_pitch / each, static_cast<const Word*>(from), from_pitch / each, words);
  };
  const auto bytes = static_cast<std::int64_t>(size);
  const bool whole = parts.n * bytes % 16 == 0 && parts.part * bytes % 16 == 0 && to_pitch * bytes % 16 == 0 &&
                     from_pitch * bytes % 16 == 0;
  if (aligned(to, from) && whole)
    copy(uint4{});
  else if (size == sizeof(float))
    copy(std::uint32_t{});
  else
    copy(std::uint16_t{});
}

/// The same of elements, from type to type; block (of elements, rank).
template <class To, class From, bool Aligned>
__global__ void __launch_bounds__(kThreads)
    convert_rows_kernel(To* to, std::int64_t to_pitch, const From* from, std::int64_t from_pitch, Parts parts) {
  const int rank = static_cast<int>(blockIdx.y);
  const std::int64_t count = parts.size_of(rank), stride = std::int64_t{gridDim.x} * kThreads * kVector;
  to += rank * to_pitch;
  from += rank * from_pitch;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < count; i += stride) {
    float v[kVector];
    if (Aligned && i + kVector <= count) {
      load_vector(from + i, v);
      store_vector(to + i, v);
    } else {
      load_some<false>(from + i, count - i, v);
      store_some<false>(to + i, count - i, v);
    }
  }
}

template <class To, class From>
void convert_rows(cudaStream_t stream, To* to, std::int64_t to_pitch, const From* from, std::int64_t from_pitch,
                  const Parts& parts, int ranks) {
  const dim3 blocks = blocks_of(parts.part, kThreads * kVector, ranks);
  if (aligned(to, from) && (ranks == 1 || (to_pitch % kVector == 0 && from_pitch % kVector == 0)))
    convert_rows_kernel<To, From, true><<<blocks, kThreads, 0, stream>>>(to, to_pitch, from, from_pitch, parts);
  else
    convert_rows_kernel<To, From, false><<<blocks, kThreads, 0, stream>>>(to, to_pitch, from, from_pitch, parts);
}

template <class To, class From>
void convert(cudaStream_t stream, To* to, const From* from, std::int64_t n) {
  if (n > 0) convert_rows(stream, to, n, from, n, {.n = n, .part = n, .left_out = -1}, 1);
}

template <class From, bool Aligned>
__global__ void __launch_bounds__(kThreads) add_kernel(float* sums, const float* own, const From* rows,
                                                       std::int64_t pitch, std::int64_t n, int ranks, int mine) {
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

void to_wire(cudaStream_t stream, void* wire, const float* x, std::int64_t n) {
  convert(stream, static_cast<bf16*>(wire), x, n);
}

void from_wire(cudaStream_t stream, float* x, const void* wire, std::int64_t n) {
  convert(stream, x, static_cast<const bf16*>(wire), n);
}

void pack_parts(cudaStream_t stream, const WireRows& rows, const float* x, std::int64_t n, std::int64_t part) {
  if (n == 0) return;
  const Parts parts{.n = n, .part = part, .left_out = rows.mine};
  if (rows.dtype == DType::bf16)
    convert_rows(stream, static_cast<bf16*>(rows.data), rows.pitch, x, part, parts, rows.ranks);
  else
    copy_rows(stream, rows.data, rows.pitch, x, part, parts, sizeof(float), rows.ranks);
}

void unpack_parts(cudaStream_t stream, void* x, std::int64_t n, std::int64_t part, const WireRows& rows) {
  if (n == 0) return;
  copy_rows(stream, x, part, rows.data, rows.pitch, {.n = n, .part = part, .left_out = -1}, size_of(rows.dtype),
            rows.ranks);
}

void add_in_rank_order(cudaStream_t stream, float* sum, const float* own, const WireRows& rows, std::int64_t n) {
  if (n == 0) return;
  rows.dtype == DType::bf16 ? add_in_rank_order_of<bf16>(stream, sum, own, rows, n)
                            : add_in_rank_order_of<float>(stream, sum, own, rows, n);
}

}  // namespace sinkscope::cuda
