// The learning rate over the steps of a run.
#pragma once

#include <cstdint>

#include "engine/config/config.h"

namespace sinkscope {

/// The rate of step `step` of `steps`, both counted from 1, for a peak rate of `peak`. W warm-up steps
/// rise linearly: step s <= W runs at peak * s / W. After that, with p going linearly from 0 at
/// step W to 1 at the last step and f the final fraction:
///   constant  peak
///   linear    peak * (1 - (1 - f) p)
///   cosine    peak * (f + (1 - f) (1 + cos(pi p)) / 2)   (Loshchilov and Hutter 2017)
///   wsd       peak, then linearly down to f over the last round(decay_fraction * steps) steps, at
///             least one (warm-up, stable, decay; Hu et al. 2024)
/// The last step of linear, cosine and wsd runs at exactly peak * f, warm-up or not; wsd with a
/// decay_fraction of 0 stays at the peak.
double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t step, std::int64_t steps);

/// What the schedule leaves of the peak rate at step `step`, 0 (nothing done yet) to `steps`: 1 until warm-up ends,
/// then learning_rate() over the peak.
double remaining_rate(const ScheduleConfig& schedule, std::int64_t step, std::int64_t steps);

}  // namespace sinkscope
