// Embedding lookup, and its gradient without atomics: tokens are sorted (stably, so equal tokens keep
// their order), then each distinct token's rows are added up by one block in a fixed order.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32;             // vectors of a block's channels
constexpr int kLanes = kThreads / kColumns;  // rows it reads side by side

template <bool Aligned, class T>
__global__ void forward_kernel(T* out, const std::int32_t* tokens, const T* wte, const T* wpe, std::int64_t rows,
                               std::int64_t length, std::int64_t channels) {
  const std::int64_t vectors = (channels + kVector - 1) / kVector;
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * vectors) return;
  const std::int64_t row = i / vectors, c = i % vectors * kVector, left = channels - c;
  float x[kVector];
  load_some<Aligned>(wte + tokens[row] * channels + c, left, x);
  if (wpe != nullptr) {
    float position[kVector];
    load_some<Aligned>(wpe + row % length * channels + c, left, position);
#pragma unroll
    for (int j = 0; j < kVector; ++j) x[j] += position[j];
  }
  store_some<Aligned>(out + row * channels + c, left, x);
}

__global__ void iota_kernel(std::int32_t* out, std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) out[i] = static_cast<std::int32_t>(i);
}

/// Adds to acc[0..8) the vectors at column c of rows first, first + step, ... below end, in order.
template <bool Aligned, class T, class Row>
__device__ void add_rows(float (&acc)[kVector], std::int64_t first, std::int64_t end, std::int64_t step, Row&& row,
                         std::int64_t left) {
#pragma unroll 4
  for (std::int64_t i = first; i < end; i += step) {
    float x[kVector];
    load_some<Aligned>(static_cast<const T*>(row(i)), left, x);
#pragma unroll
    for (int j = 0; j < kVector; ++j) acc[j] += x[j];
  }
}

/// Adds the lanes' sums in order and the result to out[0..8), whose elements past `left` do not exist.
__device__ void combine_lanes(float (*shared)[kColumns][kVector], const float (&acc)[kVector], float* out,
                              std::int64_t left) {
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
#pragma unroll
  for (int j = 0; j < kVector; ++j) shared[lane][column][j] = acc[j];
  __syncthreads();
  if (lane == 0) {
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      float sum = 0;
      for (int i = 0; i < kLanes; ++i) sum += shared[i][column][j];
      if (j < left) out[j] += sum;
    }
  }
}

/// Block per place in the sorted tokens where a new token begins; others leave at once.
template <bool Aligned, class T>
__global__ void token_gradient_kernel(float* dwte, const T* dout, const std::int32_t* sorted, const std::int32_t* order,
                                      std::int64_t rows, std::int64_t channels) {
  const std::int64_t begin = blockIdx.x;
  const std::int32_t token = sorted[begin];
  if (begin > 0 && sorted[begin - 1] == token) return;
  std::int64_t low = begin + 1, high = rows;  // the run ends at the first place that holds a larger token
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (sorted[middle] == token)
      low = middle + 1;
    else
      high = middle;
  }
  __shared__ float shared[kLanes][kColumns][kVector];
  for (std::int64_t base = 0; base < channels; base += kColumns * kVector) {
    const std::int64_t c = base + threadIdx.x % kColumns * kVector;
    float acc[kVector] = {};
    add_rows<Aligned, T>(acc, begin + threadIdx.x / kColumns, low, kLanes,
                         [&](std::int64_t i) { return dout + order[i] * channels + c; }, channels - c);
    combine_lanes(shared, acc, dwte + token * channels + c, channels - c);
    __syncthreads();
  }
}

/// Block per position and 256 channels.
template <bool Aligned, class T>
__global__ void position_gradient_kernel(float* dwpe, const T* dout, std::int64_t sequences, std::int64_t length,
                                         std::int64_t channels) {
  __shared__ float shared[kLanes][kColumns][kVector];
  const std::int64_t t = blockIdx.x, c = (std::int64_t{blockIdx.y} * kColumns + threadIdx.x % kColumns) * kVector;
  float acc[kVector] = {};
  add_rows<Aligned, T>(acc, threadIdx.x / kColumns, sequences, kLanes,
                       [&](std::int64_t b) { return dout + (b * length + t) * channels + c; }, channels - c);
  combine_lanes(shared, acc, dwpe + t * channels + c, channels - c);
}

}  // namespace
}  // namespace cuda

void CudaOps::embedding_forward(const EmbeddingForward& args) {
  const Check check("embedding_forward");
  check.rank("tokens", args.tokens, DType::i32, 2);
  const std::int64_t T = args.tokens.extent(1), N = args.tokens.size();
  check.rank("wte", args.wte, real_, 2);
  const std::int64_t C = args.wte.extent(1);
  check.shape("out", args.out, real_, {N, C});
  if (args.wpe) {
    check.rank("wpe", args.wpe, real_, 2);
    check.that(args.wpe.extent(0) >= T && args.wpe.extent(1) == C, "wpe",
               "is " + describe(args.wpe) + ", expected at least (" + std::to_string(T) + ", " + std::to_string(C) + ")");
  }
  if (N * C == 0) return;
  cuda::with_real(real_, [&]<class R>(R) {
    auto* out = cuda::pointer<R>(args.out);
    const auto* wte = cuda::pointer<const R>(args.wte);
    const auto* wpe = cuda::pointer<const R>(args.wpe);
    const std::int64_t items = N * cuda::ceil_div(C, cuda::kVector);
    cuda::with_bool(cuda::vector_rows(C, out, wte, wpe), [&](auto aligned) {
      cuda::forward_kernel<decltype(aligned)::value><<<cuda::grid_of(items, cuda::kThreads, items), cuda::kThreads, 0, stream_>>>(
          out, cuda::pointer<const std::int32_t>(args.tokens), wte, wpe, N, T, C);
    });
  });
  check_launch("embedding_forward");
}

void CudaOps::embedding_backward(const EmbeddingBackward& args) {
  const Check check("embedding_backward");
  check.rank("tokens", args.tokens, DType::i32, 2);
  const std::int64_t B = args.tokens.extent(0), T = args.tokens.extent(1), N = B * T;
  check.rank("dout", args.dout, real_, 2);
  const std::int64_t C = args.dout.extent(1);
  check.shape("dout", args.dout, real_, {N, C});
  check.rank("dwte", args.dwte, DType::f32, 2);
  check.that(args.dwte.extent(1) == C, "dwte", "is " + describe(args.dwte) + ", expected " + std::to_string(C) + " channels");
  if (args.dwpe) {
    check.rank("dwpe", args.dwpe, DType::f32, 2);
    check.that(args.dwpe.extent(0) >= T && args.dwpe.extent(1) == C, "dwpe",
               "is " + describe(args.dwpe) + ", expected at least (" + std::to_string(T) + ", " + std::to_string(C) + ")");
  }
  if (N * C == 0) return;
  const int rows = check.blas_int("tokens", N);
  const auto* tokens = cuda::pointer<const std::int32_t>(args.tokens);
  std::size_t sort_bytes = 0;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, tokens, static_cast<std::int32_t*>(nullptr),
                                             static_cast<const std::int32_t*>(nullptr),
                                             static_cast<std::int32_t*>(nullptr), rows, 0, 32, stream_),
             "embedding_backward: sort");
  const std::int64_t padded = cuda::ceil_div(N, 64) * 64;
  auto* identity = scratch_of<std::int32_t>(3 * padded + static_cast<std::int64_t>(sort_bytes / 4 + 64));
  std::int32_t *order = identity + padded, *sorted = order + padded;
  void* sort_space = sorted + padded;
  cuda::iota_kernel<<<cuda::grid_of(N, 256, N), 256, 0, stream_>>>(identity, N);
  check_cuda(cub::DeviceRadixSort::SortPairs(sort_space, sort_bytes, tokens, sorted,
                                             static_cast<const std::int32_t*>(identity), order, rows, 0, 32, stream_),
             "embedding_backward: sort");
  cuda::with_real(real_, [&]<class R>(R) {
    const auto* dout = cuda::pointer<const R>(args.dout);
    cuda::with_bool(cuda::vector_rows(C, dout), [&](auto aligned) {
      constexpr bool kAligned = decltype(aligned)::value;
      cuda::token_gradient_kernel<kAligned><<<static_cast<unsigned>(N), cuda::kThreads, 0, stream_>>>(
          cuda::pointer<float>(args.dwte), dout, sorted, order, N, C);
      if (args.dwpe) {
        const dim3 grid(static_cast<unsigned>(T), static_cast<unsigned>(cuda::ceil_div(C, cuda::kColumns * cuda::kVector)));
        cuda::position_gradient_kernel<kAligned><<<grid, cuda::kThreads, 0, stream_>>>(cuda::pointer<float>(args.dwpe),
                                                                                       dout, B, T, C);
      }
    });
  });
  check_launch("embedding_backward");
}

}  // namespace sinkscope
