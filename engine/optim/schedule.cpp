#include "engine/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace sinkscope {
namespace {

std::int64_t wsd_decay_steps(double fraction, std::int64_t steps) {
  if (fraction <= 0) return 0;
  return std::max<std::int64_t>(1, std::llround(fraction * static_cast<double>(steps)));
}

}  // namespace

double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t step, std::int64_t steps) {
  if (step < 1 || step > steps)
    throw std::invalid_argument("learning_rate: step " + std::to_string(step) + " is not in 1.." +
                                std::to_string(steps));
  const std::int64_t warmup = std::min(schedule.warmup_steps, steps);
  const std::int64_t decay_steps =
      schedule.type == ScheduleType::wsd
          ? wsd_decay_steps(schedule.decay_fraction, steps)
          : steps - warmup;
  const bool decays = schedule.type != ScheduleType::constant &&
                      (schedule.type != ScheduleType::wsd || decay_steps > 0);
  if (decays && step == steps) return peak * schedule.final_fraction;
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (!decays) return peak;

  const std::int64_t begin = std::max(warmup, steps - decay_steps);
  if (step <= begin) return peak;
  const double p = static_cast<double>(step - begin) / static_cast<double>(steps - begin);
  const double f = schedule.final_fraction;
  if (schedule.type == ScheduleType::cosine)
    return peak * (f + (1.0 - f) * (1.0 + std::cos(std::numbers::pi * p)) / 2.0);
  return peak * (1.0 - (1.0 - f) * p);
}

double remaining_rate(const ScheduleConfig& schedule, std::int64_t step, std::int64_t steps) {
  if (step < steps && step <= schedule.warmup_steps) return 1.0;
  return step == 0 ? 1.0 : learning_rate(schedule, 1.0, step, steps);
}

}  // namespace sinkscope
