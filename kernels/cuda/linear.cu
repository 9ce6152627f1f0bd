// Plain matrix products through cuBLASLt, fp32 accumulation; bias gradients by our own column sums.
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kColumns = 32;   // vectors of 8 columns a block sums
constexpr int kLanes = 8;      // rows side by side
constexpr std::int64_t kRowsPerBlock = 512;

/// partials[block row, o] = sum of a stretch of rows of dout[:, o].
template <bool Aligned, class T>
__global__ void column_partials_kernel(float* partials, const T* dout, std::int64_t rows, std::int64_t outputs) {
  __shared__ float shared[kLanes][kColumns][kVector];
  const int column = static_cast<int>(threadIdx.x) % kColumns, lane = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t c = (std::int64_t{blockIdx.y} * kColumns + column) * kVector, left = outputs - c;
  const std::int64_t begin = blockIdx.x * kRowsPerBlock;
  const std::int64_t end = begin + kRowsPerBlock < rows ? begin + kRowsPerBlock : rows;
  float acc[kVector] = {};
#pragma unroll 4
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

__global__ void add_columns_kernel(float* dbias, const float* partials, int blocks, std::int64_t outputs) {
  const std::int64_t o = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (o >= outputs) return;
  float sum = 0;
  for (int block = 0; block < blocks; ++block) sum += partials[block * outputs + o];
  dbias[o] += sum;
}

cudaDataType_t data_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// The largest power of two, at most 256, that divides every address.
std::uint32_t common_alignment(std::initializer_list<const void*> pointers) {
  std::uintptr_t bits = 256;
  for (const void* pointer : pointers) bits |= reinterpret_cast<std::uintptr_t>(pointer);
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

template <class T>
void set_attribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t name, const T& value) {
  check_blas(cublasLtMatmulDescSetAttribute(operation, name, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set_preference(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name, const T& value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
}

}  // namespace
}  // namespace cuda

CudaOps::Plan::~Plan() {
  if (a != nullptr) cublasLtMatrixLayoutDestroy(a);
  if (b != nullptr) cublasLtMatrixLayoutDestroy(b);
  if (d != nullptr) cublasLtMatrixLayoutDestroy(d);
  if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
}

CudaOps::Plan& CudaOps::plan(const char* op, const Product& p) {
  std::unique_ptr<Plan>& place = plans_[p];
  if (place) return *place;
  auto made = std::make_unique<Plan>();
  const cudaDataType_t in = cuda::data_type(real_), out = cuda::data_type(p.output);
  const auto u = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  check_blas(cublasLtMatmulDescCreate(&made->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  cuda::set_attribute(made->operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  cuda::set_attribute(made->operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) cuda::set_attribute(made->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  check_blas(cublasLtMatrixLayoutCreate(&made->a, in, u(p.transpose_a ? p.k : p.m), u(p.transpose_a ? p.m : p.k), p.lda),
             "cublasLtMatrixLayoutCreate");
  check_blas(cublasLtMatrixLayoutCreate(&made->b, in, u(p.transpose_b ? p.n : p.k), u(p.transpose_b ? p.k : p.n), p.ldb),
             "cublasLtMatrixLayoutCreate");
  check_blas(cublasLtMatrixLayoutCreate(&made->d, out, u(p.m), u(p.n), p.ldd), "cublasLtMatrixLayoutCreate");

  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(&cublasLtMatmulPreferenceDestroy)> owner(
      preference, &cublasLtMatmulPreferenceDestroy);
  cuda::set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, blas_workspace_bytes_);
  // Reductions over a split k happen in a fixed order, in the workspace; never in place by atomics.
  cuda::set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                       static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    cuda::set_preference(preference, which, p.alignment);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(blas_, made->operation, made->a, made->b, made->d,
                                                               made->d, preference, 1, &result, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0)
    throw std::runtime_error(std::string(op) + ": cuBLASLt has no algorithm for a product of " + std::to_string(p.m) +
                             " x " + std::to_string(p.n) + " x " + std::to_string(p.k) + " (" +
                             cublasLtGetStatusName(status) + ")");
  made->algorithm = result.algo;
  place = std::move(made);
  return *place;
}

void CudaOps::multiply(const char* op, const Product& shape, const void* a, const void* b, void* d, const void* bias) {
  Product product = shape;
  product.bias = bias != nullptr;
  product.alignment = cuda::common_alignment({a, b, d, bias});
  const Plan& found = plan(op, product);
  if (bias != nullptr) cuda::set_attribute(found.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float alpha = 1.0F, beta = product.accumulate ? 1.0F : 0.0F;
  check_blas(cublasLtMatmul(blas_, found.operation, &alpha, a, found.a, b, found.b, &beta, d, found.d, d, found.d,
                            &found.algorithm, blas_workspace_.get(), blas_workspace_bytes_, stream_),
             op);
}

// Row-major tensors are column-major matrices transposed: out (N, O) is an (O, N) matrix there.

void CudaOps::linear_forward(const LinearForward& args) {
  const Check check("linear_forward");
  check.rank("x", args.x, real_, 2);
  check.rank("weight", args.weight, real_, 2);
  const std::int64_t N = args.x.extent(0), I = args.x.extent(1), O = args.weight.extent(0);
  check.shape("weight", args.weight, real_, {O, I});
  check.shape("out", args.out, real_, {N, O});
  check.optional_shape("bias", args.bias, real_, {O});
  check.that(I > 0, "x", "is " + describe(args.x) + ", expected at least one input");
  if (N == 0 || O == 0) return;
  multiply("linear_forward",
           {.m = O, .n = N, .k = I, .transpose_a = true, .transpose_b = false, .lda = I, .ldb = I, .ldd = O, .output = real_},
           args.weight.data, args.x.data, args.out.data, args.bias.data);
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
  if (args.dx && N > 0 && args.dx.extent(1) > 0) {
    const std::int64_t I = args.dx.extent(1);
    if (O == 0) {
      if (!args.accumulate) zero(args.dx);
    } else {
      multiply("linear_backward",
               {.m = I, .n = N, .k = O, .transpose_a = false, .transpose_b = false, .lda = I, .ldb = O, .ldd = I,
                .output = real_, .accumulate = args.accumulate},
               args.weight.data, args.dout.data, args.dx.data, nullptr);
    }
  }
  if (N == 0 || O == 0) return;
  if (args.dweight && args.dweight.extent(1) > 0) {
    const std::int64_t I = args.dweight.extent(1);
    multiply("linear_backward",
             {.m = I, .n = O, .k = N, .transpose_a = false, .transpose_b = true, .lda = I, .ldb = O, .ldd = I,
              .output = DType::f32, .accumulate = true},
             args.x.data, args.dout.data, args.dweight.data, nullptr);
  }
  if (!args.dbias) return;
  const auto blocks = static_cast<unsigned>(cuda::ceil_div(N, cuda::kRowsPerBlock));
  auto* partials = scratch_of<float>(blocks * O);
  const dim3 grid(blocks, static_cast<unsigned>(cuda::ceil_div(O, cuda::kColumns * cuda::kVector)));
  cuda::with_real(real_, [&]<class T>(T) {
    const auto* dout = cuda::pointer<const T>(args.dout);
    cuda::with_bool(cuda::vector_rows(O, dout), [&](auto aligned) {
      cuda::column_partials_kernel<decltype(aligned)::value>
          <<<grid, cuda::kColumns * cuda::kLanes, 0, stream_>>>(partials, dout, N, O);
    });
  });
  check_launch("linear_backward");
  cuda::add_columns_kernel<<<static_cast<unsigned>(cuda::ceil_div(O, 128)), 128, 0, stream_>>>(
      cuda::pointer<float>(args.dbias), partials, static_cast<int>(blocks), O);
  check_launch("linear_backward");
}

}  // namespace sinkscope
