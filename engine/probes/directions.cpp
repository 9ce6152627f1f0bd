#include "engine/probes/directions.h"

#include <limits>

namespace sinkscope {

double mean_pairwise_cosine(std::span<const double> sum, double units, std::int64_t vectors) {
  if (vectors < 2) return std::numeric_limits<double>::quiet_NaN();
  double squares = 0;
  for (const double x : sum) squares += x * x;
  const auto n = static_cast<double>(vectors);
  return (squares - units) / (n * (n - 1));
}

}  // namespace sinkscope
