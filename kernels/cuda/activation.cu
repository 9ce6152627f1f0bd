// GELU, SwiGLU and the plain addition: one pass over memory each.
#include "kernels/backend_memory.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kGeluScale = 0.7978845608028654F;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715F;
constexpr float kNormalDensity = 0.3989422804014327F;  // of 0: 1 / sqrt(2 pi)

__device__ float gelu_tanh(float x) {
  return 0.5F * x * (1.0F + tanhf(kGeluScale * (x + kGeluCubic * x * x * x)));
}
__device__ float gelu_tanh_derivative(float x) {
  const float t = tanhf(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * kGeluScale * (1.0F + 3.0F * kGeluCubic * x * x);
}
// x Phi(x); normcdff loses nothing in the tail on the left.
__device__ float gelu_erf(float x) { return x * normcdff(x); }
__device__ float gelu_erf_derivative(float x) { return normcdff(x) + x * kNormalDensity * expf(-0.5F * x * x); }
__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

/// out[i] = f(a[i], b[i]) over flat arrays, eight elements a thread.
template <bool Aligned, class T, class F>
__global__ void map_kernel(T* out, const T* a, const T* b, std::int64_t size, F f) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kVector;
  if (i >= size) return;
  float x[kVector], y[kVector], z[kVector];
  load_some<Aligned>(a + i, size - i, x);
  load_some<Aligned>(b + i, size - i, y);
#pragma unroll
  for (int j = 0; j < kVector; ++j) z[j] = f(x[j], y[j]);
  store_some<Aligned>(out + i, size - i, z);
}

template <GeluKind Kind>
struct Gelu {
  __device__ float operator()(float x, float) const {
    return Kind == GeluKind::erf ? gelu_erf(x) : gelu_tanh(x);
  }
};
template <GeluKind Kind>
struct GeluGradient {
  __device__ float operator()(float x, float dout) const {
    return dout * (Kind == GeluKind::erf ? gelu_erf_derivative(x) : gelu_tanh_derivative(x));
  }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

template <class T, class F>
void map(cudaStream_t stream, T* out, const T* a, const T* b, std::int64_t size, F f) {
  if (size == 0) return;
  const unsigned blocks = grid_of(size, kThreads * kVector, size);
  with_bool(vector_rows(size, out, a, b), [&](auto aligned) {
    map_kernel<decltype(aligned)::value><<<blocks, kThreads, 0, stream>>>(out, a, b, size, f);
  });
}

constexpr int kSumColumns = 32;  // of a block, vectors of eight columns
constexpr int kSumLanes = kThreads / kSumColumns;  // rows side by side

/// The same over rows of `columns` elements; partials[block row, c] = sum of out[:, c] over a block's kBiasRows rows.
template <bool Aligned, class T, class F>
__global__ void __launch_bounds__(kThreads)
    map_and_sum_kernel(T* out, float* partials, const T* a, const T* b, std::int64_t rows, std::int64_t columns, F f) {
  __shared__ float shared[kSumLanes][kSumColumns][kVector];
  const int column = static_cast<int>(threadIdx.x) % kSumColumns, lane = static_cast<int>(threadIdx.x) / kSumColumns;
  const std::int64_t c = (std::int64_t{blockIdx.y} * kSumColumns + column) * kVector, left = columns - c;
  const std::int64_t end = min((std::int64_t{blockIdx.x} + 1) * kBiasRows, rows);
  float sums[kVector] = {};
  for (std::int64_t row = blockIdx.x * kBiasRows + lane; row < end; row += kSumLanes) {
    float x[kVector], y[kVector], z[kVector];
    load_some<Aligned>(a + row * columns + c, left, x);
    load_some<Aligned>(b + row * columns + c, left, y);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      z[j] = f(x[j], y[j]);
      sums[j] += z[j];
    }
    store_some<Aligned>(out + row * columns + c, left, z);
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) shared[lane][column][j] = sums[j];
  __syncthreads();
  // A thread for each of the block's columns.
  const int own = static_cast<int>(threadIdx.x);
  const std::int64_t at = std::int64_t{blockIdx.y} * kThreads + own;
  if (at >= columns) return;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kSumLanes; ++i) sum += shared[i][own / kVector][own % kVector];
  partials[blockIdx.x * columns + at] = sum;
}
static_assert(kSumColumns * kVector == kThreads);

/// Thread per eight hidden elements of a row; the gate is `width` columns before the up projection.
template <bool Aligned, bool Backward, class T>
__global__ void swiglu_kernel(const T* gate_up, const T* dout, T* out, std::int64_t rows, std::int64_t width) {
  const std::int64_t vectors = (width + kVector - 1) / kVector;
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * vectors) return;
  const std::int64_t row = i / vectors, c = i % vectors * kVector, left = width - c;
  const T* gates = gate_up + row * 2 * width + c;
  float gate[kVector], up[kVector];
  load_some<Aligned>(gates, left, gate);
  load_some<Aligned>(gates + width, left, up);
  if constexpr (!Backward) {
    float value[kVector];
#pragma unroll
    for (int j = 0; j < kVector; ++j) value[j] = gate[j] * sigmoid(gate[j]) * up[j];
    store_some<Aligned>(out + row * width + c, left, value);
  } else {
    float d[kVector], d_gate[kVector], d_up[kVector];
    load_some<Aligned>(dout + row * width + c, left, d);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float s = sigmoid(gate[j]);
      d_up[j] = d[j] * gate[j] * s;
      d_gate[j] = d[j] * up[j] * s * (1.0F + gate[j] * (1.0F - s));
    }
    store_some<Aligned>(out + row * 2 * width + c, left, d_gate);
    store_some<Aligned>(out + row * 2 * width + width + c, left, d_up);
  }
}

template <bool Backward, class T>
void swiglu(cudaStream_t stream, const T* gate_up, const T* dout, T* out, std::int64_t rows, std::int64_t width) {
  if (rows * width == 0) return;
  const std::int64_t items = rows * ceil_div(width, kVector);
  const unsigned blocks = grid_of(items, kThreads, items);
  with_bool(vector_rows(width, gate_up, dout, out), [&](auto aligned) {
    swiglu_kernel<decltype(aligned)::value, Backward><<<blocks, kThreads, 0, stream>>>(gate_up, dout, out, rows, width);
  });
}

}  // namespace
}  // namespace cuda

void CudaOps::gelu_forward(const GeluForward& args) {
  const Check check("gelu_forward");
  check.rank("x", args.x, real_, 2);
  check.shape("out", args.out, real_, {args.x.extent(0), args.x.extent(1)});
  cuda::with_real(real_, [&]<class T>(T) {
    const auto* x = cuda::pointer<const T>(args.x);
    auto* out = cuda::pointer<T>(args.out);
    if (args.kind == GeluKind::erf)
      cuda::map(stream_, out, x, x, args.x.size(), cuda::Gelu<GeluKind::erf>{});
    else
      cuda::map(stream_, out, x, x, args.x.size(), cuda::Gelu<GeluKind::tanh>{});
  });
  check_launch("gelu_forward");
}

void CudaOps::gelu_backward(const GeluBackward& args) {
  if (const float* partials = gelu_gradient(args))
    add_partials("gelu_backward", args.dx_sums, partials, cuda::ceil_div(args.x.extent(0), kBiasRows));
}

const float* CudaOps::gelu_gradient(const GeluBackward& args) {
  const Check check("gelu_backward");
  check.rank("x", args.x, real_, 2);
  check.shape("dout", args.dout, real_, {args.x.extent(0), args.x.extent(1)});
  check.shape("dx", args.dx, real_, {args.x.extent(0), args.x.extent(1)});
  check.optional_shape("dx_sums", args.dx_sums, DType::f32, {args.x.extent(1)});
  if (args.x.size() == 0) return nullptr;
  const std::int64_t N = args.x.extent(0), F = args.x.extent(1);
  const auto blocks = static_cast<unsigned>(cuda::ceil_div(N, kBiasRows));
  float* partials = args.dx_sums ? scratch_of<float>(blocks * F) : nullptr;
  cuda::with_real(real_, [&]<class T>(T) {
    auto* dx = cuda::pointer<T>(args.dx);
    const auto *x = cuda::pointer<const T>(args.x), *dout = cuda::pointer<const T>(args.dout);
    const auto with = [&](auto gradient) {
      if (partials == nullptr) return cuda::map(stream_, dx, x, dout, args.x.size(), gradient);
      const dim3 grid(blocks, static_cast<unsigned>(cuda::ceil_div(F, cuda::kThreads)));
      cuda::with_bool(cuda::vector_rows(F, dx, x, dout), [&](auto aligned) {
        cuda::map_and_sum_kernel<decltype(aligned)::value>
            <<<grid, cuda::kThreads, 0, stream_>>>(dx, partials, x, dout, N, F, gradient);
      });
    };
    if (args.kind == GeluKind::erf)
      with(cuda::GeluGradient<GeluKind::erf>{});
    else
      with(cuda::GeluGradient<GeluKind::tanh>{});
  });
  check_launch("gelu_backward");
  return partials;
}

void CudaOps::swiglu_forward(const SwigluForward& args) {
  const Check check("swiglu_forward");
  check.rank("out", args.out, real_, 2);
  const std::int64_t N = args.out.extent(0), F = args.out.extent(1);
  check.shape("gate_up", args.gate_up, real_, {N, 2 * F});
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::swiglu<false, T>(stream_, cuda::pointer<const T>(args.gate_up), nullptr, cuda::pointer<T>(args.out), N, F);
  });
  check_launch("swiglu_forward");
}

void CudaOps::swiglu_backward(const SwigluBackward& args) {
  const Check check("swiglu_backward");
  check.rank("dout", args.dout, real_, 2);
  const std::int64_t N = args.dout.extent(0), F = args.dout.extent(1);
  check.shape("gate_up", args.gate_up, real_, {N, 2 * F});
  check.shape("dgate_up", args.dgate_up, real_, {N, 2 * F});
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::swiglu<true, T>(stream_, cuda::pointer<const T>(args.gate_up), cuda::pointer<const T>(args.dout),
                          cuda::pointer<T>(args.dgate_up), N, F);
  });
  check_launch("swiglu_backward");
}

void CudaOps::add(const Tensor& out, const Tensor& a, const Tensor& b) {
  const Check check("add");
  check.rank("out", out, real_, 2);
  check.shape("a", a, real_, {out.extent(0), out.extent(1)});
  check.shape("b", b, real_, {out.extent(0), out.extent(1)});
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::map(stream_, cuda::pointer<T>(out), cuda::pointer<const T>(a), cuda::pointer<const T>(b), out.size(),
              cuda::Sum{});
  });
  check_launch("add");
}

}  // namespace sinkscope
