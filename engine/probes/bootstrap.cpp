#include "engine/probes/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/model/random.h"

namespace sinkscope {
namespace {

/// The q-quantile of sorted values, between neighbours in proportion.
double quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Bootstrap::Bootstrap(std::int64_t items, std::int64_t resamples, double confidence, std::uint64_t seed)
    : items_(items), confidence_(confidence) {
  if (items < 1) throw std::invalid_argument("Bootstrap: no items");
  if (resamples < 1) throw std::invalid_argument("Bootstrap: no resamples");
  if (!(confidence > 0 && confidence < 1))
    throw std::invalid_argument("Bootstrap: confidence must lie between 0 and 1");
  const std::uint64_t key = random_key(seed, "bootstrap");
  drawn_.resize(static_cast<std::size_t>(items * resamples));
  for (std::size_t i = 0; i < drawn_.size(); ++i)
    drawn_[i] = static_cast<std::int32_t>(random_uniform(key, i) * static_cast<double>(items));
}

Estimate Bootstrap::mean(std::span<const double> values) const {
  const std::span<const double> columns[] = {values};
  return of_means(columns, [](std::span<const double> means) { return means.front(); });
}

Estimate Bootstrap::of_means(std::span<const std::span<const double>> columns,
                             const std::function<double(std::span<const double> means)>& statistic) const {
  const auto n = static_cast<std::size_t>(items_);
  for (const std::span<const double> column : columns)
    if (column.size() != n) throw std::invalid_argument("Bootstrap: a column of another size");
  std::vector<double> means(columns.size());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    double sum = 0;
    for (const double value : columns[c]) sum += value;
    means[c] = sum / static_cast<double>(n);
  }
  Estimate estimate;
  estimate.value = statistic(means);
  std::vector<double> resampled;
  resampled.reserve(drawn_.size() / n);
  for (std::size_t begin = 0; begin < drawn_.size(); begin += n) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i) sum += columns[c][static_cast<std::size_t>(drawn_[begin + i])];
      means[c] = sum / static_cast<double>(n);
    }
    const double value = statistic(means);
    if (!std::isfinite(value)) {  // an interval of what is not always defined would be one of something else
      estimate.low = estimate.high = std::numeric_limits<double>::quiet_NaN();
      return estimate;
    }
    resampled.push_back(value);
  }
  std::sort(resampled.begin(), resampled.end());
  estimate.low = quantile(resampled, (1 - confidence_) / 2);
  estimate.high = quantile(resampled, (1 + confidence_) / 2);
  return estimate;
}

}  // namespace sinkscope
