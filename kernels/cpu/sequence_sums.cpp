// Probes of every step, summed over sequences.
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {

void CpuOps::sink_sums(const SinkSums& args) {
  const auto [layers, sequences, width] = check_sink_sums(Check("sink_sums"), args);
  const float* sink = args.sink.as<float>();
  double* scores = args.scores.as<double>();
  double* above = args.above.as<double>();
  parallel_range(threads_, layers, sequences * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t l = begin; l < end; ++l)
      for (std::int64_t b = 0; b < sequences; ++b) {
        const float* row = sink + (l * sequences + b) * width;
        for (std::int64_t i = 0; i < width; ++i) {
          scores[l * width + i] += static_cast<double>(row[i]);
          above[l * width + i] += row[i] > args.threshold ? 1.0 : 0.0;
        }
      }
  });
}

void CpuOps::norm_sums(const NormSums& args) {
  const auto extents = check_norm_sums(Check("norm_sums"), args);
  const std::int64_t B = extents.sequences, T = extents.length, K = extents.positions;
  const float* norms = args.norms.as<float>();
  double* first = args.first.as<double>();
  double* rest = args.rest.as<double>();
  double* ratio = args.ratio.as<double>();
  parallel_range(threads_, extents.places, B * T, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t b = 0; b < B; ++b) {
        const float* row = norms + (r * B + b) * T;
        double others = 0;  // of positions 1 to K-1
        for (std::int64_t t = 0; t < K; ++t) {
          first[r * K + t] += static_cast<double>(row[t]);
          if (t > 0) others += static_cast<double>(row[t]);
        }
        double tail = 0;
        for (std::int64_t t = K; t < T; ++t) tail += static_cast<double>(row[t]);
        rest[r] += T > K ? tail / static_cast<double>(T - K) : std::numeric_limits<double>::quiet_NaN();
        ratio[r] += static_cast<double>(row[0]) / ((others + tail) / static_cast<double>(T - 1));
      }
  });
}

}  // namespace sinkscope
