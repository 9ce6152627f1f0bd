// Embedding lookup, and its gradient without atomics: tokens are sorted (stably, so equal tokens keep their order),
// then each distinct token's rows are added up in order, by a warp for some channels. Long runs are cut where the
// sorted rows are a multiple of kPiece, since a text's commonest token has up to a fifth of them.
#include <cub/device/device_radix_sort.cuh>

#include <algorithm>
#include <bit>

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

constexpr int kThreads = 256, kTokenThreads = 128;
constexpr int kColumns = kWarp;          // vectors of eight channels, of a warp or a block
constexpr int kLanes = kThreads / kColumns;  // rows it reads side by side
constexpr std::int64_t kPiece = kEmbeddingPiece;

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

/// Adds the lanes' sums in order; the first lane gets them.
__device__ void combine_lanes(float (*shared)[kColumns][kVector], float (&acc)[kVector]) {
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
#pragma unroll
  for (int j = 0; j < kVector; ++j) shared[lane][column][j] = acc[j];
  __syncthreads();
  if (lane != 0) return;
#pragma unroll
  for (int j = 0; j < kVector; ++j)
    for (int i = 1; i < kLanes; ++i) acc[j] += shared[i][column][j];
}

/// out[0..8) += acc, but for elements from `left` on, which do not exist.
__device__ void add_to(float* out, const float (&acc)[kVector], std::int64_t left) {
#pragma unroll
  for (int j = 0; j < kVector; ++j)
    if (j < left) out[j] += acc[j];
}

/// Sums of pieces of runs, (pieces, C) each: of the run that goes on from the piece before, and of one that begins in
/// the piece and goes on in the next.
struct PieceSums {
  float *continued, *begun;
};

/// The first place from begin + 1 on whose token is another than that at `begin`, or `end`; found by a warp.
__device__ std::int64_t end_of_run(const std::int32_t* sorted, std::int64_t begin, std::int64_t end,
                                   std::int32_t token) {
  for (std::int64_t first = begin + 1; first < end; first += kWarp) {
    const std::int64_t place = first + threadIdx.x % kWarp;
    const unsigned others = __ballot_sync(kAllLanes, place >= end || sorted[place] != token);
    if (others != 0) return first + __ffs(static_cast<int>(others)) - 1;
  }
  return end;
}

/// Warp per place in the sorted tokens where a run of equal tokens begins, or a piece inside of one, and Vectors x 256
/// channels; others leave at once. It adds up the run's rows in order.
template <int Vectors, bool Aligned, class T>
__global__ void __launch_bounds__(kTokenThreads)
    token_gradient_kernel(float* dwte, PieceSums sums, const T* dout, const std::int32_t* sorted,
                          const std::int32_t* order, std::int64_t rows, std::int64_t channels) {
  const std::int64_t begin = std::int64_t{blockIdx.x} * (kTokenThreads / kWarp) + threadIdx.x / kWarp;
  if (begin >= rows) return;
  const std::int32_t token = sorted[begin];
  const bool begins = begin == 0 || sorted[begin - 1] != token;
  if (!begins && begin % kPiece != 0) return;
  // The piece ends at the next multiple of kPiece, or at the first place before it that holds a larger token.
  const std::int64_t piece = begin / kPiece, next = (piece + 1) * kPiece;
  const std::int64_t end = end_of_run(sorted, begin, next < rows ? next : rows, token);
  const bool whole = begins && !(end == next && next < rows && sorted[next] == token);
  float* out = whole ? dwte + token * channels : (begins ? sums.begun : sums.continued) + piece * channels;
  float acc[Vectors][kVector] = {};
  const auto column = [&](int v) {
    return ((std::int64_t{blockIdx.y} * Vectors + v) * kColumns + threadIdx.x % kWarp) * kVector;
  };
#pragma unroll 8
  for (std::int64_t i = begin; i < end; ++i) {
    const T* row = dout + order[i] * channels;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      float x[kVector];
      load_some<Aligned>(row + column(v), channels - column(v), x);
#pragma unroll
      for (int j = 0; j < kVector; ++j) acc[v][j] += x[j];
    }
  }
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t c = column(v), left = channels - c;
    if (whole) {
      float before[kVector];
      load_some<Aligned>(out + c, left, before);
#pragma unroll
      for (int j = 0; j < kVector; ++j) acc[v][j] += before[j];
    }
    store_some<Aligned>(out + c, left, acc[v]);
  }
}

/// Block per piece but the last, and 256 channels: adds up the pieces of the run that begins in it and goes on.
__global__ void __launch_bounds__(kColumns* kVector)
    long_run_kernel(float* dwte, PieceSums sums, const std::int32_t* sorted, std::int64_t rows, std::int64_t channels) {
  const std::int64_t piece = blockIdx.x, c = std::int64_t{blockIdx.y} * kColumns * kVector + threadIdx.x;
  std::int64_t next = (piece + 1) * kPiece;
  const std::int32_t token = sorted[next];
  const bool begins = piece == 0 || sorted[piece * kPiece - 1] != token;
  if (sorted[next - 1] != token || !begins || c >= channels) return;
  float sum = sums.begun[piece * channels + c];
#pragma unroll 4
  for (; next < rows && sorted[next] == token; next += kPiece) sum += sums.continued[next / kPiece * channels + c];
  dwte[token * channels + c] += sum;
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
  combine_lanes(shared, acc);
  if (threadIdx.x < kColumns) add_to(dwpe + t * channels + c, acc, channels - c);
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
    check.that(
        args.wpe.extent(0) >= T && args.wpe.extent(1) == C, "wpe",
        "is " + describe(args.wpe) + ", expected at least (" + std::to_string(T) + ", " + std::to_string(C) + ")");
  }
  if (args.norm.out) return norm_rows(check, looked_up_norm(check, args), &args);
  if (N * C == 0) return;
  cuda::with_real(real_, [&]<class R>(R) {
    auto* out = cuda::pointer<R>(args.out);
    const auto* wte = cuda::pointer<const R>(args.wte);
    const auto* wpe = cuda::pointer<const R>(args.wpe);
    const std::int64_t items = N * cuda::ceil_div(C, cuda::kVector);
    cuda::with_bool(cuda::vector_rows(C, out, wte, wpe), [&](auto aligned) {
      cuda::forward_kernel<decltype(aligned)::value>
          <<<cuda::grid_of(items, cuda::kThreads, items), cuda::kThreads, 0, stream_>>>(
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
  check.that(args.dwte.extent(1) == C, "dwte",
             "is " + describe(args.dwte) + ", expected " + std::to_string(C) + " channels");
  if (args.dwpe) {
    check.rank("dwpe", args.dwpe, DType::f32, 2);
    check.that(
        args.dwpe.extent(0) >= T && args.dwpe.extent(1) == C, "dwpe",
        "is " + describe(args.dwpe) + ", expected at least (" + std::to_string(T) + ", " + std::to_string(C) + ")");
  }
  if (N * C == 0) return;
  const int rows = check.blas_int("tokens", N);
  const auto* tokens = cuda::pointer<const std::int32_t>(args.tokens);
  // As many bits as a token has.
  const int bits = std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(args.dwte.extent(0) - 1, 1)));
  std::size_t sort_bytes = 0;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, tokens, static_cast<std::int32_t*>(nullptr),
                                             static_cast<const std::int32_t*>(nullptr),
                                             static_cast<std::int32_t*>(nullptr), rows, 0, bits, stream_),
             "embedding_backward: sort");
  const std::int64_t padded = cuda::ceil_div(N, 64) * 64, pieces = cuda::ceil_div(N, cuda::kPiece);
  auto* identity =
      scratch_of<std::int32_t>(3 * padded + std::max(2 * pieces * C, static_cast<std::int64_t>(sort_bytes / 4 + 64)));
  std::int32_t *order = identity + padded, *sorted = order + padded;
  auto* continued = reinterpret_cast<float*>(sorted + padded);
  const cuda::PieceSums sums{.continued = continued, .begun = continued + pieces * C};
  void* sort_space = continued;  // which is written after the sort
  cuda::iota_kernel<<<cuda::grid_of(N, 256, N), 256, 0, stream_>>>(identity, N);
  check_cuda(cub::DeviceRadixSort::SortPairs(sort_space, sort_bytes, tokens, sorted,
                                             static_cast<const std::int32_t*>(identity), order, rows, 0, bits, stream_),
             "embedding_backward: sort");
  cuda::with_real(real_, [&]<class R>(R) {
    const auto* dout = cuda::pointer<const R>(args.dout);
    cuda::with_bool(cuda::vector_rows(C, dout, cuda::pointer<const float>(args.dwte)), [&](auto aligned) {
      constexpr bool kAligned = decltype(aligned)::value;
      const auto add_tokens = [&]<int Vectors>() {
        const dim3 grid(cuda::grid_of(N, cuda::kTokenThreads / cuda::kWarp, N),
                        static_cast<unsigned>(cuda::ceil_div(C, Vectors * cuda::kColumns * cuda::kVector)));
        cuda::token_gradient_kernel<Vectors, kAligned><<<grid, cuda::kTokenThreads, 0, stream_>>>(
            cuda::pointer<float>(args.dwte), sums, dout, sorted, order, N, C);
      };
      if (C <= cuda::kColumns * cuda::kVector)
        add_tokens.template operator()<1>();
      else
        add_tokens.template operator()<2>();
      if (args.dwpe) {
        const dim3 grid(static_cast<unsigned>(T),
                        static_cast<unsigned>(cuda::ceil_div(C, cuda::kColumns * cuda::kVector)));
        cuda::position_gradient_kernel<kAligned><<<grid, cuda::kThreads, 0, stream_>>>(cuda::pointer<float>(args.dwpe),
                                                                                       dout, B, T, C);
      }
    });
  });
  if (pieces > 1) {
    const dim3 grid(static_cast<unsigned>(pieces - 1),
                    static_cast<unsigned>(cuda::ceil_div(C, cuda::kColumns * cuda::kVector)));
    cuda::long_run_kernel<<<grid, cuda::kColumns * cuda::kVector, 0, stream_>>>(cuda::pointer<float>(args.dwte), sums,
                                                                                sorted, N, C);
  }
  check_launch("embedding_backward");
}

}  // namespace sinkscope
