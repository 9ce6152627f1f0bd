#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {
namespace {

/// The bits of a non-negative float order as the float does, with NaN above infinity: a NaN shows up
/// as the maximum instead of breaking the order.
std::uint32_t magnitude_of(float value) { return std::bit_cast<std::uint32_t>(std::fabs(value)); }

// The median is looked for among the values that share exponent and first four bits of the mantissa with it.
constexpr int kBucketShift = 19;
constexpr std::int64_t kBuckets = std::int64_t{1} << (31 - kBucketShift);
constexpr std::int64_t kSlot = 16;  // a cache line

}  // namespace

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
  const float* values = x.as<float>();
  const int parts = part_count(threads_, size, 1);
  auto* workspace = workspace_.take<std::uint32_t>(parts * (kBuckets + kSlot) + size);
  std::uint32_t* counts = workspace;                     // (parts, kBuckets)
  std::uint32_t* highest = counts + parts * kBuckets;    // one a part, a cache line apart
  std::uint32_t* candidates = highest + parts * kSlot;   // of each part at the place of its values

  parallel_parts(parts, size, [&](int part, std::int64_t begin, std::int64_t end) {
    std::uint32_t* count = counts + part * kBuckets;
    std::fill_n(count, kBuckets, 0U);
    std::uint32_t top = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint32_t magnitude = magnitude_of(values[i]);
      top = std::max(top, magnitude);
      ++count[magnitude >> kBucketShift];
    }
    highest[part * kSlot] = top;
  });
  // The bucket that holds the middle one, and its rank there.
  std::int64_t rank = (size - 1) / 2;
  std::uint32_t bucket = 0;
  for (;; ++bucket) {
    std::int64_t count = 0;
    for (int part = 0; part < parts; ++part) count += counts[part * kBuckets + bucket];
    if (rank < count) break;
    rank -= count;
  }
  parallel_parts(parts, size, [&](int /*part*/, std::int64_t begin, std::int64_t end) {
    std::uint32_t* out = candidates + begin;  // never ahead of what was read
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint32_t magnitude = magnitude_of(values[i]);
      *out = magnitude;
      out += magnitude >> kBucketShift == bucket ? 1 : 0;
    }
  });
  std::uint32_t* gathered = candidates;
  for (int part = 0; part < parts; ++part)
    gathered = std::copy_n(candidates + part_begin(size, part, parts), counts[part * kBuckets + bucket], gathered);
  std::nth_element(candidates, candidates + rank, gathered);

  AbsStatistics out;
  out.median = static_cast<double>(std::bit_cast<float>(candidates[rank]));
  int leader = 0;  // the first part with the highest maximum
  for (int part = 1; part < parts; ++part)
    if (highest[part * kSlot] > highest[leader * kSlot]) leader = part;
  std::int64_t place = part_begin(size, leader, parts);
  while (magnitude_of(values[place]) != highest[leader * kSlot]) ++place;
  out.max = static_cast<double>(std::bit_cast<float>(highest[leader * kSlot]));
  out.max_row = place / x.extent(1);
  out.max_column = place % x.extent(1);
  return out;
}

}  // namespace sinkscope
