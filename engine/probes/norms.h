// Norms, layer by layer: what is read off the Euclidean norms of rows, and the stability of directions.
// Rows come as (B, T); sums go over the sequences b, in order, so equal calls give equal bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sinkscope {

/// first[p] += sum_b norms[b,p] for p < first.size(); rest += sum_b mean_{t >= K} norms[b,t] with
/// K = first.size(). Without positions beyond K the rest becomes NaN. `norms` (B, T), K <= T.
void add_norms(std::span<const float> norms, std::int64_t length, std::span<double> first, double& rest);

/// R summed over sequences: sum_b norms[b,0] / mean_{t>=1} norms[b,t]. T >= 2.
double norm_ratio_sum(std::span<const float> norms, std::int64_t length);

/// G summed over sequences: sum_b g[b,0] / mean_{t>=1} g[b,t] with g = output / middle, the factor by
/// which the MLP changes the norm of the residual stream. Both (B, T), T >= 2.
double amplification_sum(std::span<const float> output, std::span<const float> middle, std::int64_t length);

/// Mean pairwise cosine of vectors that arrive in batches.
class DirectionTally {
 public:
  explicit DirectionTally(std::int64_t channels) : sum_(static_cast<std::size_t>(channels), 0.0) {}

  /// `vectors` (n, C). A vector of length 0 has cosine 0 with every other.
  void add(std::span<const float> vectors);
  /// With unit vectors u: (|sum u|^2 - sum |u|^2) / (n (n - 1)), which is the mean of u_a.u_b over the
  /// pairs a != b. NaN for fewer than two vectors.
  double mean_cosine() const;
  /// Forgets every vector.
  void clear();

 private:
  std::vector<double> sum_;  // (C) of unit vectors
  double squares_ = 0;       // of their lengths: the vectors that are not 0
  double count_ = 0;
};

}  // namespace sinkscope
