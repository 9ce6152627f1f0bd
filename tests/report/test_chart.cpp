#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tools/report/chart.h"

namespace sinkscope {
namespace {

const double kNothing = std::numeric_limits<double>::quiet_NaN();

TEST_CASE("a series is resampled within a wider range, and blank beyond its ends") {
  const std::vector<std::int64_t> steps = {20, 30, 40};
  const std::vector<double> values = {2, 3, 5};
  const std::vector<double> columns = resample_between(steps, values, 0, 100, 10);
  REQUIRE(columns.size() == 10);
  for (const std::size_t outside : {0, 1, 5, 6, 7, 8, 9}) CHECK(std::isnan(columns[outside]));
  CHECK(columns[2] == 2);
  CHECK(columns[3] == 3);
  CHECK(columns[4] == 5);
  // Between two values, on the line between them: columns of 5 steps, their middles.
  const std::vector<double> fine = resample_between(steps, values, 0, 100, 20);
  CHECK(fine[5] == Approx(2.75));
  CHECK(fine[7] == Approx(4.5));
  // Several values in a column: their mean. The last column takes the last step.
  CHECK(resample_between(steps, values, 20, 40, 1).front() == Approx(10.0 / 3));
}

TEST_CASE("a sparkline goes from the smallest to the largest value") {
  CHECK(sparkline(std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7}) == "▁▂▃▄▅▆▇█");
  CHECK(sparkline(std::vector<double>{7, 0}) == "█▁");
  CHECK(sparkline(std::vector<double>{3, 3}) == "▅▅");
  CHECK(sparkline(std::vector<double>{1, kNothing, 2, INFINITY}) == "▁ █ ");
  CHECK(sparkline({}).empty());
}

}  // namespace
}  // namespace sinkscope
