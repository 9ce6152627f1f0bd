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
  const auto [rows, vectors, selected, channels] = check_row_l2(Check("row_l2"), args);
  const float* x = args.x.as<float>();
  float* out = args.out.as<float>();
  parallel_range(threads_, selected * rows, channels, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* vector = x + (i % rows * vectors + args.first + i / rows) * channels;
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t c = 0; c < channels; ++c) squares += vector[c] * vector[c];
      out[i] = std::sqrt(squares);
    }
  });
}

void CpuOps::abs_statistics(const AbsStatistics& args) {
  check_abs_statistics(Check("abs_statistics"), args);
  const std::int64_t size = args.x.size(), channels = args.x.extent(1);
  const float* values = args.x.as<float>();
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

  int leader = 0;  // the first part with the highest maximum
  for (int part = 1; part < parts; ++part)
    if (highest[part * kSlot] > highest[leader * kSlot]) leader = part;
  std::int64_t place = part_begin(size, leader, parts);
  while (magnitude_of(values[place]) != highest[leader * kSlot]) ++place;
  double* out = args.out.as<double>();
  out[0] = static_cast<double>(std::bit_cast<float>(highest[leader * kSlot]));
  out[1] = static_cast<double>(place / channels);
  out[2] = static_cast<double>(place % channels);
  out[3] = static_cast<double>(std::bit_cast<float>(candidates[rank]));
}

}  // namespace sinkscope
