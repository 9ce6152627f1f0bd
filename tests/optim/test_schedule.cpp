#include <cmath>
#include <cstdint>
#include <numbers>

#include "engine/optim/schedule.h"
#include "tests/catch.h"

namespace sinkscope {
namespace {

ScheduleConfig schedule(ScheduleType type, std::int64_t warmup, double final_fraction, double decay = 0.2) {
  return {.type = type, .warmup_steps = warmup, .final_fraction = final_fraction, .decay_fraction = decay};
}

TEST_CASE("warm-up rises linearly to the peak at its last step") {
  for (const ScheduleType type :
       {ScheduleType::cosine, ScheduleType::linear, ScheduleType::wsd, ScheduleType::constant}) {
    const ScheduleConfig config = schedule(type, 10, 0.1);
    for (std::int64_t step = 1; step <= 10; ++step)
      CHECK(learning_rate(config, 3e-3, step, 100) == 3e-3 * static_cast<double>(step) / 10.0);
  }
}

TEST_CASE("decaying schedules end at exactly the configured rate") {
  for (const ScheduleType type : {ScheduleType::cosine, ScheduleType::linear, ScheduleType::wsd})
    for (const double fraction : {0.0, 0.1, 1.0 / 3.0, 1.0})
      for (const std::int64_t steps : {2, 3, 7, 1000})
        for (const std::int64_t warmup : {std::int64_t{0}, std::int64_t{1}, steps - 1, steps})
          CHECK(learning_rate(schedule(type, warmup, fraction, 0.5), 0.7, steps, steps) == 0.7 * fraction);
}

TEST_CASE("wsd reaches its final rate however few its steps") {
  const ScheduleConfig config = schedule(ScheduleType::wsd, 0, 0.1, 0.2);
  CHECK(learning_rate(config, 1e-3, 1, 2) == 1e-3);
  CHECK(learning_rate(config, 1e-3, 2, 2) == 1e-3 * 0.1);
  for (const std::int64_t steps : {1, 3, 100})
    CHECK(learning_rate(schedule(ScheduleType::wsd, 0, 0.1, 1e-9), 1.0, steps, steps) == 0.1);
}

TEST_CASE("a constant schedule and wsd without decay stay at the peak") {
  for (std::int64_t step = 5; step <= 50; ++step) {
    CHECK(learning_rate(schedule(ScheduleType::constant, 4, 0.1), 1e-3, step, 50) == 1e-3);
    CHECK(learning_rate(schedule(ScheduleType::wsd, 4, 0.1, 0.0), 1e-3, step, 50) == 1e-3);
  }
}

TEST_CASE("values between follow the formulas and never rise") {
  const std::int64_t steps = 110, warmup = 10;
  for (const ScheduleType type : {ScheduleType::cosine, ScheduleType::linear, ScheduleType::wsd}) {
    const ScheduleConfig config = schedule(type, warmup, 0.1, 0.2);
    double before = 1.0;
    for (std::int64_t step = warmup + 1; step <= steps; ++step) {
      const double rate = learning_rate(config, 1.0, step, steps);
      CHECK(rate <= before);
      before = rate;
      const double p = static_cast<double>(step - warmup) / 100.0;
      if (type == ScheduleType::linear) CHECK(rate == Approx(1.0 - 0.9 * p));
      if (type == ScheduleType::cosine) CHECK(rate == Approx(0.1 + 0.45 * (1.0 + std::cos(std::numbers::pi * p))));
      if (type == ScheduleType::wsd && step <= 88) CHECK(rate == 1.0);
      if (type == ScheduleType::wsd && step > 88)
        CHECK(rate == Approx(1.0 - 0.9 * static_cast<double>(step - 88) / 22.0));
    }
  }
}

TEST_CASE("steps outside the run are refused") {
  const ScheduleConfig config = schedule(ScheduleType::cosine, 1, 0.1);
  CHECK_THROWS_WITH(learning_rate(config, 1.0, 0, 10), "learning_rate: step 0 is not in 1..10");
  CHECK_THROWS_WITH(learning_rate(config, 1.0, 11, 10), "learning_rate: step 11 is not in 1..10");
}

TEST_CASE("what remains of the peak is all of it until warm-up ends, and the schedule's share after") {
  for (const ScheduleType type :
       {ScheduleType::constant, ScheduleType::linear, ScheduleType::cosine, ScheduleType::wsd})
    for (const std::int64_t warmup : {0, 1, 40, 100}) {
      ScheduleConfig schedule;
      schedule.type = type;
      schedule.warmup_steps = warmup;
      schedule.final_fraction = 0.05;
      for (std::int64_t step = 0; step <= 100; ++step) {
        INFO("warm-up " << warmup << ", step " << step);
        const bool rising = step == 0 || (step <= warmup && step < 100);
        CHECK(remaining_rate(schedule, step, 100) == (rising ? 1.0 : learning_rate(schedule, 1.0, step, 100)));
      }
    }
}

}  // namespace
}  // namespace sinkscope
