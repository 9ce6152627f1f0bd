// The per-step probes of a training batch: sink scores out of the attention forward kernel and
// residual norms out of the norm kernels, and at some steps attention entropy and key mass in the backward pass, summed
// over the micro-batches of a step by the decoder.
#pragma once

#include "engine/metrics/records.h"
#include "engine/model/step_statistics.h"

namespace sinkscope {

/// Fills sink_score, sink_rate, sink_score_layer, residual_norm, residual_norm_rest, norm_ratio, entropy and key_mass of
/// `record` with means over the sequences that were summed; what was not measured stays empty.
void fill_step(const StepSums& sums, StepRecord& record);

}  // namespace sinkscope
