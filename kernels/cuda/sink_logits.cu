// Sums over the queries of a head of the weights on its sink logit, exp(z - lse), in a fixed order.
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sink_logits.h"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda {
namespace {

constexpr int kThreads = 256;

/// sum_t exp(z - lse_t) factor(t) of the block's b*H + h, given to all its threads.
template <class T, class Factor>
__device__ double head_sum(const T* sink_logits, const float* lse, std::int64_t heads, std::int64_t length,
                           const Factor& factor) {
  const float logit = to_float(sink_logits[blockIdx.x % heads]);
  const float* row = lse + std::int64_t{blockIdx.x} * length;
  double sum = 0;
  for (std::int64_t t = threadIdx.x; t < length; t += kThreads)
    sum += static_cast<double>(expf(logit - row[t]) * factor(t));
  return block_sum<kThreads>(sum);
}

/// Block b*H + h.
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_sums_kernel(double* sums, const T* sink_logits, const float* lse, RowDeltas deltas, std::int64_t heads,
                         std::int64_t length) {
  const float* delta = deltas.values + std::int64_t{blockIdx.x} * deltas.head_stride;
  const double sum = head_sum(sink_logits, lse, heads, length, [&](std::int64_t t) {
    return delta[t / deltas.block * deltas.block_stride + t % deltas.block];
  });
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// Thread per head.
__global__ void gradient_kernel(float* dsink_logits, const double* sums, std::int64_t sequences, std::int64_t heads) {
  const std::int64_t h = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (h >= heads) return;
  double sum = 0;
  for (std::int64_t b = 0; b < sequences; ++b) sum += sums[b * heads + h];
  dsink_logits[h] -= static_cast<float>(sum);
}

/// Block b*H + h.
template <class T>
__global__ void __launch_bounds__(kThreads) mass_kernel(float* mass, const T* sink_logits, const float* lse,
                                                        std::int64_t heads, std::int64_t length) {
  const double sum = head_sum(sink_logits, lse, heads, length, [](std::int64_t) { return 1.0F; });
  if (threadIdx.x == 0) mass[blockIdx.x] = static_cast<float>(sum / static_cast<double>(length));
}

}  // namespace

void sink_logit_gradient(cudaStream_t stream, const Tensor& sink_logits, const Tensor& lse, const RowDeltas& deltas,
                         double* sums, const Tensor& dsink_logits) {
  const std::int64_t B = lse.extent(0), H = lse.extent(1), T = lse.extent(2);
  with_real(sink_logits.dtype, [&]<class R>(R) {
    gradient_sums_kernel<<<static_cast<unsigned>(B * H), kThreads, 0, stream>>>(
        sums, pointer<const R>(sink_logits), pointer<const float>(lse), deltas, H, T);
  });
  check_launch("attention_backward");
  gradient_kernel<<<grid_of(H, kWarp), kWarp, 0, stream>>>(pointer<float>(dsink_logits), sums, B, H);
  check_launch("attention_backward");
}

void sink_logit_mass(cudaStream_t stream, const Tensor& sink_logits, const Tensor& lse, const Tensor& mass) {
  const std::int64_t B = lse.extent(0), H = lse.extent(1), T = lse.extent(2);
  with_real(sink_logits.dtype, [&]<class R>(R) {
    mass_kernel<<<static_cast<unsigned>(B * H), kThreads, 0, stream>>>(
        pointer<float>(mass), pointer<const R>(sink_logits), pointer<const float>(lse), H, T);
  });
  check_launch("attention_statistics");
}

}  // namespace sinkscope::cuda
