#include "engine/probes/norms.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sinkscope {

namespace {

/// sum_b value(b,0) / mean_{t>=1} value(b,t).
template <class Value>
double first_over_rest(std::size_t rows, std::int64_t length, Value value) {
  double total = 0;
  const auto columns = static_cast<std::size_t>(length);
  for (std::size_t begin = 0; begin < rows; begin += columns) {
    double rest = 0;
    for (std::size_t t = 1; t < columns; ++t) rest += value(begin + t);
    total += value(begin) / (rest / static_cast<double>(length - 1));
  }
  return total;
}

}  // namespace

void add_norms(std::span<const float> norms, std::int64_t length, std::span<double> first, double& rest) {
  const auto columns = static_cast<std::size_t>(length);
  if (columns <= first.size()) rest = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t begin = 0; begin < norms.size(); begin += columns) {
    for (std::size_t p = 0; p < first.size(); ++p) first[p] += static_cast<double>(norms[begin + p]);
    double sum = 0;
    for (std::size_t t = first.size(); t < columns; ++t) sum += static_cast<double>(norms[begin + t]);
    if (columns > first.size()) rest += sum / static_cast<double>(columns - first.size());
  }
}

double norm_ratio_sum(std::span<const float> norms, std::int64_t length) {
  return first_over_rest(norms.size(), length, [&](std::size_t i) { return static_cast<double>(norms[i]); });
}

double amplification_sum(std::span<const float> output, std::span<const float> middle, std::int64_t length) {
  return first_over_rest(output.size(), length, [&](std::size_t i) {
    return static_cast<double>(output[i]) / static_cast<double>(middle[i]);
  });
}

void DirectionTally::add(std::span<const float> vectors) {
  const std::size_t channels = sum_.size();
  for (std::size_t begin = 0; begin < vectors.size(); begin += channels) {
    const std::span<const float> vector = vectors.subspan(begin, channels);
    double squares = 0;
    for (const float x : vector) squares += static_cast<double>(x) * static_cast<double>(x);
    count_ += 1;
    if (squares == 0) continue;
    squares_ += 1;
    const double inverse = 1 / std::sqrt(squares);
    for (std::size_t c = 0; c < channels; ++c) sum_[c] += static_cast<double>(vector[c]) * inverse;
  }
}

double DirectionTally::mean_cosine() const {
  if (count_ < 2) return std::numeric_limits<double>::quiet_NaN();
  double squares = 0;
  for (const double x : sum_) squares += x * x;
  return (squares - squares_) / (count_ * (count_ - 1));
}

void DirectionTally::clear() {
  std::fill(sum_.begin(), sum_.end(), 0.0);
  squares_ = 0;
  count_ = 0;
}

}  // namespace sinkscope
