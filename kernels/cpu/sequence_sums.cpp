// Probes summed over sequences.
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {

void CpuOps::sink_sums(const SinkSums& args) {
  const auto [layers, sequences, width] = check_sink_sums(Check("sink_sums"), args);
  const float* sink = args.sink.as<float>();
  double* scores = args.scores.as<double>();
  double* above = args.above ? args.above.as<double>() : nullptr;
  parallel_range(threads_, layers, sequences * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t l = begin; l < end; ++l)
      for (std::int64_t b = 0; b < sequences; ++b) {
        const float* row = sink + (l * sequences + b) * width;
        for (std::int64_t i = 0; i < width; ++i) scores[l * width + i] += static_cast<double>(row[i]);
        if (above == nullptr) continue;
        for (std::int64_t i = 0; i < width; ++i) above[l * width + i] += row[i] > args.threshold ? 1.0 : 0.0;
      }
  });
}

void CpuOps::norm_sums(const NormSums& args) {
  const auto extents = check_norm_sums(Check("norm_sums"), args);
  const std::int64_t B = extents.sequences, T = extents.length, K = extents.positions;
  const float* norms = args.norms.as<float>();
  const float* over = args.over ? args.over.as<float>() : nullptr;
  double* first = args.first.as<double>();
  double* rest = args.rest.as<double>();
  double* ratio = args.ratio.as<double>();
  parallel_range(threads_, extents.places, B * T, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t b = 0; b < B; ++b) {
        const std::int64_t row = (r * B + b) * T;
        const auto value = [&](std::int64_t t) {
          const auto norm = static_cast<double>(norms[row + t]);
          return over == nullptr ? norm : norm / static_cast<double>(over[row + t]);
        };
        double others = 0;  // of positions 1 to K-1
        for (std::int64_t t = 0; t < K; ++t) {
          first[r * K + t] += value(t);
          if (t > 0) others += value(t);
        }
        double tail = 0;
        for (std::int64_t t = K; t < T; ++t) tail += value(t);
        rest[r] += T > K ? tail / static_cast<double>(T - K) : std::numeric_limits<double>::quiet_NaN();
        ratio[r] += value(0) / ((others + tail) / static_cast<double>(T - 1));
      }
  });
}

void CpuOps::direction_sums(const DirectionSums& args) {
  check_direction_sums(Check("direction_sums"), args);
  const std::int64_t B = args.x.extent(0), T = args.x.extent(1), C = args.x.extent(2);
  double* sum = args.sum.as<double>();
  for (std::int64_t b = 0; b < B; ++b) {
    const float* vector = args.x.as<float>() + (b * T + args.position) * C;
    double squares = 0;
    for (std::int64_t c = 0; c < C; ++c) squares += static_cast<double>(vector[c]) * static_cast<double>(vector[c]);
    if (squares == 0) continue;
    *args.count.as<double>() += 1;
    const double inverse = 1 / std::sqrt(squares);
    for (std::int64_t c = 0; c < C; ++c) sum[c] += static_cast<double>(vector[c]) * inverse;
  }
}

}  // namespace sinkscope
