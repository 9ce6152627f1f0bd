// RMS normalisation of query and key heads: a warp per head vector, which it holds in registers.
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
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxHeadDim = 256;
constexpr int kPerLane = kMaxHeadDim / kWarp;

struct Shape {
  std::int64_t rows;  // B*T
  int query_heads, kv_heads, head_dim;
};

/// Vectors of all H+2G heads in turn; values are copied.
template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Shape shape, const T* in, T* out, const T* q_weight,
                                                           const T* k_weight, float eps, float* rstds) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int normed = shape.query_heads + shape.kv_heads, heads = normed + shape.kv_heads, D = shape.head_dim;
  const std::int64_t vector = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (vector >= shape.rows * heads) return;
  const auto head = static_cast<int>(vector % heads);
  const std::int64_t row = vector / heads, at = vector * D;
  if (head >= normed) {
    for (int d = lane; d < D; d += kWarp) out[at + d] = in[at + d];
    return;
  }
  const T* weight = head < shape.query_heads ? q_weight : k_weight;
  float x[kPerLane], squares = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = i * kWarp + lane;
    x[i] = d < D ? to_float(in[at + d]) : 0.0F;
    squares += x[i] * x[i];
  }
  const float rstd = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(D) + eps);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = i * kWarp + lane;
    if (d < D) out[at + d] = from_float<T>(x[i] * rstd * to_float(weight[d]));
  }
  if (lane == 0) rstds[row * normed + head] = rstd;
}

/// partials: (blocks, 2, D), the sums of dq_weight and dk_weight over a block's vectors.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(Shape shape, const T* in, T* dqkv, const T* q_weight,
                                                            const T* k_weight, const float* rstds, float* partials) {
  __shared__ float shared[2][kWarps][kMaxHeadDim];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int normed = shape.query_heads + shape.kv_heads, heads = normed + shape.kv_heads, D = shape.head_dim;
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps;
  float dq_weight[kPerLane] = {}, dk_weight[kPerLane] = {};
  for (std::int64_t vector = std::int64_t{blockIdx.x} * kWarps + warp; vector < shape.rows * normed; vector += stride) {
    const auto head = static_cast<int>(vector % normed);
    const bool query = head < shape.query_heads;
    const std::int64_t at = (vector / normed * heads + head) * D;
    const T* weight = query ? q_weight : k_weight;
    const float rstd = rstds[vector];
    float normal[kPerLane], scaled[kPerLane], projection = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int d = i * kWarp + lane;
      normal[i] = d < D ? to_float(in[at + d]) * rstd : 0.0F;
      const float gradient = d < D ? to_float(dqkv[at + d]) : 0.0F;
      scaled[i] = d < D ? gradient * to_float(weight[d]) : 0.0F;
      projection += scaled[i] * normal[i];
      dq_weight[i] += query ? gradient * normal[i] : 0.0F;
      dk_weight[i] += query ? 0.0F : gradient * normal[i];
    }
    const float mean = warp_sum(projection) / static_cast<float>(D);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int d = i * kWarp + lane;
      if (d < D) dqkv[at + d] = from_float<T>(rstd * (scaled[i] - normal[i] * mean));
    }
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    shared[0][warp][i * kWarp + lane] = dq_weight[i];
    shared[1][warp][i * kWarp + lane] = dk_weight[i];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * D; i += kThreads) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[i / D][w][i % D];
    partials[std::int64_t{blockIdx.x} * 2 * D + i] = sum;
  }
}

__global__ void add_partials_kernel(float* dq_weight, float* dk_weight, const float* partials, int blocks, int head_dim) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= 2 * head_dim) return;
  float sum = 0;
  for (int block = 0; block < blocks; ++block) sum += partials[std::int64_t{block} * 2 * head_dim + i];
  (i < head_dim ? dq_weight[i] : dk_weight[i - head_dim]) += sum;
}

Shape shape_of(const Check& check, const AttentionExtents& extents) {
  check.that(extents.head_dim <= kMaxHeadDim, "in",
             "has a head dimension of " + std::to_string(extents.head_dim) + ", expected at most " + std::to_string(kMaxHeadDim));
  return {extents.sequences * extents.length, static_cast<int>(extents.query_heads), static_cast<int>(extents.kv_heads),
          static_cast<int>(extents.head_dim)};
}

}  // namespace
}  // namespace cuda

void CudaOps::qk_norm_forward(const QkNormForward& args) {
  const Check check("qk_norm_forward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, D = extents.head_dim;
  check.shape("out", args.out, real_, {B, T, extents.row_heads(), D});
  check.that(args.out.data != args.in.data, "out", "aliases in");
  check.shape("q_weight", args.q_weight, real_, {D});
  check.shape("k_weight", args.k_weight, real_, {D});
  check.shape("rstd", args.rstd, DType::f32, {B * T, extents.query_heads + extents.kv_heads});
  const cuda::Shape shape = cuda::shape_of(check, extents);
  if (shape.rows == 0) return;
  const std::int64_t vectors = shape.rows * extents.row_heads();
  cuda::with_real(real_, [&]<class R>(R) {
    cuda::forward_kernel<R><<<cuda::grid_of(vectors, cuda::kWarps, vectors), cuda::kThreads, 0, stream_>>>(
        shape, cuda::pointer<const R>(args.in), cuda::pointer<R>(args.out), cuda::pointer<const R>(args.q_weight),
        cuda::pointer<const R>(args.k_weight), args.eps, cuda::pointer<float>(args.rstd));
  });
  check_launch("qk_norm_forward");
}

void CudaOps::qk_norm_backward(const QkNormBackward& args) {
  const Check check("qk_norm_backward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, D = extents.head_dim;
  check.shape("dqkv", args.dqkv, real_, {B, T, extents.row_heads(), D});
  check.shape("q_weight", args.q_weight, real_, {D});
  check.shape("k_weight", args.k_weight, real_, {D});
  check.shape("rstd", args.rstd, DType::f32, {B * T, extents.query_heads + extents.kv_heads});
  check.shape("dq_weight", args.dq_weight, DType::f32, {D});
  check.shape("dk_weight", args.dk_weight, DType::f32, {D});
  const cuda::Shape shape = cuda::shape_of(check, extents);
  if (shape.rows == 0) return;
  const std::int64_t vectors = shape.rows * (extents.query_heads + extents.kv_heads);
  const unsigned blocks = cuda::grid_of(vectors, cuda::kWarps, 4 * properties_.multiProcessorCount);
  auto* partials = scratch_of<float>(std::int64_t{blocks} * 2 * D);
  cuda::with_real(real_, [&]<class R>(R) {
    cuda::backward_kernel<R><<<blocks, cuda::kThreads, 0, stream_>>>(
        shape, cuda::pointer<const R>(args.in), cuda::pointer<R>(args.dqkv), cuda::pointer<const R>(args.q_weight),
        cuda::pointer<const R>(args.k_weight), cuda::pointer<const float>(args.rstd), partials);
  });
  check_launch("qk_norm_backward");
  cuda::add_partials_kernel<<<cuda::grid_of(2 * D, 64), 64, 0, stream_>>>(cuda::pointer<float>(args.dq_weight),
                                                                         cuda::pointer<float>(args.dk_weight), partials,
                                                                         static_cast<int>(blocks), static_cast<int>(D));
  check_launch("qk_norm_backward");
}

}  // namespace sinkscope
