#include "tools/report/student.h"

#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

namespace sinkscope {

double student_quantile(double confidence, std::int64_t freedom) {
  return boost::math::quantile(boost::math::students_t(static_cast<double>(freedom)), (1 + confidence) / 2);
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
