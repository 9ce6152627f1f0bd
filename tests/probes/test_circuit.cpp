#include <cmath>
#include <limits>
#include <vector>

#include "engine/probes/circuit.h"
#include "tests/catch.h"

using namespace sinkscope;

using Ratios = std::vector<double>;

TEST_CASE("the step-up layer is where the logarithm of the ratio rises most") {
  CHECK(step_up_layer(Ratios{1.0, 1.2, 6.0, 7.0}) == 1);
  CHECK(step_up_layer(Ratios{1.0, 5.0, 6.0, 7.0}) == 0);
  CHECK(step_up_layer(Ratios{1.0, 1.1, 1.2, 9.0}) == 2);
  CHECK(step_up_layer(Ratios{0.1, 0.4, 2.5, 3.0}) == 1);     // a factor counts, not a difference
  CHECK(step_up_layer(Ratios{1.0, 2.0, 4.0, 4.0}) == 0);     // the first of equals
  CHECK(step_up_layer(Ratios{9.0, 8.0, 7.5, 7.4}) == 2);     // already large before block 0: the least fall
}

TEST_CASE("the circuit is defined only above a ratio of 2 in some block") {
  CHECK_FALSE(step_up_layer(Ratios{1.0, 1.5, 2.0}).has_value());
  CHECK_FALSE(step_up_layer(Ratios{5.0, 1.5, 1.9}).has_value());  // the embedding's own ratio does not count
  CHECK(step_up_layer(Ratios{1.0, 1.5, 2.0001}).has_value());
  CHECK_FALSE(first_two_layer_concentration(Ratios{1.0, 1.5, 2.0}).has_value());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, infinity, 0.0, -1.0}) {
    CHECK_FALSE(step_up_layer(Ratios{1.0, bad, 3.0}).has_value());
    CHECK_FALSE(first_two_layer_concentration(Ratios{bad, 3.0, 3.0}).has_value());
  }
  CHECK_FALSE(step_up_layer({}).has_value());
  CHECK_FALSE(step_up_layer(Ratios{3.0}).has_value());
}

TEST_CASE("the concentration is the share of the rise that the first two layers reach") {
  CHECK(*first_two_layer_concentration(Ratios{1, 2, 4, 16}) == Approx(0.5));
  CHECK(*first_two_layer_concentration(Ratios{1, 8, 2, 3}) == Approx(1.0));
  CHECK(*first_two_layer_concentration(Ratios{1, 0.5, 0.9, 16}) == 0.0);
  CHECK(*first_two_layer_concentration(Ratios{1, 4}) == Approx(1.0));  // one layer
}

TEST_CASE("the onset is the first probe of a stretch that stays") {
  CHECK(onset_index(Ratios{1, 2, 2, 1, 2, 3, 2, 2}, 2, 3) == std::size_t{4});
  CHECK(onset_index(Ratios{2, 2, 2}, 2, 3) == std::size_t{0});
  CHECK_FALSE(onset_index(Ratios{1, 2, 2}, 2, 3).has_value());
  CHECK_FALSE(onset_index(Ratios{2, std::nan(""), 2, 2}, 2, 3).has_value());
}
