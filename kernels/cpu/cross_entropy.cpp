#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace sinkscope {

void CpuOps::cross_entropy(const CrossEntropy& args) {
  const Check check("cross_entropy");
  check.rank("logits", args.logits, DType::f32, 2);
  const std::int64_t rows = args.logits.extent(0);
  const std::int64_t vocabulary = args.logits.extent(1);
  check.that(vocabulary > 0, "logits", "is " + describe(args.logits) + ", expected a vocabulary");
  check.shape("targets", args.targets, DType::i32, {rows});
  check.shape("losses", args.losses, DType::f32, {rows});
  check.indices("targets", args.targets, vocabulary, "V", true);

  float* logits = args.logits.as<float>();
  const auto* targets = args.targets.as<std::int32_t>();
  float* losses = args.losses.as<float>();
  parallel_range(threads_, rows, 2 * vocabulary, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      float* row = logits + n * vocabulary;
      const std::int32_t target = targets[n];
      if (target < 0) {
        losses[n] = 0.0F;
        if (args.gradient) std::fill_n(row, vocabulary, 0.0F);
        continue;
      }
      // The row stays in the first or second cache level over the passes.
      float highest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : highest)
      for (std::int64_t v = 0; v < vocabulary; ++v) highest = row[v] > highest ? row[v] : highest;
      const float target_logit = row[target];
      float sum = 0;
      if (!args.gradient) {
#pragma omp simd reduction(+ : sum)
        for (std::int64_t v = 0; v < vocabulary; ++v) sum += vector_exp(row[v] - highest);
      } else {
#pragma omp simd reduction(+ : sum)
        for (std::int64_t v = 0; v < vocabulary; ++v) {
          row[v] = vector_exp(row[v] - highest);
          sum += row[v];
        }
        const float factor = args.scale / sum;
#pragma omp simd
        for (std::int64_t v = 0; v < vocabulary; ++v) row[v] *= factor;
        row[target] -= args.scale;
      }
      losses[n] = std::log(sum) + (highest - target_logit);
    }
  });
}

}  // namespace sinkscope
