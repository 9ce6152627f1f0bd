// Probes of every step, summed over sequences in order: a few numbers a layer go to the host.
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 128;

/// One thread for each (layer, head, position); `width` of them in a layer.
__global__ void sink_sums_kernel(double* scores, double* above, const float* sink, float threshold,
                                 std::int64_t layers, std::int64_t sequences, std::int64_t width) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= layers * width) return;
  const float* column = sink + i / width * sequences * width + i % width;
  double total = scores[i], count = above[i];
#pragma unroll 8
  for (std::int64_t b = 0; b < sequences; ++b) {
    const float score = column[b * width];
    total += static_cast<double>(score);
    count += score > threshold ? 1.0 : 0.0;
  }
  scores[i] = total;
  above[i] = count;
}

/// One block a sequence of a place: means[row] = (mean over t >= K, mean over t >= 1).
__global__ void __launch_bounds__(kThreads)
    norm_means_kernel(double2* means, const float* norms, std::int64_t length, std::int64_t positions) {
  const std::int64_t row = blockIdx.x;
  const float* values = norms + row * length;
  double others = 0, tail = 0;
  for (std::int64_t t = 1 + threadIdx.x; t < length; t += kThreads)
    (t < positions ? others : tail) += static_cast<double>(values[t]);
  others = block_sum<kThreads>(others);
  tail = block_sum<kThreads>(tail);
  if (threadIdx.x == 0)  // 0/0 is the NaN of a rest that is empty
    means[row] = {tail / static_cast<double>(length - positions), (others + tail) / static_cast<double>(length - 1)};
}

/// One block a place; thread p adds up position p, the two after the last position the means.
__global__ void norm_sums_kernel(double* first, double* rest, double* ratio, const float* norms, const double2* means,
                                 std::int64_t sequences, std::int64_t length, std::int64_t positions) {
  const std::int64_t r = blockIdx.x;
  for (std::int64_t p = threadIdx.x; p < positions + 2; p += kThreads) {
    double* out = p < positions ? first + r * positions + p : (p == positions ? rest : ratio) + r;
    double total = *out;
    for (std::int64_t b = 0; b < sequences; ++b) {
      const std::int64_t row = r * sequences + b;
      if (p < positions)
        total += static_cast<double>(norms[row * length + p]);
      else if (p == positions)
        total += means[row].x;
      else
        total += static_cast<double>(norms[row * length]) / means[row].y;
    }
    *out = total;
  }
}

}  // namespace
}  // namespace cuda

void CudaOps::sink_sums(const SinkSums& args) {
  const auto [layers, sequences, width] = check_sink_sums(Check("sink_sums"), args);
  cuda::sink_sums_kernel<<<cuda::grid_of(layers * width, cuda::kThreads, layers * width), cuda::kThreads, 0, stream_>>>(
      args.scores.as<double>(), args.above.as<double>(), args.sink.as<float>(), args.threshold, layers, sequences, width);
  check_launch("sink_sums");
}

void CudaOps::norm_sums(const NormSums& args) {
  const auto [places, sequences, length, positions] = check_norm_sums(Check("norm_sums"), args);
  auto* means = scratch_of<double2>(places * sequences);
  const float* norms = args.norms.as<float>();
  cuda::norm_means_kernel<<<static_cast<unsigned>(places * sequences), cuda::kThreads, 0, stream_>>>(means, norms, length,
                                                                                                    positions);
  cuda::norm_sums_kernel<<<static_cast<unsigned>(places), cuda::kThreads, 0, stream_>>>(
      args.first.as<double>(), args.rest.as<double>(), args.ratio.as<double>(), norms, means, sequences, length, positions);
  check_launch("norm_sums");
}

}  // namespace sinkscope
