// The per-step probes of a training batch: sink scores out of the attention forward kernel and
// residual norms out of the norm kernels, summed over the micro-batches of a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/metrics/records.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {

/// Extents of one micro-batch.
struct StepShape {
  std::int64_t layers = 0;     // L
  std::int64_t sequences = 0;  // B
  std::int64_t heads = 0;      // H
  std::int64_t positions = 0;  // K
  std::int64_t length = 0;     // T, at least 2 and at least K where residual norms are given
};

/// Sums over a step's micro-batches so far; a default-constructed one begins a step.
class StepAccumulator {
 public:
  /// Fills sink_score, sink_rate, sink_score_layer, residual_norm, residual_norm_rest and norm_ratio of
  /// `record` with means over the step's sequences; what was never given stays empty.
  void fill(StepRecord& record) const;

 private:
  friend void summarize_step(std::span<const float> sink, std::span<const float> residual_norms,
                             const StepShape& shape, double threshold, StepAccumulator& accumulator);
  SinkTally sinks_;
  // Sums over sequences, as norms.h defines them.
  std::vector<double> norm_;        // (L+1, K)
  std::vector<double> norm_rest_;   // (L+1)
  std::vector<double> norm_ratio_;  // (L+1)
  double norm_sequences_ = 0;
};

/// Adds one micro-batch, as Decoder::sink_scores and Decoder::residual_norms give it: `sink`
/// (L, B, H, K) and `residual_norms` (L+1, B, T), either of them empty when it is not measured.
/// Layers, then sequences are added in order, so equal micro-batches in equal order give equal
/// bits. `threshold` is the eps of the sink rate, compared strictly for each sequence. Throws
/// std::invalid_argument naming the tensor whose size does not match the shape.
void summarize_step(std::span<const float> sink, std::span<const float> residual_norms, const StepShape& shape,
                    double threshold, StepAccumulator& accumulator);

}  // namespace sinkscope
