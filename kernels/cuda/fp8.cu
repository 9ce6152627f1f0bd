// Linear maps with FP8 products. cuBLASLt takes such operands on Hopper only where both have the summed index last, so
// backward needs the transposes of all three: they are rounded and transposed in one pass, and nothing in FP8 is kept
// between operations.
#include "kernels/backend_memory.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

#include <cuda_fp8.h>

#include <stdexcept>
#include <type_traits>

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kItem = 16;       // neighbouring elements of a thread
constexpr std::int64_t kBlocks = 1056;   // eight a multiprocessor of an H100
constexpr int kTileRows = 128, kTileColumns = 64;

using Code = std::uint8_t;  // an FP8 number
template <__nv_fp8_interpretation_t Format>
using FormatOf = std::integral_constant<__nv_fp8_interpretation_t, Format>;

/// The codes of a and b, a's in the lower bits.
template <__nv_fp8_interpretation_t Format>
__device__ inline std::uint32_t codes_of(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, Format);
}

/// x scaled; NaN where x is not finite, which would become the largest number otherwise.
__device__ inline float scaled(float x, float scale) { return fmaf(x, scale, x - x); }

/// The larger magnitudes of two pairs of bf16, as their bits compare: NaN is above infinity, which is above all others.
__device__ inline std::uint32_t larger(std::uint32_t magnitudes, std::uint32_t pair) {
  return __vmaxu2(magnitudes, pair & 0x7fff7fffU);
}

/// Raises amax to the largest of the block's magnitudes.
__device__ inline void raise_amax(float* amax, std::uint32_t magnitudes) {
  __shared__ std::uint32_t largest[kThreads / kWarp];
  const std::uint32_t of_warp = __reduce_max_sync(kAllLanes, max(magnitudes >> 16, magnitudes & 0xffffU));
  if (threadIdx.x % kWarp == 0) largest[threadIdx.x / kWarp] = of_warp;
  __syncthreads();
  if (threadIdx.x != 0) return;
  std::uint32_t most = 0;
  for (const std::uint32_t warp : largest) most = max(most, warp);
  auto* bits = reinterpret_cast<std::uint32_t*>(amax);
  if (most << 16 > *static_cast<volatile std::uint32_t*>(bits)) atomicMax(bits, most << 16);
}

/// out (n) = codes of x (n), n a multiple of 16; amax alone where Write is not set.
template <__nv_fp8_interpretation_t Format, bool Write, bool Aligned>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(Code* out, float* amax, const bf16* x, std::int64_t n, const float* scale) {
  const float factor = Write ? *scale : 0.0F;
  std::uint32_t magnitudes = 0;
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kItem;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kItem; i < n; i += stride) {
    std::uint32_t words[kItem / 4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Packed<bf16> packed = load_packed<Aligned>(x + i + half * kVector, kVector);
#pragma unroll
      for (const std::uint32_t pair : packed.words) magnitudes = larger(magnitudes, pair);
      if constexpr (Write) {
        float v[kVector];
        unpack(packed, v);
#pragma unroll
        for (int j = 0; j < 2; ++j)
          words[2 * half + j] = codes_of<Format>(scaled(v[4 * j], factor), scaled(v[4 * j + 1], factor)) |
                                codes_of<Format>(scaled(v[4 * j + 2], factor), scaled(v[4 * j + 3], factor)) << 16;
      }
    }
    if constexpr (Write) *reinterpret_cast<uint4*>(out + i) = make_uint4(words[0], words[1], words[2], words[3]);
  }
  raise_amax(amax, magnitudes);
}

/// transposed (columns, padded) = codes of x (rows, columns), zeros behind the rows; out (rows, columns) the same codes
/// untransposed, if given. amax is left alone if it is null.
template <__nv_fp8_interpretation_t Format, bool Aligned>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(Code* transposed, Code* out, float* amax, const bf16* x, std::int64_t rows, std::int64_t columns,
                     std::int64_t padded, const float* scale) {
  __shared__ std::uint32_t tile[kTileColumns][kTileRows / 4 + 1];  // four rows a word
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int group = lane % 8, quad = warp * 4 + lane / 8;  // of eight columns, of four rows
  const std::int64_t first_row = std::int64_t{blockIdx.x} * kTileRows,
                     first_column = std::int64_t{blockIdx.y} * kTileColumns;
  const std::int64_t row = first_row + quad * 4, column = first_column + group * kVector;
  const float factor = *scale;
  float v[4][kVector];
  std::uint32_t magnitudes = 0;
  Packed<bf16> packed[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool inside = column < columns && row + i < rows;
    packed[i] = load_packed<Aligned>(x + (row + i) * columns + column, inside ? kVector : 0);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (const std::uint32_t pair : packed[i].words) magnitudes = larger(magnitudes, pair);
    unpack(packed[i], v[i]);
#pragma unroll
    for (float& value : v[i]) value = scaled(value, factor);
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j)
    tile[group * kVector + j][quad] = codes_of<Format>(v[0][j], v[1][j]) | codes_of<Format>(v[2][j], v[3][j]) << 16;
  if (out != nullptr) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (column < columns && row + i < rows)
        *reinterpret_cast<uint2*>(out + (row + i) * columns + column) =
            make_uint2(codes_of<Format>(v[i][0], v[i][1]) | codes_of<Format>(v[i][2], v[i][3]) << 16,
                       codes_of<Format>(v[i][4], v[i][5]) | codes_of<Format>(v[i][6], v[i][7]) << 16);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kTileColumns / (kThreads / kWarp); ++k) {
    const int c = warp * (kTileColumns / (kThreads / kWarp)) + k;
    const std::int64_t r = first_row + 4 * lane;
    if (first_column + c < columns && r < padded)
      *reinterpret_cast<std::uint32_t*>(transposed + (first_column + c) * padded + r) = tile[c][lane];
  }
  if (amax != nullptr) raise_amax(amax, magnitudes);
}

template <class F>
void with_format(bool output_gradient, F&& f) {
  if (output_gradient)
    f(FormatOf<__NV_E5M2>{});
  else
    f(FormatOf<__NV_E4M3>{});
}

/// The codes of x (rows, columns), and its amax.
void quantize(cudaStream_t stream, Code* out, const Fp8Scaling& scaling, const Tensor& x) {
  const auto* from = pointer<const bf16>(x);
  const unsigned blocks = grid_of(x.size(), kThreads * kItem, kBlocks);
  with_bool(vector_rows(x.extent(1), from), [&](auto aligned) {
    with_bool(out != nullptr, [&](auto write) {
      quantize_kernel<__NV_E4M3, decltype(write)::value, decltype(aligned)::value><<<blocks, kThreads, 0, stream>>>(
          out, pointer<float>(scaling.amax), from, x.size(), pointer<const float>(scaling.scale));
    });
  });
}

std::int64_t padded_rows(std::int64_t rows) { return ceil_div(rows, kFp8Multiple) * kFp8Multiple; }

void transpose(cudaStream_t stream, Code* transposed, Code* out, const Fp8Scaling& scaling, const Tensor& x,
               bool output_gradient) {
  const auto* from = pointer<const bf16>(x);
  const std::int64_t rows = x.extent(0), columns = x.extent(1);
  const dim3 grid(static_cast<unsigned>(ceil_div(rows, kTileRows)),
                  static_cast<unsigned>(ceil_div(columns, kTileColumns)));
  with_format(output_gradient, [&](auto format) {
    with_bool(vector_rows(columns, from), [&](auto aligned) {
      transpose_kernel<decltype(format)::value, decltype(aligned)::value>
          <<<grid, kThreads, 0, stream>>>(transposed, out, output_gradient ? pointer<float>(scaling.amax) : nullptr,
                                          from, rows, columns, padded_rows(rows), pointer<const float>(scaling.scale));
    });
  });
}

}  // namespace
}  // namespace cuda

void CudaOps::expect_fp8(const char* op) const {
  if (real_ != DType::bf16)
    throw std::invalid_argument(std::string(op) + ": fp8 is given to a backend of f32, expected one of bf16");
  if (!has_fp8())
    throw std::runtime_error(std::string(op) + ": " + properties_.name + " has no FP8 products: compute capability " +
                             std::to_string(properties_.major) + "." + std::to_string(properties_.minor) +
                             ", expected at least 8.9");
}

bool CudaOps::has_fp8() const {
  return real_ == DType::bf16 && (properties_.major > 8 || (properties_.major == 8 && properties_.minor >= 9));
}

/// Takes amax, and does the product. False: it is to be done without.
bool CudaOps::forward_in_fp8(const LinearForward& args) {
  constexpr const char* kOp = "linear_forward";
  expect_fp8(kOp);
  const std::int64_t N = args.x.extent(0), I = args.x.extent(1), O = args.weight.extent(0);
  auto* x = args.fp8.measure ? nullptr : scratch_of<cuda::Code>(fp8_forward_bytes(N, I, O));
  auto* weight = args.fp8.measure ? nullptr : x + N * I;
  cuda::quantize(stream_, x, args.fp8.x, args.x);
  cuda::quantize(stream_, weight, args.fp8.weight, args.weight);
  check_launch(kOp);
  if (args.fp8.measure) return false;
  multiply(kOp,
           {.m = O, .n = N, .k = I, .transpose_a = true, .transpose_b = false, .lda = I, .ldb = I, .ldd = O,
            .output = real_,
            .operands = ProductOperands::e4m3},
           {weight, x, args.out.data, args.bias.data, nullptr, args.fp8.weight.inverse.data, args.fp8.x.inverse.data});
  if (args.gelu) gelu_forward({.kind = args.gelu_kind, .x = args.out, .out = args.gelu});
  if (args.swiglu) swiglu_forward({.gate_up = args.out, .out = args.swiglu});
  return true;
}

/// Takes amax, and does the products and what belongs to dx. False: they are to be done without.
bool CudaOps::backward_in_fp8(const LinearBackward& args) {
  constexpr const char* kOp = "linear_backward";
  expect_fp8(kOp);
  if (args.fp8.measure) {
    cuda::quantize(stream_, nullptr, args.fp8.dout, args.dout);
    check_launch(kOp);
    return false;
  }
  const std::int64_t N = args.dout.extent(0), O = args.dout.extent(1), I = (args.dx ? args.dx : args.dweight).extent(1);
  const std::int64_t P = cuda::padded_rows(N);
  auto* place = scratch_of<cuda::Code>(fp8_backward_bytes(N, I, O));
  const auto take = [&](std::int64_t bytes) {
    place += bytes;
    return place - bytes;
  };
  auto *dout = take(N * O), *dout_transposed = take(P * O);
  cuda::transpose(stream_, dout_transposed, dout, args.fp8.dout, args.dout, true);
  if (args.dx) {
    auto* weight = take(O * I);
    cuda::transpose(stream_, weight, nullptr, args.fp8.weight, args.weight, false);
    multiply(kOp,
             {.m = I, .n = N, .k = O, .transpose_a = true, .transpose_b = false, .lda = O, .ldb = O, .ldd = I,
              .output = real_, .accumulate = args.accumulate, .operands = ProductOperands::e4m3_e5m2},
             {weight, dout, args.dx.data, nullptr, nullptr, args.fp8.weight.inverse.data, args.fp8.dout.inverse.data});
  }
  if (args.dweight) {
    auto* x = take(P * I);
    cuda::transpose(stream_, x, nullptr, args.fp8.x, args.x, false);
    multiply(
        kOp,
        {.m = I, .n = O, .k = P, .transpose_a = true, .transpose_b = false, .lda = P, .ldb = P, .ldd = I,
         .output = DType::f32, .accumulate = !args.replace, .operands = ProductOperands::e4m3_e5m2},
        {x, dout_transposed, args.dweight.data, nullptr, nullptr, args.fp8.x.inverse.data, args.fp8.dout.inverse.data});
  }
  check_launch(kOp);
  // Its column sums take the scratch memory that operands were in.
  if (args.gelu_input)
    gelu_backward(
        {.kind = args.gelu_kind, .x = args.gelu_input, .dout = args.dx, .dx = args.dx, .dx_sums = args.dx_sums});
  if (args.swiglu_input)
    swiglu_backward({.gate_up = args.swiglu_input, .dout = args.dx, .dgate_up = args.dswiglu_input});
  return true;
}

}  // namespace sinkscope
