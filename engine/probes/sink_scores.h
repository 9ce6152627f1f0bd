// Sink scores and what is read off them: rates, the excess over uniform attention, the dominant
// position. alpha_k = 1/(T-k) sum_{t>=k} A[t,k] (Gu et al., "When Attention Sink Emerges in Language
// Models", ICLR 2025); the scores themselves come out of the attention kernels.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sinkscope {

/// u_k, k < K: the sink scores of uniform causal attention, 1/(T-k) sum_{t=k}^{T-1} 1/(t+1).
/// Throws std::invalid_argument unless 0 <= positions <= length.
std::vector<double> uniform_sink_scores(std::int64_t length, std::int64_t positions);

/// Mean sink score over u_k, for each position; `scores` (K), at most `length` of them.
std::vector<double> sink_excess(std::span<const double> scores, std::int64_t length);

/// The first position of the largest value; values that are not numbers never lead. Nothing when
/// there is no number among them.
std::optional<std::int64_t> dominant_position(std::span<const double> values);

/// Sums of sink scores over sequences, and counts of those above the threshold: each sequence thresholded by itself,
/// strictly (alpha > eps, at the precision of the scores), before averaging (SinkSums in kernels/ops.h).
class SinkTally {
 public:
  SinkTally(std::int64_t layers, std::int64_t heads, std::int64_t positions);

  /// `sums` and `counts` (L, H, K) over so many sequences of every layer. Throws std::invalid_argument when the size
  /// is another.
  void add_sums(std::int64_t sequences, std::span<const double> sums, std::span<const double> counts);

  std::int64_t layers() const { return layers_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t positions() const { return positions_; }

  // Means over the sequences so far; NaN before the first.
  std::vector<double> head_scores() const;   // (L, H, K)
  std::vector<double> layer_scores() const;  // (L, K), over heads too
  std::vector<double> scores() const;        // (K), over layers and heads too
  std::vector<double> layer_rates() const;   // (L, K)
  /// (K) over layers >= from_layer; empty when there is no such layer.
  std::vector<double> rates(std::int64_t from_layer = 0) const;

 private:
  double sum(std::int64_t layer, std::int64_t head, std::int64_t position) const;
  double count(std::int64_t layer, std::int64_t position) const;

  std::int64_t layers_ = 0, heads_ = 0, positions_ = 0;
  double sequences_ = 0;
  std::vector<double> sums_;    // (L, H, K)
  std::vector<double> counts_;  // (L, K)
};

}  // namespace sinkscope
