// The gradients of a step, summed over the ranks in buckets: all of them on every rank, or on each its share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/config/config.h"
#include "engine/model/arena.h"
#include "engine/model/decoder.h"
#include "engine/optim/adamw.h"
#include "kernels/ops.h"

namespace sinkscope {

/// What the ranks of a run divide among them: nothing where one trains alone.
Shard shard_of(const RanksConfig& config, int ranks);
bool has_gradients_by_section(const RanksConfig& config, int ranks);

/// What one of the ranks keeps. Where they divide anything, blocks are dealt as large as the buckets in which gradients
/// are summed.
OptimizerShare share_of(const RanksConfig& config, const ParameterLayout& layout, int rank, int ranks);

/// What copy engines carry of a run whose ranks are on one host, a section at a time: nothing where nothing is divided,
/// or by its config.
CarriedBytes carried_bytes(const ParameterLayout& layout, const RanksConfig& config, int ranks, DType compute);

/// Buckets are summed from the end of the flat array on, which a backward pass completes first, while those before it
/// are still computed. Every rank sums the same buckets in the same order: the blocks that are dealt or, where every
/// rank keeps all sums, as many elements, cut from the end.
class GradientSums {
 public:
  /// All must outlive it.
  GradientSums(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config);

  /// What is sent and received of a bucket takes at most where it travels in bf16 and copy engines do not carry it.
  static std::size_t wire_bytes(const ParameterLayout& layout, const RanksConfig& config, int ranks);
  static std::vector<MemoryLine> memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks);

  void begin_step();
  /// Before each forward pass; what it returns is for the backward pass. `last`: of the step.
  BackwardHooks begin_pass(bool last);
  /// After the last pass of a step: what is left is summed. Operations see the sums.
  void finish();

  /// (flat_size) f32, or the rank's share where `share_alone`.
  Tensor gradients() const;
  bool share_alone() const { return shard_ != Shard::none; }

 private:
  void open(std::int64_t section);
  void close(std::int64_t section);
  void sum_down_to(std::int64_t first);
  void sum_section(std::int64_t section);

  Ops* ops_;
  Decoder* decoder_;
  Communicator* ranks_;
  Shard shard_;
  bool by_section_;
  DType wire_;
  std::int64_t bucket_;  // elements
  OptimizerShare share_;
  Arena arena_;
  std::size_t own_ = 0;         // (share) f32, where the ranks divide anything
  /// The communicator's mark of what was summed by section; -1: nothing since it was joined.
  std::int64_t last_sum_ = -1;
  std::int64_t passes_ = 0;     // begun in this step
  std::int64_t section_ = 0;    // of those whose sums are dealt the last that is under way, in the last pass
  std::int64_t end_ = 0;        // of whole gradients, of what is not summed yet
};

}  // namespace sinkscope
