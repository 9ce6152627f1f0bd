#include "kernels/cpu/fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace sinkscope {
namespace {

struct Format {
  int mantissa = 0;           // bits behind the point
  float smallest_normal = 0;  // below it numbers are as far apart as just above
  float largest = 0;
};

constexpr Format format_of(Fp8Format format) {
  return format == Fp8Format::e4m3 ? Format{3, 0x1p-6F, kLargestE4m3} : Format{2, 0x1p-14F, kLargestE5m2};
}

constexpr std::uint32_t kSign = 0x80000000U, kExponent = 0x7f800000U;

/// The bits of |x|, of which those of a NaN are above infinity's, and both above all others.
std::uint32_t magnitude_bits(float x) { return std::bit_cast<std::uint32_t>(x) & ~kSign; }

}  // namespace

void round_to_fp8(int threads, Fp8Format format, const Fp8Scaling& scaling, const float* x, std::int64_t count,
                  float* out) {
  const float scale = *scaling.scale.as<float>(), inverse = *scaling.inverse.as<float>();
  const Format f = format_of(format);
  // 2^(e + 23 - mantissa) added to a number below 2^(e + 1) leaves it the mantissa's bits, rounded to even.
  const auto shift = static_cast<std::uint32_t>(23 - f.mantissa) << 23;
  const auto smallest = std::bit_cast<std::uint32_t>(f.smallest_normal);
  parallel_range(threads, count, 1, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint32_t sign = std::bit_cast<std::uint32_t>(x[i]) & kSign;
      const float scaled = std::min(std::bit_cast<float>(magnitude_bits(x[i] * scale)), f.largest);
      const std::uint32_t exponent = std::max(std::bit_cast<std::uint32_t>(scaled) & kExponent, smallest);
      const float magic = std::bit_cast<float>(exponent + shift);
      const float rounded = std::bit_cast<float>(std::bit_cast<std::uint32_t>((scaled + magic) - magic) | sign);
      out[i] = magnitude_bits(x[i]) >= kExponent ? std::numeric_limits<float>::quiet_NaN() : rounded * inverse;
    }
  });
}

void raise_amax(int threads, const Fp8Scaling& scaling, const float* x, std::int64_t count) {
  auto* amax = scaling.amax.as<float>();
  const int parts = part_count(threads, count, 1);
  std::vector<std::uint32_t> largest(static_cast<std::size_t>(parts));
  parallel_parts(parts, count, [&](int part, std::int64_t begin, std::int64_t end) {
    std::uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (std::int64_t i = begin; i < end; ++i) most = std::max(most, magnitude_bits(x[i]));
    largest[static_cast<std::size_t>(part)] = most;
  });
  const std::uint32_t most = std::max(magnitude_bits(*amax), *std::max_element(largest.begin(), largest.end()));
  *amax = std::bit_cast<float>(most);
}

}  // namespace sinkscope
