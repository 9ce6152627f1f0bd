// Probes summed over sequences in a fixed order: a few numbers a layer go to the host.
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
constexpr int kColumns = kWarp, kGroups = kThreads / kColumns;  // one thread alone would wait for every load

/// Thread (column, group): a column is a (layer, head, position), `width` of them in a layer; a group adds every
/// kGroups-th sequence, and then the groups are added.
__global__ void __launch_bounds__(kThreads)
    sink_sums_kernel(double* scores, double* above, const float* sink, float threshold, std::int64_t columns,
                     std::int64_t sequences, std::int64_t width) {
  __shared__ double totals[kGroups][kColumns];
  __shared__ int counts[kGroups][kColumns];
  const int column = static_cast<int>(threadIdx.x) % kColumns, group = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t i = std::int64_t{blockIdx.x} * kColumns + column;
  double total = 0;
  int count = 0;
  if (i < columns) {
    const float* values = sink + i / width * sequences * width + i % width;
#pragma unroll 8
    for (std::int64_t b = group; b < sequences; b += kGroups) {
      const float score = values[b * width];
      total += static_cast<double>(score);
      count += score > threshold ? 1 : 0;
    }
  }
  totals[group][column] = total;
  counts[group][column] = count;
  __syncthreads();
  if (group > 0 || i >= columns) return;
#pragma unroll
  for (int g = 1; g < kGroups; ++g) {
    total += totals[g][column];
    count += counts[g][column];
  }
  scores[i] += total;
  if (above != nullptr) above[i] += static_cast<double>(count);
}

/// norms, or their ratio to `over` where that is given.
struct Values {
  const float *norms, *over;
  __device__ double operator[](std::int64_t i) const {
    const auto norm = static_cast<double>(norms[i]);
    return over == nullptr ? norm : norm / static_cast<double>(over[i]);
  }
};

/// One block a sequence of a place: means[row] = (mean over t >= K, mean over t >= 1).
__global__ void __launch_bounds__(kThreads)
    norm_means_kernel(double2* means, Values values, std::int64_t length, std::int64_t positions) {
  const std::int64_t row = blockIdx.x;
  double others = 0, tail = 0;
  for (std::int64_t t = 1 + threadIdx.x; t < length; t += kThreads)
    (t < positions ? others : tail) += values[row * length + t];
  others = block_sum<kThreads>(others);
  tail = block_sum<kThreads>(tail);
  if (threadIdx.x == 0)  // 0/0 is the NaN of a rest that is empty
    means[row] = {tail / static_cast<double>(length - positions), (others + tail) / static_cast<double>(length - 1)};
}

/// One warp for each number of a place: its K positions, then the two means.
__global__ void __launch_bounds__(kThreads)
    norm_sums_kernel(double* first, double* rest, double* ratio, Values values, const double2* means,
                     std::int64_t places, std::int64_t sequences, std::int64_t length, std::int64_t positions) {
  const std::int64_t i = std::int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const std::int64_t r = i / (positions + 2), p = i % (positions + 2);
  if (r >= places) return;
  double total = 0;
  for (std::int64_t b = threadIdx.x % kWarp; b < sequences; b += kWarp) {
    const std::int64_t row = r * sequences + b;
    if (p < positions)
      total += values[row * length + p];
    else if (p == positions)
      total += means[row].x;
    else
      total += values[row * length] / means[row].y;
  }
  total = warp_sum(total);
  if (threadIdx.x % kWarp == 0)
    *(p < positions ? first + r * positions + p : (p == positions ? rest : ratio) + r) += total;
}

constexpr int kVectors = 64;  // whose lengths are known at once

/// Thread per channel, after the block's warps have measured the vectors.
template <class T>
__global__ void __launch_bounds__(kThreads)
    direction_sums_kernel(double* sum, double* count, const T* x, std::int64_t sequences, std::int64_t stride,
                          std::int64_t channels) {
  __shared__ double inverse[kVectors];  // below 0 for a vector of length 0
  const std::int64_t c = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  double total = 0, longer = 0;
  for (std::int64_t b0 = 0; b0 < sequences; b0 += kVectors) {
    const auto vectors = static_cast<int>(min(sequences - b0, std::int64_t{kVectors}));
    __syncthreads();
    for (int v = static_cast<int>(threadIdx.x) / kWarp; v < vectors; v += kThreads / kWarp) {
      double squares = 0;
      for (std::int64_t i = threadIdx.x % kWarp; i < channels; i += kWarp) {
        const auto value = static_cast<double>(to_float(x[(b0 + v) * stride + i]));
        squares += value * value;
      }
      squares = warp_sum(squares);
      if (threadIdx.x % kWarp == 0) inverse[v] = squares == 0 ? -1.0 : 1.0 / sqrt(squares);
    }
    __syncthreads();
    for (int v = 0; v < vectors; ++v) {
      if (inverse[v] < 0) continue;
      longer += 1;
      if (c < channels) total += static_cast<double>(to_float(x[(b0 + v) * stride + c])) * inverse[v];
    }
  }
  if (c < channels) sum[c] += total;
  if (c == 0) *count += longer;
}

}  // namespace
}  // namespace cuda

void CudaOps::sink_sums(const SinkSums& args) {
  const auto [layers, sequences, width] = check_sink_sums(Check("sink_sums"), args);
  const std::int64_t columns = layers * width;
  cuda::sink_sums_kernel<<<cuda::grid_of(columns, cuda::kColumns, columns), cuda::kThreads, 0, stream_>>>(
      args.scores.as<double>(), cuda::pointer<double>(args.above), args.sink.as<float>(), args.threshold, columns,
      sequences, width);
  check_launch("sink_sums");
}

void CudaOps::norm_sums(const NormSums& args) {
  const auto [places, sequences, length, positions] = check_norm_sums(Check("norm_sums"), args);
  auto* means = scratch_of<double2>(places * sequences);
  const cuda::Values values{args.norms.as<float>(), cuda::pointer<const float>(args.over)};
  cuda::norm_means_kernel<<<static_cast<unsigned>(places * sequences), cuda::kThreads, 0, stream_>>>(means, values,
                                                                                                     length, positions);
  const std::int64_t sums = places * (positions + 2);
  cuda::norm_sums_kernel<<<cuda::grid_of(sums, cuda::kThreads / cuda::kWarp, sums), cuda::kThreads, 0, stream_>>>(
      args.first.as<double>(), args.rest.as<double>(), args.ratio.as<double>(), values, means, places, sequences,
      length, positions);
  check_launch("norm_sums");
}

void CudaOps::direction_sums(const DirectionSums& args) {
  check_direction_sums(Check("direction_sums"), args, real_);
  const std::int64_t B = args.x.extent(0), T = args.x.extent(1), C = args.x.extent(2);
  if (B == 0 || C == 0) return;
  cuda::with_real(real_, [&]<class R>(R) {
    cuda::direction_sums_kernel<<<cuda::grid_of(C, cuda::kThreads, C), cuda::kThreads, 0, stream_>>>(
        args.sum.as<double>(), args.count.as<double>(), cuda::pointer<const R>(args.x) + args.position * C, B, T * C,
        C);
  });
  check_launch("direction_sums");
}

}  // namespace sinkscope
