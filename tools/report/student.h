// Student's t distribution, for intervals over a few seeds.
#pragma once

#include <cstdint>
#include <span>

namespace sinkscope {

/// The x with P(|t| <= x) = `confidence`, in (0, 1), with `freedom` >= 1 degrees of freedom.
double student_quantile(double confidence, std::int64_t freedom);

/// The mean of n >= 1 values.
double mean_of(std::span<const double> values);

/// Half the width of the interval around the mean of n >= 2 values that holds the mean of their (normal) distribution
/// with this confidence: t s / sqrt(n), s with n - 1.
double student_half_width(std::span<const double> values, double confidence);

}  // namespace sinkscope
