#include <cmath>
#include <stdexcept>
#include <vector>

#include "engine/model/random.h"
#include "engine/probes/bootstrap.h"
#include "tests/catch.h"

using namespace sinkscope;

namespace {

std::vector<double> normals(std::uint64_t seed, std::int64_t count) {
  std::vector<double> values;
  const std::uint64_t key = random_key(seed, "test");
  for (std::int64_t i = 0; i < count; ++i) values.push_back(3 + random_normal(key, static_cast<std::uint64_t>(i)));
  return values;
}

}  // namespace

TEST_CASE("A bootstrap interval of a mean covers the true mean about as often as it says") {
  // The percentile interval of 40 normals covers a little less than its 95 %: within four standard deviations of that.
  const Bootstrap bootstrap(40, 500, 0.95, 1);
  constexpr int kSamples = 600;
  int covered = 0;
  double width = 0;
  for (std::uint64_t seed = 0; seed < kSamples; ++seed) {
    const Estimate estimate = bootstrap.mean(normals(seed, 40));
    CHECK(estimate.low < estimate.value);
    CHECK(estimate.value < estimate.high);
    if (estimate.low <= 3 && 3 <= estimate.high) ++covered;
    width += (estimate.high - estimate.low) / kSamples;
  }
  CHECK(covered > 0.90 * kSamples);
  CHECK(covered < 0.98 * kSamples);
  CHECK(width == Approx(2 * 1.96 / std::sqrt(40.0)).epsilon(0.05));
}

TEST_CASE("Paired columns stay paired") {
  const Bootstrap bootstrap(30, 400, 0.9, 2);
  const std::vector<double> before = normals(5, 30);
  std::vector<double> after = before;
  for (double& value : after) value -= 0.25;
  const std::span<const double> columns[] = {before, after};
  const Estimate difference = bootstrap.of_means(columns, [](std::span<const double> m) { return m[0] - m[1]; });
  CHECK(difference.value == Approx(0.25));
  CHECK(difference.high - difference.low < 1e-12);  // the sequences vary, the difference does not
  const Estimate ratio = bootstrap.of_means(columns, [](std::span<const double> m) { return m[1] / m[0]; });
  CHECK(ratio.low < ratio.value);
  CHECK(ratio.value < ratio.high);
}

TEST_CASE("Equal seeds give equal bits, and what is not defined has no interval") {
  const std::vector<double> values = normals(7, 20);
  const Estimate a = Bootstrap(20, 300, 0.95, 3).mean(values), b = Bootstrap(20, 300, 0.95, 3).mean(values);
  CHECK(a.low == b.low);
  CHECK(a.high == b.high);
  CHECK(Bootstrap(20, 300, 0.95, 4).mean(values).low != a.low);
  const std::vector<double> constant(20, 1.5);
  const Bootstrap bootstrap(20, 300, 0.95, 3);
  CHECK(bootstrap.mean(constant).low == 1.5);
  CHECK(bootstrap.mean(constant).high == 1.5);
  const std::span<const double> columns[] = {constant, constant};
  const Estimate undefined = bootstrap.of_means(columns, [](std::span<const double> m) { return 1 / (m[0] - m[1]); });
  CHECK(std::isinf(undefined.value));
  CHECK(std::isnan(undefined.low));
}

TEST_CASE("A bootstrap of nothing is refused") {
  CHECK_THROWS_AS(Bootstrap(0, 10, 0.95, 1), std::invalid_argument);
  CHECK_THROWS_AS(Bootstrap(5, 0, 0.95, 1), std::invalid_argument);
  CHECK_THROWS_AS(Bootstrap(5, 10, 1.0, 1), std::invalid_argument);
  CHECK_THROWS_AS(Bootstrap(5, 10, 0.95, 1).mean(std::vector<double>(4, 0.0)), std::invalid_argument);
}
