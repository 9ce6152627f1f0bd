#include "tools/report/student.h"

#include <cmath>
#include <numbers>
#include <numeric>

namespace sinkscope {

double student_within(double x, std::int64_t freedom) {
  const double n = static_cast<double>(freedom);
  const double theta = std::atan(x / std::sqrt(n));
  const double sine = std::sin(theta), square = std::cos(theta) * std::cos(theta);
  const bool odd = freedom % 2 == 1;
  double sum = 0;
  double term = odd ? std::cos(theta) : 1.0;
  for (std::int64_t k = odd ? 1 : 0; k <= freedom - 2; k += 2) {
    sum += term;
    const double next = static_cast<double>(k);
    term *= square * (next + 1) / (next + 2);
  }
  return odd ? 2 / std::numbers::pi * (theta + sine * sum) : sine * sum;
}

double student_quantile(double confidence, std::int64_t freedom) {
  double low = 0, high = 1;
  while (student_within(high, freedom) < confidence) high *= 2;
  for (int halving = 0; halving < 200 && low < high; ++halving) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (student_within(middle, freedom) < confidence ? low : high) = middle;
  }
  return high;
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double student_half_width(std::span<const double> values, double confidence) {
  const double n = static_cast<double>(values.size());
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return student_quantile(confidence, std::ssize(values) - 1) * std::sqrt(squares / (n - 1) / n);
}

}  // namespace sinkscope
