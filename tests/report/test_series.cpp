#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "tools/report/format.h"
#include "tools/report/series.h"

using namespace sinkscope;

TEST_CASE("a downsampled curve keeps its ends, its spikes and its gaps") {
  Series series;
  for (int i = 0; i < 10000; ++i) {
    series.x.push_back(i);
    series.y.push_back(1.0);
  }
  series.y[4321] = 50;
  series.y[7777] = -50;
  series.y[1234] = std::numeric_limits<double>::quiet_NaN();
  const Series small = downsample(series, 300);
  REQUIRE(small.x.size() <= 300);
  REQUIRE(small.x.front() == 0);
  REQUIRE(small.x.back() == 9999);
  bool high = false, low = false, gap = false;
  for (std::size_t i = 0; i < small.x.size(); ++i) {
    if (i > 0) REQUIRE(small.x[i] > small.x[i - 1]);
    high = high || (small.x[i] == 4321 && small.y[i] == 50);
    low = low || (small.x[i] == 7777 && small.y[i] == -50);
    gap = gap || (small.x[i] == 1234 && std::isnan(small.y[i]));
  }
  REQUIRE(high);
  REQUIRE(low);
  REQUIRE(gap);
  REQUIRE(downsample(series, 10000).x.size() == 10000);
}

TEST_CASE("a downsampled curve keeps the intervals of the points that stay") {
  Series series;
  for (int i = 0; i < 100; ++i) {
    series.x.push_back(i);
    series.y.push_back(i % 7);
    series.low.push_back(i - 0.5);
    series.high.push_back(i + 0.25);
  }
  const Series small = downsample(series, 20);
  REQUIRE(small.x.size() < 21);
  REQUIRE(small.low.size() == small.x.size());
  for (std::size_t i = 0; i < small.x.size(); ++i) {
    REQUIRE(small.low[i] == small.x[i] - 0.5);
    REQUIRE(small.high[i] == small.x[i] + 0.25);
  }
}

TEST_CASE("a running mean is centred and passes over what is not finite") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> mean = running_mean({1, 2, 6, nan, 10}, 3);
  REQUIRE(mean[0] == 1);
  REQUIRE(mean[1] == Approx(3));
  REQUIRE(mean[2] == Approx(4));
  REQUIRE(std::isnan(mean[3]));
  REQUIRE(mean[4] == 10);
}

TEST_CASE("a step map groups columns that touch") {
  const StepMap map = make_step_map({10, 20, 30, 40}, {{1, 3, 5, 7}, {2, 2, 2, 2}}, 2);
  REQUIRE(map.from == std::vector<double>{0, 20});
  REQUIRE(map.to == std::vector<double>{20, 40});
  REQUIRE(map.values[0] == std::vector<double>{2, 6});
  REQUIRE(map.values[1] == std::vector<double>{2, 2});
}

TEST_CASE("numbers are printed with four digits") {
  REQUIRE(format_number(std::nullopt) == "-");
  REQUIRE(format_number(std::numeric_limits<double>::quiet_NaN()) == "NaN");
  REQUIRE(format_number(-std::numeric_limits<double>::infinity()) == "-inf");
  REQUIRE(format_number(0.5) == "0.5000");
  REQUIRE(format_number(12.345) == "12.35");
  REQUIRE(format_count(1640000000) == "1.64 B");
  REQUIRE(format_seconds(204) == "3.4 min");
  REQUIRE(escape_html("<a b=\"c'&") == "&lt;a b=&quot;c&#39;&amp;");
}
