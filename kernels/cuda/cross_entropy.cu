// Softmax cross-entropy: one block a row of logits, which are overwritten by their gradient. Few large blocks, so that
// a row is still in the second-level cache when it is read again; sm90/ has one that reads it once.
#include <cmath>

#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/cross_entropy.h"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 1024, kBlocks = 2;  // of a multiprocessor

/// exp(x - offset); in bf16 as 2^(x log2 e - offset), so that a logit costs two instructions. `unit` turns an x into
/// such an offset.
template <class T>
struct Exponential {
  static constexpr float unit = 1.0F;
  static __device__ float of(float x, float offset) { return expf(x - offset); }
};
template <>
struct Exponential<bf16> {
  static constexpr float unit = kLog2E;
  static __device__ float of(float x, float offset) { return exp2_approximate(x * kLog2E - offset); }
};

template <bool Aligned, class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    cross_entropy_kernel(T* logits, const std::int32_t* targets, float* losses, std::int64_t vocabulary, bool gradient,
                         float scale) {
  constexpr std::int64_t kStep = kThreads * kVector;
  T* row = logits + std::int64_t{blockIdx.x} * vocabulary;
  const std::int32_t target = targets[blockIdx.x];
  const std::int64_t first = threadIdx.x * kVector;
  if (target < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0F;
    const float zeros[kVector] = {};
    if (gradient)
      for (std::int64_t c = first; c < vocabulary; c += kStep) store_some<Aligned>(row + c, vocabulary - c, zeros);
    return;
  }
  // The maximum and the sum of exponentials together; a thread rescales its sum when its maximum rises.
  float highest = -INFINITY, sum = 0;
  for (std::int64_t c = first; c < vocabulary; c += kStep) {
    float x[kVector];
    load_some<Aligned>(row + c, vocabulary - c, x);
    float top = highest;
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      if (Aligned || c + j < vocabulary) top = fmaxf(top, x[j]);
    if (top > highest) {
      sum *= expf(highest - top);
      highest = top;
    }
    // Where there is nothing but -infinity, nothing is added, and no NaN.
    const float offset = highest == -INFINITY ? 0.0F : highest * Exponential<T>::unit;
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      if (Aligned || c + j < vocabulary) sum += Exponential<T>::of(x[j], offset);
  }
  const float maximum = block_max<kThreads>(highest);
  // A thread without a column, or with only -inf, has 0, or NaN where it had one.
  sum = block_sum<kThreads>(highest == -INFINITY ? sum : sum * expf(highest - maximum));
  const float target_logit = to_float(row[target]);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (maximum - target_logit);
  if (!gradient) return;
  __syncthreads();  // the target's logit is read before it is overwritten
  const float factor = scale / sum, offset = maximum * Exponential<T>::unit;
  for (std::int64_t c = first; c < vocabulary; c += kStep) {
    float x[kVector];
    load_some<Aligned>(row + c, vocabulary - c, x);
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      x[j] = factor * Exponential<T>::of(x[j], offset) - (c + j == target ? scale : 0.0F);
    store_some<Aligned>(row + c, vocabulary - c, x);
  }
}

}  // namespace
}  // namespace cuda

void CudaOps::cross_entropy(const CrossEntropy& args) {
  const Check check("cross_entropy");
  check.rank("logits", args.logits, real_, 2);
  const std::int64_t N = args.logits.extent(0), V = args.logits.extent(1);
  check.that(V > 0, "logits", "is " + describe(args.logits) + ", expected a vocabulary");
  check.shape("targets", args.targets, DType::i32, {N});
  check.shape("losses", args.losses, DType::f32, {N});
  if (N == 0) return;
#ifdef SINKSCOPE_SM90A
  using cuda::sm90::kLongestRow, cuda::sm90::kShortestRow;
  if (real_ == DType::bf16 && has_sm90() && V >= kShortestRow && V <= kLongestRow &&
      cuda::vector_rows(V, cuda::pointer<cuda::bf16>(args.logits)) && args.scale >= 0) {
    cuda::sm90::cross_entropy(stream_, properties_.multiProcessorCount, args.logits.data,
                              cuda::pointer<const std::int32_t>(args.targets), cuda::pointer<float>(args.losses), N, V,
                              args.gradient, args.scale);
    return;
  }
#endif
  cuda::with_real(real_, [&]<class T>(T) {
    auto* logits = cuda::pointer<T>(args.logits);
    cuda::with_bool(cuda::vector_rows(V, logits), [&](auto aligned) {
      cuda::cross_entropy_kernel<decltype(aligned)::value><<<static_cast<unsigned>(N), cuda::kThreads, 0, stream_>>>(
          logits, cuda::pointer<const std::int32_t>(args.targets), cuda::pointer<float>(args.losses), V, args.gradient,
          args.scale);
    });
  });
  check_launch("cross_entropy");
}

}  // namespace sinkscope
