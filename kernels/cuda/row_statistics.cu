// What probe passes ask of hidden states: row norms; maximum and median of magnitudes.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

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

template <class T>
__global__ void __launch_bounds__(kThreads) row_l2_kernel(float* out, const T* x, std::int64_t rows, std::int64_t channels) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= rows) return;
  float squares = 0;
  for (std::int64_t c = threadIdx.x % kWarp; c < channels; c += kWarp) {
    const float value = to_float(x[row * channels + c]);
    squares += value * value;
  }
  squares = warp_sum(squares);
  if (threadIdx.x % kWarp == 0) out[row] = sqrtf(squares);
}

/// The bits of a non-negative float order as the float does, NaN above infinity.
template <class T>
__global__ void magnitude_kernel(std::uint32_t* out, const T* x, std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) out[i] = __float_as_uint(fabsf(to_float(x[i])));
}

/// place = the first i with magnitudes[i] == *highest; the smallest of them, so the order does not matter.
__global__ void first_place_kernel(unsigned long long* place, const std::uint32_t* magnitudes,
                                   const std::uint32_t* highest, std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size && magnitudes[i] == *highest) atomicMin(place, static_cast<unsigned long long>(i));
}

constexpr std::int64_t round_up(std::size_t bytes) { return static_cast<std::int64_t>((bytes + 255) / 256 * 256); }

}  // namespace
}  // namespace cuda

void CudaOps::row_l2(const RowL2& args) {
  const Check check("row_l2");
  check.rank("x", args.x, real_, 2);
  const std::int64_t N = args.x.extent(0), C = args.x.extent(1);
  check.shape("out", args.out, DType::f32, {N});
  if (N == 0) return;
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::row_l2_kernel<<<cuda::grid_of(N, cuda::kThreads / cuda::kWarp, N), cuda::kThreads, 0, stream_>>>(
        cuda::pointer<float>(args.out), cuda::pointer<const T>(args.x), N, C);
  });
  check_launch("row_l2");
}

AbsStatistics CudaOps::abs_statistics(const Tensor& x) {
  const Check check("abs_statistics");
  check.rank("x", x, real_, 2);
  const std::int64_t size = x.size();
  check.that(size > 0, "x", "is " + describe(x) + ", expected at least one element");
  const int count = check.blas_int("x", size);
  std::size_t sort_bytes = 0;
  auto* none = static_cast<std::uint32_t*>(nullptr);
  check_cuda(cub::DeviceRadixSort::SortKeys(nullptr, sort_bytes, none, none, count, 0, 32, stream_), "abs_statistics");
  const std::int64_t values = cuda::round_up(static_cast<std::size_t>(size) * 4);
  std::byte* space = scratch(static_cast<std::size_t>(2 * values + 256 + cuda::round_up(sort_bytes)));
  auto* magnitudes = reinterpret_cast<std::uint32_t*>(space);
  auto* sorted = reinterpret_cast<std::uint32_t*>(space + values);
  auto* place = reinterpret_cast<unsigned long long*>(space + 2 * values);
  const unsigned blocks = cuda::grid_of(size, 256, size);
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::magnitude_kernel<<<blocks, 256, 0, stream_>>>(magnitudes, cuda::pointer<const T>(x), size);
  });
  check_launch("abs_statistics");
  check_cuda(cub::DeviceRadixSort::SortKeys(space + 2 * values + 256, sort_bytes, magnitudes, sorted, count, 0, 32, stream_),
             "abs_statistics: sort");
  check_cuda(cudaMemsetAsync(place, 0xff, sizeof *place, stream_), "abs_statistics");
  cuda::first_place_kernel<<<blocks, 256, 0, stream_>>>(place, magnitudes, sorted + size - 1, size);
  check_launch("abs_statistics");
  unsigned long long found = 0;
  std::uint32_t highest = 0, middle = 0;
  const auto read = [&](void* to, const void* from, std::size_t bytes) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "abs_statistics");
  };
  read(&found, place, sizeof found);
  read(&highest, sorted + size - 1, sizeof highest);
  read(&middle, sorted + (size - 1) / 2, sizeof middle);
  synchronize();
  const auto first = static_cast<std::int64_t>(found);
  return {.max = static_cast<double>(std::bit_cast<float>(highest)),
          .max_row = first / x.extent(1),
          .max_column = first % x.extent(1),
          .median = static_cast<double>(std::bit_cast<float>(middle))};
}

}  // namespace sinkscope
