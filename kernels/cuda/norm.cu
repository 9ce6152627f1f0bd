// Residual add and LayerNorm or RMSNorm. A row is held in registers by one warp or by several.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

template <class T>
struct ForwardArgs {
  const T *x, *delta;
  T* sum;
  const T *weight, *bias;
  T* out;
  float *mean, *rstd, *l2;
  std::int64_t rows, channels;
  float eps;
  // Where there are tokens, rows of x are looked up by them, and those of delta, where it is, by position in sequences
  // of `length`.
  const std::int32_t* tokens;
  std::int64_t length;

  __device__ const T* x_row(std::int64_t row) const { return x + (tokens == nullptr ? row : tokens[row]) * channels; }
  __device__ const T* delta_row(std::int64_t row) const {
    return delta + (tokens == nullptr ? row : row % length) * channels;
  }
};

template <class T>
struct BackwardArgs {
  const T *x, *dout, *weight;
  const float *mean, *rstd;
  T* dx;
  float* partials;  // (blocks, kPartials, C)
  std::int64_t rows, channels;
};

/// Sums over the Group threads that share a row, one or several warps of a block of Threads, given to all of them.
/// `parts`: shared memory, which may be written to again behind the barrier of another call.
template <int Group, int Threads, int Count>
__device__ void add_up_row(float (&x)[Count], float (&parts)[Count][Threads / kWarp]) {
#pragma unroll
  for (float& sum : x) sum = warp_sum(sum);
  if constexpr (Group > kWarp) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, group = static_cast<int>(threadIdx.x) / Group;
    if (threadIdx.x % kWarp == 0)
#pragma unroll
      for (int i = 0; i < Count; ++i) parts[i][warp] = x[i];
    if constexpr (Group == Threads) {
      __syncthreads();
    } else {
#pragma unroll
      // By constants: a block whose numbers of barriers the compiler does not know takes all 16, and fewer blocks fit.
      for (int i = 0; i < Threads / Group; ++i)
        if (i == group) named_barrier(1 + i, Group);
    }
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const float* first = parts[i] + group * (Group / kWarp);
      x[i] = first[0];
#pragma unroll
      for (int j = 1; j < Group / kWarp; ++j) x[i] += first[j];
    }
  }
}

/// Thread's first column of its v-th vector.
template <int Group>
__device__ std::int64_t column_of(int v) {
  return (std::int64_t{v} * Group + threadIdx.x % Group) * kVector;
}

/// Threads of a block of forward_kernel.
template <int Group>
constexpr int kForwardThreads = Group == kWarp ? 256 : Group;

/// One row per group of Group threads, Vectors x 8 of its elements in each thread's registers.
template <class T, int Group, int Vectors, bool Aligned, bool LayerNorm>
__global__ void __launch_bounds__(kForwardThreads<Group>) forward_kernel(ForwardArgs<T> args) {
  constexpr int kThreads = kForwardThreads<Group>;
  constexpr int kSums = LayerNorm ? 2 : 1;
  __shared__ float parts[kSums][kThreads / kWarp], deviation_parts[1][kThreads / kWarp];
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / Group) + threadIdx.x / Group;
  if (row >= args.rows) return;  // whole groups, for which alone others do not wait
  const std::int64_t C = args.channels, at = row * C;
  const auto channels = static_cast<float>(C);
  const T *x_row = args.x_row(row), *delta_row = args.delta == nullptr ? nullptr : args.delta_row(row);
  float x[Vectors][kVector];
  Packed<T> deltas[Vectors];  // all loaded before the first store, which they might follow otherwise
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t c = column_of<Group>(v);
    load_some<Aligned>(x_row + c, C - c, x[v]);
    if (delta_row != nullptr) deltas[v] = load_packed<Aligned>(delta_row + c, C - c);
  }
  float sums[kSums] = {};  // of squares, of elements
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t c = column_of<Group>(v);
    if (delta_row != nullptr) {
      float delta[kVector];
      unpack(deltas[v], delta);
#pragma unroll
      // What is normalised is what is stored: the sum rounded to the compute dtype.
      for (int i = 0; i < kVector; ++i) x[v][i] = to_float(from_float<T>(x[v][i] + delta[i]));
    }
    if (args.sum != nullptr) store_some<Aligned>(args.sum + at + c, C - c, x[v]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sums[0] += x[v][i] * x[v][i];
      if constexpr (LayerNorm) sums[1] += x[v][i];
    }
  }
  add_up_row<Group, kThreads>(sums, parts);
  const float squares = sums[0];
  float mean = 0, variance = squares / channels;
  if constexpr (LayerNorm) {
    mean = sums[1] / channels;
    float deviations[1] = {0};
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t c = column_of<Group>(v);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (c + i < C) deviations[0] += (x[v][i] - mean) * (x[v][i] - mean);
    }
    add_up_row<Group, kThreads>(deviations, deviation_parts);
    variance = deviations[0] / channels;
  }
  const float rstd = 1.0F / sqrtf(variance + args.eps);
#pragma unroll
  for (int v = 0; v < Vectors; ++v) {
    const std::int64_t c = column_of<Group>(v);
    float weight[kVector], out[kVector];
    load_some<Aligned>(args.weight + c, C - c, weight);
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = (x[v][i] - mean) * rstd * weight[i];
    if (LayerNorm && args.bias != nullptr) {
      float bias[kVector];
      load_some<Aligned>(args.bias + c, C - c, bias);
#pragma unroll
      for (int i = 0; i < kVector; ++i) out[i] += bias[i];
    }
    store_some<Aligned>(args.out + at + c, C - c, out);
  }
  if (threadIdx.x % Group == 0) {
    args.rstd[row] = rstd;
    if (LayerNorm) args.mean[row] = mean;
    if (args.l2 != nullptr) args.l2[row] = sqrtf(squares);
  }
}

constexpr int kPartials = 3;  // of a block: dweight, dbias, column sums of dx

/// Threads of a block of backward_kernel: few where they need many registers, so that many warps fit beside these; else
/// many, since every block leaves partial sums. How many blocks a multiprocessor takes at most.
template <int Group, bool LayerNorm>
constexpr int kBackwardThreads = Group == kWarp ? 128 : Group == 128 ? (LayerNorm ? 384 : 512) : Group;
template <int Group>
constexpr int kBackwardBlocks = Group == 128 ? 2 : 4;
/// How many it must have registers for.
template <int Group, int Vectors>
constexpr int kLeastBlocks = Group == 128 ? 2 : Group > kWarp && Vectors == 1 ? 3 : 1;

/// Rows row0, row0 + stride, ... of each group; the parameters' gradients of a group stay in its
/// registers and are added up over the block's groups, in order, at the end. A row stays packed in registers, and
/// what is computed of it is computed twice: wider, it would leave room for half the warps.
template <class T, int Group, int Vectors, bool Aligned, bool LayerNorm, bool DxSums>
__global__ void __launch_bounds__(kBackwardThreads<Group, LayerNorm>, kLeastBlocks<Group, Vectors>)
    backward_kernel(BackwardArgs<T> args) {
  extern __shared__ float shared[];  // (groups, C)
  constexpr int kThreads = kBackwardThreads<Group, LayerNorm>, kGroups = kThreads / Group, kOfRow = LayerNorm ? 2 : 1;
  __shared__ float parts[2][kOfRow][kThreads / kWarp];  // of rows in turn
  int turn = 0;
  const int group = static_cast<int>(threadIdx.x) / Group;
  const std::int64_t C = args.channels, stride = std::int64_t{gridDim.x} * kGroups;
  const auto channels = static_cast<float>(C);
  float dweight[Vectors][kVector] = {}, dbias[Vectors][kVector] = {}, dx_sums[Vectors][kVector] = {};
  for (std::int64_t row = std::int64_t{blockIdx.x} * kGroups + group; row < args.rows; row += stride) {
    const std::int64_t at = row * C;
    Packed<T> xs[Vectors], douts[Vectors], dxs[Vectors];
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t c = column_of<Group>(v);
      xs[v] = load_packed<Aligned>(args.x + at + c, C - c);
      douts[v] = load_packed<Aligned>(args.dout + at + c, C - c);
      dxs[v] = load_packed<Aligned>(args.dx + at + c, C - c);
    }
    const float rstd = args.rstd[row], mean = LayerNorm ? args.mean[row] : 0.0F;
    // Calls f(i, dout, x hat, dout * weight) for the elements of vector v.
    const auto each = [&](int v, auto&& f) {
      const std::int64_t c = column_of<Group>(v);
      float x[kVector], dout[kVector], weight[kVector];
      unpack(xs[v], x);
      unpack(douts[v], dout);
      load_some<Aligned>(args.weight + c, C - c, weight);
#pragma unroll
      for (int i = 0; i < kVector; ++i) f(i, dout[i], (x[i] - mean) * rstd, dout[i] * weight[i]);
    };
    float sums[kOfRow] = {};  // of scaled gradients times x hat, and of these alone
#pragma unroll
    for (int v = 0; v < Vectors; ++v)
      each(v, [&](int i, float dout, float normal, float scaled) {
        sums[0] += scaled * normal;
        if constexpr (LayerNorm) sums[1] += scaled;
        dweight[v][i] += dout * normal;
        dbias[v][i] += dout;
      });
    add_up_row<Group, kThreads>(sums, parts[turn]);
    turn ^= 1;
    const float sum_product = sums[0] / channels, sum_scaled = LayerNorm ? sums[kOfRow - 1] / channels : 0.0F;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t c = column_of<Group>(v);
      float dx[kVector];
      unpack(dxs[v], dx);
      each(v, [&](int i, float, float normal, float scaled) {
        dx[i] += rstd * (scaled - normal * sum_product - sum_scaled);
        if constexpr (DxSums) dx_sums[v][i] += dx[i];
      });
      store_some<Aligned>(args.dx + at + c, C - c, dx);
    }
  }
  constexpr int kSums = DxSums ? 3 : LayerNorm ? 2 : 1;
#pragma unroll
  for (int which = 0; which < kSums; ++which) {
    __syncthreads();
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
      const std::int64_t c = column_of<Group>(v);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (c + i < C)
          shared[group * C + c + i] = which == 0 ? dweight[v][i] : which == 1 ? dbias[v][i] : dx_sums[v][i];
    }
    __syncthreads();
    for (std::int64_t c = threadIdx.x; c < C; c += blockDim.x) {
      float sum = 0;
      for (int g = 0; g < kGroups; ++g) sum += shared[g * C + c];
      args.partials[(std::int64_t{blockIdx.x} * kPartials + which) * C + c] = sum;
    }
  }
}

/// Calls f<Group, Vectors, Aligned> with the smallest register tile that holds a row of C elements.
template <bool Backward, class F>
void with_tile(std::int64_t C, bool aligned, F&& f) {
  const auto call = [&]<int Group, int Vectors>() {
    if (aligned)
      f.template operator()<Group, Vectors, true>();
    else
      f.template operator()<Group, Vectors, false>();
  };
  if (C <= 256) return call.template operator()<kWarp, 1>();
  if (C <= 512) return call.template operator()<kWarp, 2>();
  if (C <= 768) return call.template operator()<kWarp, 3>();
  if (C <= 1024) return call.template operator()<Backward ? 128 : kWarp, Backward ? 1 : 4>();
  if (C <= 2048) return call.template operator()<256, 1>();
  if (C <= 4096) return call.template operator()<256, 2>();
  return call.template operator()<256, 4>();
}

constexpr std::int64_t kMaxChannels = 8192;

}  // namespace
}  // namespace cuda

void CudaOps::norm_forward(const NormForward& args) { norm_rows(Check("norm_forward"), args, nullptr); }

void CudaOps::norm_rows(const Check& check, const NormForward& args, const EmbeddingForward* lookup) {
  check.rank("x", args.x, real_, 2);
  const std::int64_t N = args.x.extent(0), C = args.x.extent(1);
  const bool layernorm = args.kind == NormKind::layernorm;
  check.that(C > 0 && C <= cuda::kMaxChannels, "x",
             "is " + describe(args.x) + ", expected 1 to " + std::to_string(cuda::kMaxChannels) + " channels");
  check.optional_shape("delta", args.delta, real_, {N, C});
  check.that(static_cast<bool>(args.delta) == static_cast<bool>(args.sum), "sum",
             "is given without delta, or delta without it");
  check.optional_shape("sum", args.sum, real_, {N, C});
  check.shape("weight", args.weight, real_, {C});
  check.that(layernorm || !args.bias, "bias", "is given, but rmsnorm has none");
  check.optional_shape("bias", args.bias, real_, {C});
  check.shape("out", args.out, real_, {N, C});
  if (layernorm) check.shape("mean", args.mean, DType::f32, {N});
  check.shape("rstd", args.rstd, DType::f32, {N});
  check.optional_shape("l2", args.l2, DType::f32, {N});
  if (N == 0) return;
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::ForwardArgs<T> a{cuda::pointer<const T>(args.x),      cuda::pointer<const T>(args.delta),
                                 cuda::pointer<T>(args.sum),          cuda::pointer<const T>(args.weight),
                                 cuda::pointer<const T>(args.bias),   cuda::pointer<T>(args.out),
                                 cuda::pointer<float>(args.mean),     cuda::pointer<float>(args.rstd),
                                 cuda::pointer<float>(args.l2),       N, C, args.eps,
                                 nullptr,                             0};
    if (lookup != nullptr) {
      a.x = cuda::pointer<const T>(lookup->wte), a.delta = cuda::pointer<const T>(lookup->wpe),
      a.sum = cuda::pointer<T>(lookup->out);
      a.tokens = cuda::pointer<const std::int32_t>(lookup->tokens), a.length = lookup->tokens.extent(1);
    }
    const bool aligned = cuda::vector_rows(C, a.x, a.delta, a.sum, a.weight, a.bias, a.out);
    cuda::with_tile<false>(C, aligned, [&]<int Group, int Vectors, bool Aligned>() {
      constexpr int kThreads = cuda::kForwardThreads<Group>;
      const unsigned blocks = cuda::grid_of(N, kThreads / Group, N);
      if (layernorm)
        cuda::forward_kernel<T, Group, Vectors, Aligned, true><<<blocks, kThreads, 0, stream_>>>(a);
      else
        cuda::forward_kernel<T, Group, Vectors, Aligned, false><<<blocks, kThreads, 0, stream_>>>(a);
    });
  });
  check_launch(lookup != nullptr ? "embedding_forward" : "norm_forward");
}

void CudaOps::norm_backward(const NormBackward& args) {
  const Check check("norm_backward");
  check.rank("x", args.x, real_, 2);
  const std::int64_t N = args.x.extent(0), C = args.x.extent(1);
  const bool layernorm = args.kind == NormKind::layernorm;
  check.that(C > 0 && C <= cuda::kMaxChannels, "x",
             "is " + describe(args.x) + ", expected 1 to " + std::to_string(cuda::kMaxChannels) + " channels");
  check.shape("dout", args.dout, real_, {N, C});
  check.shape("weight", args.weight, real_, {C});
  if (layernorm) check.shape("mean", args.mean, DType::f32, {N});
  check.shape("rstd", args.rstd, DType::f32, {N});
  check.shape("dx", args.dx, real_, {N, C});
  check.shape("dweight", args.dweight, DType::f32, {C});
  check.that(layernorm || !args.dbias, "dbias", "is given, but rmsnorm has no bias");
  check.optional_shape("dbias", args.dbias, DType::f32, {C});
  check.optional_shape("dx_sums", args.dx_sums, DType::f32, {C});
  if (N == 0) return;
  const bool fused_sums = layernorm && args.dx_sums;
  cuda::with_real(real_, [&]<class T>(T) {
    cuda::BackwardArgs<T> a{cuda::pointer<const T>(args.x),      cuda::pointer<const T>(args.dout),
                            cuda::pointer<const T>(args.weight), cuda::pointer<const float>(args.mean),
                            cuda::pointer<const float>(args.rstd), cuda::pointer<T>(args.dx), nullptr, N, C};
    const bool aligned = cuda::vector_rows(C, a.x, a.dout, a.weight, a.dx);
    unsigned blocks = 0;
    cuda::with_tile<true>(C, aligned, [&]<int Group, int Vectors, bool Aligned>() {
      const auto launch = [&]<bool LayerNorm>(auto* kernel) {
        constexpr int kThreads = cuda::kBackwardThreads<Group, LayerNorm>, kGroups = kThreads / Group;
        const auto shared = static_cast<std::size_t>(kGroups * C) * sizeof(float);  // at most 32 KiB
        int fitting = 0;  // blocks on a multiprocessor
        check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fitting, kernel, kThreads, shared), "norm_backward");
        const std::int64_t together = std::clamp(fitting, 1, cuda::kBackwardBlocks<Group>);
        blocks = cuda::grid_of(N, kGroups, together * properties_.multiProcessorCount);
        a.partials = scratch_of<float>(std::int64_t{blocks} * cuda::kPartials * C);
        kernel<<<blocks, kThreads, shared, stream_>>>(a);
      };
      if (fused_sums)
        launch.template operator()<true>(cuda::backward_kernel<T, Group, Vectors, Aligned, true, true>);
      else if (layernorm)
        launch.template operator()<true>(cuda::backward_kernel<T, Group, Vectors, Aligned, true, false>);
      else
        launch.template operator()<false>(cuda::backward_kernel<T, Group, Vectors, Aligned, false, false>);
      check_launch("norm_backward");
      cuda::add_partials<cuda::kPartials>(stream_,
                                          {{cuda::pointer<float>(args.dweight), cuda::pointer<float>(args.dbias),
                                            fused_sums ? cuda::pointer<float>(args.dx_sums) : nullptr},
                                           a.partials,
                                           blocks,
                                           C});
    });
  });
  check_launch("norm_backward");
  if (args.dx_sums && !fused_sums) add_column_sums("norm_backward", args.dx_sums, args.dx);
}

}  // namespace sinkscope
