// Linear maps: matrix products through cuBLASLt (product.cpp), bias gradients by our own column sums.
#include "kernels/backend_memory.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kColumns = 32;   // of a block, or vectors of 8 columns
constexpr int kLanes = 8;      // rows side by side
constexpr int kThreads = kColumns * kLanes;
constexpr std::int64_t kRowsPerBlock = kBiasRows;

/// partials[block row, o] = sum of a stretch of rows of dout[:, o].
template <bool Aligned, class T>
__global__ void __launch_bounds__(kThreads) column_partials_kernel(float* partials, const T* dout, std::int64_t rows,
                                                                   std::int64_t outputs) {
  __shared__ float shared[kLanes][kColumns][kVector];
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t c = (std::int64_t{blockIdx.y} * kColumns + column) * kVector, left = outputs - c;
  const std::int64_t begin = blockIdx.x * kRowsPerBlock;
  const std::int64_t end = begin + kRowsPerBlock < rows ? begin + kRowsPerBlock : rows;
  float acc[kVector] = {};
#pragma unroll 8
  for (std::int64_t row = begin + lane; row < end; row += kLanes) {
    float x[kVector];
    load_some<Aligned>(dout + row * outputs + c, left, x);
#pragma unroll
    for (int j = 0; j < kVector; ++j) acc[j] += x[j];
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) shared[lane][column][j] = acc[j];
  __syncthreads();
  if (lane != 0) return;
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += shared[i][column][j];
    if (j < left) partials[blockIdx.x * outputs + c + j] = sum;
  }
}

}  // namespace
}  // namespace cuda

// Row-major tensors are column-major matrices transposed: out (N, O) is an (O, N) matrix there.

void CudaOps::linear_forward(const LinearForward& args) {
  const Check check("linear_forward");
  check.rank("x", args.x, real_, 2);
  check.rank("weight", args.weight, real_, 2);
  const std::int64_t N = args.x.extent(0), I = args.x.extent(1), O = args.weight.extent(0);
  check.shape("weight", args.weight, real_, {O, I});
  check.shape("out", args.out, real_, {N, O});
  check.optional_shape("bias", args.bias, real_, {O});
  check_activated(check, args, N, O, real_);
  check.that(I > 0, "x", "is " + describe(args.x) + ", expected at least one input");
  check_fp8(check, args.fp8, I, O);
  if (N == 0 || O == 0) return;
  if (args.fp8 && forward_in_fp8(args)) return;
  Product product{
      .m = O, .n = N, .k = I, .transpose_a = true, .transpose_b = false, .lda = I, .ldb = I, .ldd = O, .output = real_};
  const auto apart = [&] {
    multiply("linear_forward", product, {args.weight.data, args.x.data, args.out.data, args.bias.data});
    if (args.gelu) gelu_forward({.kind = args.gelu_kind, .x = args.out, .out = args.gelu});
    if (args.swiglu) swiglu_forward({.gate_up = args.out, .out = args.swiglu});
  };
  const bool gelu = args.gelu && fuses_gelu(args.gelu_kind, args.out), swiglu = args.swiglu && fuses_swiglu(args.out);
  if (gelu || swiglu) {
    Product fused = product;
    fused.epilogue = gelu ? ProductEpilogue::gelu : ProductEpilogue::swiglu;
    const Operands operands{args.weight.data, args.x.data, (gelu ? args.gelu : args.swiglu).data, args.bias.data,
                            args.out.data};
    if (try_multiply("linear_forward", fused, operands, {apart, [] {}}) != By::nobody) return;
  }
  apart();
}

/// Whether a product may have this GELU in its epilogue, `z` (rows, columns) being what it is of. cuBLASLt and our own
/// kernel have the tanh form.
bool CudaOps::fuses_gelu(GeluKind kind, const Tensor& z) const {
  return kind == GeluKind::tanh && real_ == DType::bf16 &&
         cuda::vector_rows(z.extent(1), cuda::pointer<const cuda::bf16>(z));
}
/// The same of SwiGLU, which our own kernel alone has.
bool CudaOps::fuses_swiglu(const Tensor& z) const {
  return real_ == DType::bf16 && cuda::vector_rows(z.extent(1) / 2, cuda::pointer<const cuda::bf16>(z));
}

void CudaOps::linear_backward(const LinearBackward& args) {
  const Check check("linear_backward");
  check.rank("dout", args.dout, real_, 2);
  const std::int64_t N = args.dout.extent(0), O = args.dout.extent(1);
  if (args.dx) {
    check.rank("dx", args.dx, real_, 2);
    check.shape("dx", args.dx, real_, {N, args.dx.extent(1)});
    check.shape("weight", args.weight, real_, {O, args.dx.extent(1)});
  }
  if (args.dweight) {
    check.rank("dweight", args.dweight, DType::f32, 2);
    check.shape("dweight", args.dweight, DType::f32, {O, args.dweight.extent(1)});
    check.shape("x", args.x, real_, {N, args.dweight.extent(1)});
  }
  check.optional_shape("dbias", args.dbias, DType::f32, {O});
  check_activation_input(check, args, real_);
  check_fp8(check, args);
  const bool in_fp8 =
      args.fp8 && N > 0 && O > 0 && (args.dx ? args.dx : args.dweight).size() > 0 && backward_in_fp8(args);
  if (!in_fp8 && args.dx && N > 0 && args.dx.extent(1) > 0) {
    const std::int64_t I = args.dx.extent(1);
    if (O == 0) {
      if (!args.accumulate) zero(args.swiglu_input ? args.dswiglu_input : args.dx);
    } else {
      Product product{.m = I, .n = N, .k = O, .transpose_a = false, .transpose_b = false, .lda = I, .ldb = O, .ldd = I,
                      .output = real_, .accumulate = args.accumulate};
      const auto multiply_apart = [&] {
        multiply("linear_backward", product, {args.weight.data, args.dout.data, args.dx.data});
      };
      if (args.gelu_input)
        multiply_gelu_gradient(args, product, multiply_apart);
      else if (args.swiglu_input)
        multiply_swiglu_gradient(args, product, multiply_apart);
      else
        multiply_apart();
    }
  }
  if (args.dweight && args.replace && N == 0) zero(args.dweight);
  if (N == 0 || O == 0) return;
  if (!in_fp8 && args.dweight && args.dweight.extent(1) > 0) {
    const std::int64_t I = args.dweight.extent(1);
    multiply("linear_backward",
             {.m = I, .n = O, .k = N, .transpose_a = false, .transpose_b = true, .lda = I, .ldb = O, .ldd = I,
              .output = DType::f32, .accumulate = !args.replace},
             {args.x.data, args.dout.data, args.dweight.data});
  }
  if (args.dbias) add_column_sums("linear_backward", args.dbias, args.dout);
}

/// The part of linear_backward that has gelu_input, by a product with an epilogue or apart: `product` by
/// `multiply_apart`.
void CudaOps::multiply_gelu_gradient(const LinearBackward& args, const Product& product,
                                     const std::function<void()>& multiply_apart) {
  constexpr const char* kOp = "linear_backward";
  const GeluBackward gradient{
      .kind = args.gelu_kind, .x = args.gelu_input, .dout = args.dx, .dx = args.dx, .dx_sums = args.dx_sums};
  if (fuses_gelu(args.gelu_kind, args.gelu_input)) {
    Product fused = product;
    fused.epilogue = ProductEpilogue::gelu_gradient;
    fused.sums = static_cast<bool>(args.dx_sums);
    const auto all = [&] {
      multiply_apart();
      gelu_gradient(gradient);
    };
    const auto after_product = [&] {
      if (args.dx_sums) column_partials(kOp, args.dx);
    };
    Operands operands{args.weight.data, args.dout.data, args.dx.data, nullptr, args.gelu_input.data};
    const std::int64_t parts = cuda::ceil_div(args.dx.extent(0), kOwnSumRows);
    if (args.dx_sums && has_own_kernel(fused)) operands.sums = scratch_of<float>(parts * args.dx.extent(1));
    const By by = try_multiply(kOp, fused, operands, {all, after_product});
    if (by == By::library && args.dx_sums) add_column_sums(kOp, args.dx_sums, args.dx);
    if (by == By::own_kernel && args.dx_sums) add_partials(kOp, args.dx_sums, operands.sums, parts);
    if (by != By::nobody) return;
  }
  multiply_apart();
  gelu_backward(gradient);
}

/// The same with swiglu_input.
void CudaOps::multiply_swiglu_gradient(const LinearBackward& args, const Product& product,
                                       const std::function<void()>& multiply_apart) {
  const auto all = [&] {
    multiply_apart();
    swiglu_backward({.gate_up = args.swiglu_input, .dout = args.dx, .dgate_up = args.dswiglu_input});
  };
  if (fuses_swiglu(args.swiglu_input)) {
    Product fused = product;
    fused.epilogue = ProductEpilogue::swiglu_gradient;
    const Operands operands{args.weight.data, args.dout.data, args.dswiglu_input.data, nullptr, args.swiglu_input.data};
    if (try_multiply("linear_backward", fused, operands, {all, [] {}}) != By::nobody) return;
  }
  all();
}

void CudaOps::add_column_sums(const char* op, const Tensor& sums, const Tensor& x) {
  add_partials(op, sums, column_partials(op, x), cuda::ceil_div(x.extent(0), cuda::kRowsPerBlock));
}

const float* CudaOps::column_partials(const char* op, const Tensor& x) {
  const std::int64_t N = x.extent(0), O = x.extent(1);
  const auto blocks = static_cast<unsigned>(cuda::ceil_div(N, cuda::kRowsPerBlock));
  auto* partials = scratch_of<float>(blocks * O);
  const dim3 grid(blocks, static_cast<unsigned>(cuda::ceil_div(O, cuda::kColumns * cuda::kVector)));
  cuda::with_real(real_, [&]<class T>(T) {
    const auto* rows = cuda::pointer<const T>(x);
    cuda::with_bool(cuda::vector_rows(O, rows), [&](auto aligned) {
      cuda::column_partials_kernel<decltype(aligned)::value>
          <<<grid, cuda::kThreads, 0, stream_>>>(partials, rows, N, O);
    });
  });
  check_launch(op);
  return partials;
}

void CudaOps::add_partials(const char* op, const Tensor& sums, const float* partials, std::int64_t count) {
  cuda::add_partials<1>(stream_, {{cuda::pointer<float>(sums)}, partials, count, sums.size()});
  check_launch(op);
}

}  // namespace sinkscope
