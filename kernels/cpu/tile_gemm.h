// The small matrix product of the attention tiles: a strip of kStripRows rows of C at a time, B's
// rows as vectors, A's elements as broadcasts, and all of the strip's sums in registers. Operands lie
// in scratch memory padded to whole strips and vectors, so there are no edges.
#pragma once

#include <cstdint>

namespace sinkscope {

#ifdef __AVX512F__
inline constexpr std::int64_t kLanes = 16;     // floats of a vector
inline constexpr std::int64_t kStripRows = 8;  // 8 x 2 sums fill half of 32 registers
#else
inline constexpr std::int64_t kLanes = 8;
inline constexpr std::int64_t kStripRows = 4;  // 4 x 2 sums fill half of 16 registers
#endif

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), may_alias));

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// How the strip reads A: `rows` a[r * stride + k], `columns` a[k * stride + r].
enum class StripOf : std::uint8_t { rows, columns };

template <StripOf kOf, int kVectors>
inline void strip_kernel(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c,
                         std::int64_t c_stride, std::int64_t depth, bool add) {
  Lanes sums[kStripRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kStripRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Lanes{};
  for (std::int64_t k = 0; k < depth; ++k) {
    Lanes row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = *reinterpret_cast<const Lanes*>(b + k * b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kStripRows; ++r) {
      const float factor = kOf == StripOf::rows ? a[r * a_stride + k] : a[k * a_stride + r];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kStripRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      auto* out = reinterpret_cast<Lanes*>(c + r * c_stride + v * kLanes);
      *out = add ? *out + sums[r][v] : sums[r][v];
    }
}

/// C = A B, or C += A B, for kStripRows rows of C and `columns` columns (a multiple of kLanes), the
/// sum running over `depth`. B, C and their strides are aligned to vectors.
template <StripOf kOf>
inline void strip_gemm(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c,
                       std::int64_t c_stride, std::int64_t columns, std::int64_t depth, bool add) {
  std::int64_t n = 0;
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes)
    strip_kernel<kOf, 2>(a, a_stride, b + n, b_stride, c + n, c_stride, depth, add);
  if (n < columns) strip_kernel<kOf, 1>(a, a_stride, b + n, b_stride, c + n, c_stride, depth, add);
}

}  // namespace sinkscope
