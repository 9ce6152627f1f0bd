// The per-step probes of a training batch: sink scores out of the attention forward kernel and
// residual norms out of the norm kernels, and at some steps attention entropy and key mass in the backward pass, summed
// over the micro-batches of a step by the decoder.
#pragma once

#include <span>

#include "engine/metrics/records.h"
#include "engine/model/parameters.h"
#include "engine/model/step_statistics.h"

namespace sinkscope {

/// Fills sink_score, sink_rate, sink_score_layer, residual_norm, residual_norm_rest, norm_ratio, entropy and key_mass
/// of `record` with means over the sequences that were summed; what was not measured stays empty.
void fill_step(const StepSums& sums, StepRecord& record);

/// Fills gradient_norm_attention and gradient_norm_mlp, of each layer's attention and MLP weights, from the sums of
/// squares that clipping takes of every parameter.
void fill_gradient_norms(std::int64_t layers, std::span<const ParameterSpec> parameters,
                         std::span<const double> squared_norms, StepRecord& record);

}  // namespace sinkscope
