#include "tools/bench/ceilings.h"

#include <algorithm>

#include "tools/bench/arrays.h"

namespace sinkscope {
namespace {

constexpr int kRuns = 10;

template <class Work>
double best_ms(Ops& ops, Work&& work) {
  work();
  double best = ops.time_ms(work);
  for (int i = 1; i < kRuns; ++i) best = std::min(best, ops.time_ms(work));
  return best;
}

}  // namespace

Ceilings measure_ceilings(Ops& ops) {
  const bool gpu = ops.device_name() != "cpu";
  RandomSource source(ops);
  Ceilings ceilings;
  {
    // Far beyond the caches: 50 MB on the GPU, 32 MB on the CPU.
    const std::int64_t elements = std::int64_t{gpu ? 256 : 32} << 20;
    ArraySet arrays(ops, source);
    const Tensor from = arrays.normal({elements}, DType::f32), to = arrays.zeros({elements}, DType::f32);
    ceilings.copy_bytes = arrays.bytes();
    ceilings.copy_rate = static_cast<double>(arrays.bytes()) / (best_ms(ops, [&] { ops.copy(to, from); }) * 1e-3);
  }
  const std::int64_t n = gpu ? 8192 : 2048;
  ArraySet arrays(ops, source);
  const LinearForward product{
      .out = arrays.zeros({n, n}), .x = arrays.normal({n, n}), .weight = arrays.normal({n, n}), .bias = {}};
  const double side = static_cast<double>(n);
  ceilings.matrix_size = n;
  ceilings.matrix_rate = 2 * side * side * side / (best_ms(ops, [&] { ops.linear_forward(product); }) * 1e-3);
  return ceilings;
}

double floor_ms(const Ceilings& ceilings, double bytes, double flops) {
  return std::max(bytes / ceilings.copy_rate, flops / ceilings.matrix_rate) * 1e3;
}

}  // namespace sinkscope
