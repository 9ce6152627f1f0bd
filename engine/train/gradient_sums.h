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

/// Of what one of the ranks keeps.
OptimizerShare share_of(const RanksConfig& config, std::int64_t flat_size, int rank, int ranks);

/// Buckets are cut from the end of a section or, of whole gradients, of the flat array, which a backward pass completes first,
/// so that one is summed while those before it are still computed. Every rank sums the same buckets in the same order.
class GradientSums {
 public:
  /// All must outlive it. A decoder that has gradients by section gives each rank its share of their sums alone.
  GradientSums(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config);

  /// What the ranks' sums of a bucket take at most where it travels in bf16: what is sent and what is received.
  static std::size_t wire_bytes(const ParameterLayout& layout, const RanksConfig& config);
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
  void sum(const Tensor& bucket, std::int64_t first);
  void keep_sums();
  Stretch stretch_of(std::int64_t section) const;
  Tensor own_of(std::int64_t section) const;

  Ops* ops_;
  Decoder* decoder_;
  Communicator* ranks_;
  Shard shard_;
  bool by_section_;
  DType wire_;
  std::int64_t bucket_;  // elements
  OptimizerShare share_;
  Arena arena_;
  std::size_t own_ = 0;                // (share), by section
  std::vector<std::int64_t> closed_;   // sections whose sums are under way
  std::int64_t last_sum_ = 0;          // the communicator's mark of them
  std::int64_t passes_ = 0;            // begun in this step
  std::int64_t end_ = 0;               // of whole gradients, of what is not summed yet
};

}  // namespace sinkscope
