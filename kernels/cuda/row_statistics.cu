// What probe passes ask of hidden states: norms of rows; maximum and median of magnitudes, by counting. Nothing waits.
#include "kernels/backend_memory.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;

/// A warp for each vector; out (selected, rows).
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_l2_kernel(float* out, const T* x, int first, std::int64_t rows, std::int64_t vectors, std::int64_t selected,
                  std::int64_t channels) {
  // Neighbouring warps take neighbouring vectors of a row: what a block reads lies together.
  const std::int64_t i = std::int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const std::int64_t n = i / selected, j = i % selected;
  if (n >= rows) return;
  const T* vector = x + (n * vectors + first + j) * channels;
  float squares = 0;
  for (std::int64_t c = threadIdx.x % kWarp; c < channels; c += kWarp) {
    const float value = to_float(vector[c]);
    squares += value * value;
  }
  squares = warp_sum(squares);
  if (threadIdx.x % kWarp == 0) out[j * rows + n] = sqrtf(squares);
}

// The median of magnitudes: their 31 bits from the top in digits of 13, 13 and 5 bits. Those that share the digits
// known so far with the median are counted by the next digit, and that of the median is where its rank falls. bf16
// fills the upper half of a float: two digits hold all of it. Counts are whole numbers, so no order matters.
// The bits of a non-negative float order as the float does, NaN above infinity.
constexpr int kBins = 1 << 13, kSelectThreads = 1024;
template <class T>
inline constexpr int kDigits = sizeof(T) == sizeof(bf16) ? 2 : 3;
// The lowest bit of a digit.
__host__ __device__ constexpr int digit_begin(int digit) { return digit == 0 ? 18 : digit == 1 ? 5 : 0; }
__host__ __device__ constexpr int digit_bins(int digit) { return digit == 2 ? 1 << 5 : kBins; }

/// Everything that abs_statistics keeps on the device, zeroed first.
struct Selection {
  unsigned long long highest;     // largest magnitude << 32 | 2^32-1 - its first place
  std::uint32_t known;            // the digits of the median known so far, in place
  std::uint32_t rank;             // of the median among the magnitudes that share them
  std::uint32_t counts[3][kBins];
};
static_assert(sizeof(Selection) <= kAbsStatisticsScratch);

__device__ inline unsigned long long larger(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

/// Counts of one digit; with the first also the maximum.
template <int Digit, bool Aligned, class T>
__global__ void __launch_bounds__(kThreads) count_kernel(Selection* selection, const T* x, std::int64_t size) {
  __shared__ std::uint32_t counts[digit_bins(Digit)];
  for (int bin = static_cast<int>(threadIdx.x); bin < digit_bins(Digit); bin += kThreads) counts[bin] = 0;
  __syncthreads();
  const std::uint32_t known = Digit == 0 ? 0 : selection->known;
  unsigned long long highest = 0;
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kVector;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector; i < size; i += stride) {
    float values[kVector];
    load_some<Aligned>(x + i, size - i, values);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (i + v >= size) break;
      const std::uint32_t magnitude = __float_as_uint(fabsf(values[v]));
      if constexpr (Digit == 0) {
        const auto place = static_cast<std::uint32_t>(i + v);
        highest = larger(highest, static_cast<unsigned long long>(magnitude) << 32 | (0xffffffffU - place));
      } else {
        constexpr int kKnownBegin = digit_begin(Digit - 1);
        if (magnitude >> kKnownBegin != known >> kKnownBegin) continue;
      }
      atomicAdd(counts + (magnitude >> digit_begin(Digit)) % digit_bins(Digit), 1U);
    }
  }
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < digit_bins(Digit); bin += kThreads)
    if (counts[bin] > 0) atomicAdd(selection->counts[Digit] + bin, counts[bin]);
  if constexpr (Digit == 0) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      highest = larger(highest, __shfl_xor_sync(kAllLanes, highest, offset));
    if (threadIdx.x % kWarp == 0) atomicMax(&selection->highest, highest);
  }
}

/// One block: the digit of the median, out of its counts. The last digit completes `out` (4) of a matrix of
/// `channels` columns.
template <int Digit, bool Last>
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(Selection* selection, double* out, std::int64_t size, std::int64_t channels) {
  constexpr int kPerThread = digit_bins(Digit) < kSelectThreads ? 1 : digit_bins(Digit) / kSelectThreads;
  __shared__ std::uint32_t warp_counts[kSelectThreads / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int begin = static_cast<int>(threadIdx.x) * kPerThread;
  const auto rank = Digit == 0 ? static_cast<std::uint32_t>((size - 1) / 2) : selection->rank;
  std::uint32_t counts[kPerThread], own = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    counts[i] = begin + i < digit_bins(Digit) ? selection->counts[Digit][begin + i] : 0U;
    own += counts[i];
  }
  std::uint32_t before = own;  // in the threads up to this one, once the loop is done
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == kWarp - 1) warp_counts[warp] = before;
  __syncthreads();  // also: everybody has read the rank
  for (int w = 0; w < warp; ++w) before += warp_counts[w];
  before -= own;
  if (rank < before || rank - before >= own) return;
  std::uint32_t left = rank - before;  // exactly one thread comes here
  int i = 0;
#pragma unroll
  for (int bin = 0; bin < kPerThread - 1; ++bin)
    if (i == bin && left >= counts[bin]) left -= counts[bin], ++i;
  const std::uint32_t digit = static_cast<std::uint32_t>(begin + i) << digit_begin(Digit);
  const std::uint32_t known = Digit == 0 ? digit : selection->known | digit;
  selection->known = known;
  selection->rank = left;
  if constexpr (Last) {
    const auto place = static_cast<std::int64_t>(0xffffffffU - static_cast<std::uint32_t>(selection->highest));
    out[0] = static_cast<double>(__uint_as_float(static_cast<std::uint32_t>(selection->highest >> 32)));
    out[1] = static_cast<double>(place / channels);
    out[2] = static_cast<double>(place % channels);
    out[3] = static_cast<double>(__uint_as_float(known));
  }
}

}  // namespace
}  // namespace cuda

void CudaOps::row_l2(const RowL2& args) {
  const auto [rows, vectors, selected, channels] = check_row_l2(Check("row_l2"), args, real_);
  const std::int64_t norms = rows * selected;
  if (norms == 0) return;
  auto* out = args.out.as<float>();
  const int first = args.first;
  const unsigned blocks = cuda::grid_of(norms, cuda::kThreads / cuda::kWarp, norms);
  if (real_ == DType::bf16)
    cuda::row_l2_kernel<<<blocks, cuda::kThreads, 0, stream_>>>(out, cuda::pointer<const cuda::bf16>(args.x), first,
                                                                rows, vectors, selected, channels);
  else
    cuda::row_l2_kernel<<<blocks, cuda::kThreads, 0, stream_>>>(out, cuda::pointer<const float>(args.x), first, rows,
                                                                vectors, selected, channels);
  check_launch("row_l2");
}

void CudaOps::abs_statistics(const AbsStatistics& args) {
  const Check check("abs_statistics");
  check_abs_statistics(check, args, real_);
  const std::int64_t size = args.x.size(), channels = args.x.extent(1);
  check.blas_int("x", size);  // counts and places have 32 bits
  auto* selection = scratch_of<cuda::Selection>(1);
  auto* out = args.out.as<double>();
  check_cuda(cudaMemsetAsync(selection, 0, sizeof *selection, stream_), "abs_statistics");
  const unsigned blocks = cuda::grid_of(size, cuda::kThreads * cuda::kVector, 4 * properties_.multiProcessorCount);
  cuda::with_real(real_, [&]<class T>(T) {
    constexpr int kDigits = cuda::kDigits<T>;
    const auto* x = cuda::pointer<const T>(args.x);
    const auto digit = [&]<int Digit>(std::integral_constant<int, Digit>) {
      cuda::with_bool(cuda::vector_rows(size, x), [&]<bool Aligned>(std::bool_constant<Aligned>) {
        cuda::count_kernel<Digit, Aligned><<<blocks, cuda::kThreads, 0, stream_>>>(selection, x, size);
      });
      cuda::select_kernel<Digit, Digit + 1 == kDigits>
          <<<1, cuda::kSelectThreads, 0, stream_>>>(selection, out, size, channels);
      check_launch("abs_statistics");
    };
    digit(std::integral_constant<int, 0>{});
    digit(std::integral_constant<int, 1>{});
    if constexpr (kDigits == 3) digit(std::integral_constant<int, 2>{});
  });
}

}  // namespace sinkscope
