// The per-step statistics of a decoder, summed over sequences on the device, so that nothing waits for them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// What a step's probes measured, summed over the sequences of its batches (SinkSums, NormSums in kernels/ops.h).
struct StepSums {
  std::int64_t layers = 0, heads = 0, positions = 0;  // L, H, K
  std::int64_t sequences = 0;
  std::vector<double> sink_scores{}, sinks_above{};   // (L, H, K)
  std::vector<double> norm_first{};                   // (L+1, K); empty where norms are not measured
  std::vector<double> norm_rest{}, norm_ratio{};      // (L+1)
  /// Of the sums below, which backward passes add where they are asked to.
  std::int64_t attention_sequences = 0;
  std::vector<double> entropy{};                      // (L, H)
  std::vector<double> key_mass{};                     // (L, T), summed over heads too
  std::vector<double> amax{};                         // of Fp8Scales; empty without
};

/// The sums on the device, f64 and one behind the other in a tensor that its owner keeps.
class StepStatistics {
 public:
  /// Elements for L layers, H heads and K positions.
  static std::int64_t elements(std::int64_t layers, std::int64_t heads, std::int64_t positions);

  /// Without sums to keep.
  StepStatistics() = default;
  /// `sums` (elements) f64.
  StepStatistics(Ops& ops, const Tensor& sums, std::int64_t layers, std::int64_t heads, std::int64_t positions);

  void zero();
  /// Adds a batch: `sink` (L, B, H, K) f32 and `norms` (L+1, B, T) f32, optional.
  void add(const Tensor& sink, const Tensor& norms, double threshold);
  /// Of the sums as they are at this point of the device's work; what it returns waits for them, and is called once.
  std::function<StepSums()> read() const;

 private:
  StepSums sums_of(const std::vector<double>& all) const;

  Ops* ops_ = nullptr;
  Tensor all_;
  Tensor sink_scores_, sinks_above_;           // (L, H, K)
  Tensor norm_first_, norm_rest_, norm_ratio_; // (L+1, K), (L+1), (L+1)
  std::int64_t sequences_ = 0;
  bool norms_ = false;                         // were given
};

/// Entropy and key mass of AttentionStatistics, summed over the sequences of the batches of a step whose backward
/// passes take them. Nothing is done for a step without one.
class AttentionSums {
 public:
  /// Elements for L layers, H heads and sequences of up to T positions.
  static std::int64_t elements(std::int64_t layers, std::int64_t heads, std::int64_t length);

  /// Without sums to keep.
  AttentionSums() = default;
  /// `sums` (elements) f64.
  AttentionSums(Ops& ops, const Tensor& sums, std::int64_t layers, std::int64_t heads);

  void forget() { sequences_ = 0; }
  /// Begins a batch, each of whose layers is then added once. Throws std::invalid_argument where those before were of
  /// another length.
  void begin(std::int64_t sequences, std::int64_t length);
  void add(std::int64_t layer, const Tensor& entropy, const Tensor& key_mass);  // (B, H), (B, H, T) f32
  /// As StepStatistics::read; what it returns writes the sums, where there are any, into those of the other kind.
  std::function<void(StepSums&)> read() const;

 private:
  Ops* ops_ = nullptr;
  Tensor all_;                    // (L, H), then (L, T)
  std::int64_t layers_ = 0, heads_ = 0;
  std::int64_t sequences_ = 0, length_ = 0;  // so far, T of them
};

}  // namespace sinkscope
