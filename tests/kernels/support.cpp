#include "tests/kernels/support.h"

namespace sinkscope::test {

double relative_error(const Doubles& out, const Doubles& reference) {
  if (out.size() != reference.size()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    difference += (out[i] - reference[i]) * (out[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  if (std::isnan(difference) || std::isnan(norm)) return std::numeric_limits<double>::infinity();
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

Doubles plus(const Doubles& a, const Doubles& b) {
  Doubles out = a;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] += b.at(i);
  return out;
}

double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b.at(i);
  return sum;
}

Doubles finite_differences(const std::function<double(const Doubles&)>& loss, Doubles at, double step) {
  Doubles gradient(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double centre = at[i];
    at[i] = centre + step;
    const double above = loss(at);
    at[i] = centre - step;
    gradient[i] = (above - loss(at)) / (2 * step);
    at[i] = centre;
  }
  return gradient;
}

}  // namespace sinkscope::test
