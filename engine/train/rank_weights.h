// The weights and moments that a run begins with, goes on from and saves: on the host of rank 0 all of them, on the
// device of each rank what it keeps.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/model/decoder.h"
#include "engine/optim/adamw.h"
#include "engine/train/rank_parameters.h"
#include "kernels/ops.h"

namespace sinkscope {

/// On the host, (flat_size) each; moments are empty where there are none yet, and all are on ranks but 0.
struct HostWeights {
  std::vector<float> parameters, first_moment, second_moment;
};

/// Views of the same.
struct HostWeightViews {
  std::span<const float> parameters, first_moment, second_moment;
};

/// Its functions use the memory of gradients, which is free between steps, and leave it overwritten.
class RankWeights {
 public:
  /// All must outlive it.
  RankWeights(Ops& ops, Decoder& decoder, AdamW& optimizer, RankParameters& parameters, Communicator& ranks);

  /// Rank 0's weights on every rank, and its moments if it `has_moments`, which every rank says alike.
  void spread(const HostWeights& weights, bool has_moments);
  /// On rank 0 what all ranks keep, in place or in `buffers`; nothing elsewhere.
  HostWeightViews collect(HostWeights& buffers);

 private:
  void in_pieces(const std::function<void(const Tensor& piece, std::span<const DealtBlock> blocks)>& work) const;
  void spread(std::span<const float> values, const Tensor& kept);
  std::span<const float> collect(const Tensor& kept, std::vector<float>& buffer);

  Ops* ops_;
  Decoder* decoder_;
  AdamW* optimizer_;
  RankParameters* parameters_;
  Communicator* ranks_;
};

}  // namespace sinkscope
