// Percentile bootstrap over sequences (Efron 1979).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace sinkscope {

/// A statistic of a sample and its interval. NaN where it is not defined.
struct Estimate {
  double value = 0;
  double low = 0, high = 0;
};

/// Resamples of n items with replacement, drawn once, so that statistics over the same items stay paired.
class Bootstrap {
 public:
  /// `confidence` in (0, 1), the share of resampled statistics inside an interval. Throws std::invalid_argument for
  /// no items, no resamples or another confidence.
  Bootstrap(std::int64_t items, std::int64_t resamples, double confidence, std::uint64_t seed);

  /// Mean of `values` (n).
  Estimate mean(std::span<const double> values) const;
  /// `statistic` of the means of several columns of n values each.
  Estimate of_means(std::span<const std::span<const double>> columns,
                    const std::function<double(std::span<const double> means)>& statistic) const;

 private:
  std::int64_t items_;
  double confidence_;
  std::vector<std::int32_t> drawn_;  // (resamples, n)
};

}  // namespace sinkscope
