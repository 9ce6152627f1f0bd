#include "tools/report/series.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace sinkscope {

double value_at(const std::vector<double>& values, std::size_t index) {
  return index < values.size() ? values[index] : std::numeric_limits<double>::quiet_NaN();
}

Series downsample(const Series& series, std::size_t limit) {
  const std::size_t count = series.x.size();
  if (count <= limit) return series;
  const std::size_t buckets = (limit - 2) / 3;
  Series result;
  result.x.reserve(limit);
  result.y.reserve(limit);
  const auto keep = [&](std::size_t index) {
    result.x.push_back(series.x[index]);
    result.y.push_back(series.y[index]);
    if (series.low.empty()) return;
    result.low.push_back(series.low[index]);
    result.high.push_back(series.high[index]);
  };
  keep(0);
  const std::size_t inner = count - 2;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
    const std::size_t begin = 1 + inner * bucket / buckets;
    const std::size_t end = 1 + inner * (bucket + 1) / buckets;
    std::size_t smallest = end, largest = end, missing = end;
    for (std::size_t i = begin; i < end; ++i) {
      if (!std::isfinite(series.y[i])) {
        if (missing == end) missing = i;
        continue;
      }
      if (smallest == end || series.y[i] < series.y[smallest]) smallest = i;
      if (largest == end || series.y[i] > series.y[largest]) largest = i;
    }
    std::array<std::size_t, 3> chosen = {smallest, largest, missing};
    std::sort(chosen.begin(), chosen.end());
    std::size_t previous = end;
    for (const std::size_t index : chosen) {
      if (index < end && index != previous) keep(index);
      previous = index;
    }
  }
  keep(count - 1);
  return result;
}

std::vector<double> running_mean(const std::vector<double>& values, std::size_t window) {
  if (window <= 1) return values;
  const std::size_t count = values.size();
  std::vector<double> sums(count + 1, 0.0);
  std::vector<std::size_t> counts(count + 1, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const bool finite = std::isfinite(values[i]);
    sums[i + 1] = sums[i] + (finite ? values[i] : 0.0);
    counts[i + 1] = counts[i] + (finite ? 1 : 0);
  }
  std::vector<double> result(count, std::numeric_limits<double>::quiet_NaN());
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) continue;
    // The half window shrinks towards both ends, so that it stays centred and no end is biased.
    const std::size_t half = std::min({window / 2, i, count - 1 - i});
    const std::size_t begin = i - half, end = i + half + 1;
    result[i] = (sums[end] - sums[begin]) / static_cast<double>(counts[end] - counts[begin]);
  }
  return result;
}

StepMap make_step_map(const std::vector<double>& x, const std::vector<std::vector<double>>& rows, std::size_t limit) {
  StepMap map;
  const std::size_t count = x.size();
  const std::size_t columns = std::min(count, limit);
  map.values.resize(rows.size());
  for (std::size_t column = 0; column < columns; ++column) {
    const std::size_t begin = count * column / columns;
    const std::size_t end = count * (column + 1) / columns;
    map.from.push_back(begin == 0 ? std::max(0.0, x[0] - (count > 1 ? x[1] - x[0] : 1.0)) : x[begin - 1]);
    map.to.push_back(x[end - 1]);
    for (std::size_t row = 0; row < rows.size(); ++row) {
      double sum = 0;
      std::size_t finite = 0;
      for (std::size_t i = begin; i < end; ++i) {
        if (!std::isfinite(rows[row][i])) continue;
        sum += rows[row][i];
        ++finite;
      }
      map.values[row].push_back(finite > 0 ? sum / static_cast<double>(finite)
                                           : std::numeric_limits<double>::quiet_NaN());
    }
  }
  return map;
}

}  // namespace sinkscope
