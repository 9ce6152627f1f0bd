#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {

void CpuOps::row_l2(const RowL2& args) {
  const Check check("row_l2");
  check.rank("x", args.x, DType::f32, 2);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t channels = args.x.extent(1);
  check.shape("out", args.out, DType::f32, {rows});
  const float* x = args.x.as<float>();
  float* out = args.out.as<float>();
  parallel_range(threads_, rows, channels, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* row = x + n * channels;
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t c = 0; c < channels; ++c) squares += row[c] * row[c];
      out[n] = std::sqrt(squares);
    }
  });
}

AbsStatistics CpuOps::abs_statistics(const Tensor& x) {
  const Check check("abs_statistics");
  check.rank("x", x, DType::f32, 2);
  const std::int64_t size = x.size();
  check.that(size > 0, "x", "is " + describe(x) + ", expected at least one element");
  // The bits of a non-negative float order as the float does, with NaN above infinity: a NaN shows up
  // as the maximum instead of breaking the order.
  const float* values = x.as<float>();
  auto* magnitudes = workspace_.take<std::uint32_t>(size);
  parallel_range(threads_, size, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) magnitudes[i] = std::bit_cast<std::uint32_t>(std::fabs(values[i]));
  });
  AbsStatistics out;
  const std::int64_t place = std::max_element(magnitudes, magnitudes + size) - magnitudes;
  out.max = static_cast<double>(std::bit_cast<float>(magnitudes[place]));
  out.max_row = place / x.extent(1);
  out.max_column = place % x.extent(1);
  std::uint32_t* middle = magnitudes + (size - 1) / 2;
  std::nth_element(magnitudes, middle, magnitudes + size);
  out.median = static_cast<double>(std::bit_cast<float>(*middle));
  return out;
}

}  // namespace sinkscope
