// The FP8 numbers, by their definition (Micikevicius et al. 2022, table 1): an oracle for their rounding.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/support.h"

namespace sinkscope::test {

/// The finite magnitudes of a format by their codes, ascending.
inline Doubles magnitudes_of(int exponent_bits, int mantissa_bits, double largest) {
  const int bias = (1 << (exponent_bits - 1)) - 1, fractions = 1 << mantissa_bits;
  Doubles out;
  for (int code = 0; code < 1 << (exponent_bits + mantissa_bits); ++code) {
    const int exponent = code / fractions, fraction = code % fractions;
    const double value = exponent == 0 ? std::ldexp(fraction, 1 - bias - mantissa_bits)
                                       : std::ldexp(fractions + fraction, exponent - bias - mantissa_bits);
    if (value <= largest) out.push_back(value);
  }
  return out;
}

inline Doubles e4m3() { return magnitudes_of(4, 3, 448); }
inline Doubles e5m2() { return magnitudes_of(5, 2, 57344); }

/// The nearest, of two the one of even code; NaN of what is not finite.
inline double nearest(const Doubles& magnitudes, double x) {
  if (!std::isfinite(x)) return std::numeric_limits<double>::quiet_NaN();
  if (std::abs(x) >= magnitudes.back()) return std::copysign(magnitudes.back(), x);
  std::size_t best = 0;
  for (std::size_t code = 1; code < magnitudes.size(); ++code) {
    const double to = std::abs(std::abs(x) - magnitudes[code]), before = std::abs(std::abs(x) - magnitudes[best]);
    if (to < before || (to == before && code % 2 == 0)) best = code;
  }
  return std::copysign(magnitudes[best], x);
}

inline Doubles rounded(const Doubles& magnitudes, const Doubles& x, double scale) {
  Doubles out;
  for (const double value : x) out.push_back(nearest(magnitudes, value * scale) / scale);
  return out;
}

inline double largest_magnitude(const Doubles& x) {
  double most = 0;
  for (const double value : x) most = std::max(most, std::abs(value));
  return most;
}

}  // namespace sinkscope::test
