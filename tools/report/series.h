// Curves made small enough for a page without losing what matters in them.
#pragma once

#include <cstddef>
#include <vector>

namespace sinkscope {

struct Series {
  std::vector<double> x;
  std::vector<double> y;  // non-finite: no value here
  std::vector<double> low{}, high{};  // interval of y; empty: none
};

/// The value at `index`, NaN behind the end.
double value_at(const std::vector<double>& values, std::size_t index);

/// At most `limit` points (limit >= 6): of every run of neighbours the smallest, the largest and the
/// first non-finite one stay, and so do the first and the last point. Shorter series are returned as they are.
Series downsample(const Series& series, std::size_t limit);

/// Mean over the `window` values around each, without non-finite ones; non-finite where the value is.
std::vector<double> running_mean(const std::vector<double>& values, std::size_t window);

/// A layer x step map: `values[row][column]` is the mean of the row over the steps of column
/// `from[column] .. to[column]` (half-open in spirit: columns touch).
struct StepMap {
  std::vector<double> from;
  std::vector<double> to;
  std::vector<std::vector<double>> values;
};

/// Groups columns so that at most `limit` remain. `rows[r][i]` belongs to step `x[i]`, which stands
/// for the time since the step before it.
StepMap make_step_map(const std::vector<double>& x, const std::vector<std::vector<double>>& rows, std::size_t limit);

}  // namespace sinkscope
