// The clock of the CPU.
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/ops.h"
#include "tests/catch.h"

using namespace sinkscope;

TEST_CASE("marks give the milliseconds of each after the first, and are forgotten") {
  const auto ops = make_cpu_ops(1);
  CHECK(ops->marked_ms().empty());
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    ops->mark();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ops->mark();
    ops->mark();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    ops->mark();
    const double passed = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // which no mark sees
    const std::vector<double> times = ops->marked_ms();
    REQUIRE(times.size() == 4);
    CHECK(times[0] == 0);
    CHECK(times[1] >= 2);
    CHECK(times[2] >= times[1]);
    CHECK(times[3] - times[2] >= 3);
    CHECK(times[3] <= passed);
    CHECK(ops->marked_ms().empty());
  }
  ops->mark();
  CHECK(ops->marked_ms() == std::vector<double>{0.0});
}
