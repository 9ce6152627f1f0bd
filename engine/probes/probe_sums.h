// What a probe pass sums up on the device over the sequences of a set, so that nothing waits for it layer by layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// Numbers of a query head that AttentionStatistics gives, in this order; the last of models with sink logits alone.
enum class HeadStatistic : std::uint8_t { first_mass, first_argmax, entropy, cos_first, cos_rest, sink_logit_mass };
inline std::int64_t head_statistics(const ModelConfig& model) {
  return model.attention.sink == AttentionSink::none ? 5 : 6;
}

/// The sums, f64 and one behind the other in a tensor that its owner keeps. Symbols as in kernels/ops.h. Places of rows
/// are the residual stream h^-1 to h^(L-1), the attention outputs of the layers, and their MLP outputs.
class ProbeSums {
 public:
  /// Elements for sets of up to T positions, K of them watched.
  static std::int64_t elements(const ModelConfig& model, std::int64_t positions, std::int64_t length);
  static std::int64_t places(const ModelConfig& model) { return 3 * model.layers + 1; }

  ProbeSums() = default;
  /// `room`: at least elements() f64.
  ProbeSums(const Tensor& room, const ModelConfig& model, std::int64_t positions, std::int64_t length);

  /// The views, in the order in which they lie; all of them +=, but `massive`.
  Tensor sink_scores, sinks_above;           // (L, H, K)        SinkSums
  Tensor heads;                              // (S L, H, 1)      SinkSums of each of S HeadStatistics, layer by layer
  Tensor key_mass;                           // (L, 1, T)        SinkSums over sequences and heads
  Tensor norm_first, norm_rest, norm_ratio;  // (3L+1, K), (3L+1), (3L+1)   NormSums of rows
  Tensor gain_first, gain_rest, gain_ratio;  // (L, K), (L), (L)            NormSums of |h^l| / |m^l|
  Tensor head_first, head_rest, head_ratio;  // (2GL, 1), (2GL), (2GL)      NormSums of keys, then values, of each layer
  Tensor directions, direction_counts;       // (2L, C), (2L)    DirectionSums of t = 0 and T/2 of each layer
  Tensor massive;                            // (L, 4)           AbsStatistics

  void zero(Ops& ops) const { ops.zero(all_); }
  void read(Ops& ops);  // waits for the device
  /// A view's values, as read.
  std::span<const double> values(const Tensor& view) const;

 private:
  template <class Function>
  void each(const ModelConfig& model, std::int64_t positions, std::int64_t length, Function&& function);

  Tensor all_;
  std::vector<double> host_;
};

}  // namespace sinkscope
