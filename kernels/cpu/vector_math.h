// Scalar functions that the compiler turns into vector code inside `#pragma omp simd` loops (libm's
// are calls, which it cannot vectorise without giving up IEEE rules everywhere).
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace sinkscope {

/// e^x within 2 units in the last place for x in [-86.6, 88]; 0 below (-infinity included),
/// infinity above, NaN for NaN. x = n ln 2 + r with |r| <= ln(2)/2, and the minimax polynomial of
/// e^r from the Cephes library (Moshier 1992, expf).
inline float vector_exp(float x) {
  constexpr float kLowest = -86.6F;
  constexpr float kHighest = 88.0F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  const float shifted = x * 1.44269504088896341F + kRound;
  const float n = shifted - kRound;
  float r = x - n * 0.693359375F;  // ln 2 in two parts, the first one exact in the product
  r = r - n * -2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23U) + 0x3f800000U);
  float y = p * power;
  y = x < kLowest ? 0.0F : y;
  return x > kHighest ? std::numeric_limits<float>::infinity() : y;
}

/// 1 / (1 + e^-x).
inline float vector_sigmoid(float x) { return 1.0F / (1.0F + vector_exp(-x)); }

/// The normal distribution at x.
struct NormalDistribution {
  float below = 0;    // Phi(x), of which no bit is lost in the tail on the left
  float density = 0;  // e^(-x^2/2) / sqrt(2 pi)
};

/// For a = |x|: Phi(-a) = e^(-a^2/2) r P(1 - 2r) with r = 3/(3 + a), since e^(a^2/2) Phi(-a) falls like 1/a; P is
/// the polynomial of degree 8 whose largest relative error up to a = 14 (5e-8) is the least. Beyond 13.1 both
/// are 0.
inline NormalDistribution vector_normal(float x) {
  const float a = x < 0.0F ? -x : x;
  const float power = vector_exp(-0.5F * a * a);
  const float r = 3.0F / (3.0F + a);
  const float u = 1.0F - 2.0F * r;
  float p = -8.892286735e-5F;
  p = p * u - 3.010847785e-4F;
  p = p * u + 3.586797175e-4F;
  p = p * u + 2.307974556e-3F;
  p = p * u - 3.493312078e-3F;
  p = p * u - 1.575203372e-2F;
  p = p * u + 7.667311649e-2F;
  p = p * u - 1.697774284e-1F;
  p = p * u + 2.430278897e-1F;
  const float tail = power * r * p;
  return {x < 0.0F ? tail : 1.0F - tail, power * 0.398942280401432678F};
}

}  // namespace sinkscope
