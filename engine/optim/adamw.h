// AdamW over a decoder's flat parameters, with clipping by the global norm.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/arena.h"
#include "engine/model/decoder.h"
#include "engine/model/parameters.h"
#include "kernels/ops.h"

namespace sinkscope {

/// What an update saw.
struct UpdateResult {
  double gradient_norm = 0;                // global, before clipping
  std::vector<double> squared_norms;       // of each parameter's gradient, in the order of specs()
  std::optional<std::string> non_finite;   // in backward order the first parameter whose gradient is not; the one with
                                           // the largest where only the norm of all is not, as f32
};

/// The elements of the flat arrays that one of several optimizers updates.
struct OptimizerShare {
  std::int64_t part = 0;   // elements of each, but for the last ones, which may have fewer or none
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// Parts of whole lines of memory, one behind the other.
OptimizerShare optimizer_share(std::int64_t flat_size, int rank, int ranks);

class AdamW {
 public:
  /// Allocates and zeroes both moments, and master weights where the compute dtype is not f32: all of them, or those of
  /// `share` alone. `ops` and `layout` must outlive the optimizer.
  AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config);
  AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config, const OptimizerShare& share);

  /// One update of `parameters` (share) real, through the master weights if there are any, from `gradients` (flat_size) at
  /// the given rate; `step` counts from 1. Norms are those of all gradients. With a gradient that is not finite nothing
  /// changes, and the result names it. Waits for the norms, not for the update.
  UpdateResult step(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step);
  /// The same without waiting: what it returns does, and is called once.
  [[nodiscard]] std::function<UpdateResult()> step_later(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step);
  /// The same from the gradients of the share alone, `gradients` (share): `sum_over_ranks` adds the other shares' part of the
  /// squared norms (of each parameter) f64 to it, in order with the Ops.
  [[nodiscard]] std::function<UpdateResult()> step_of_share_later(const Tensor& parameters, const Tensor& gradients, double rate,
                                                                  std::int64_t step, const std::function<void(const Tensor&)>& sum_over_ranks);

  const OptimizerShare& share() const { return share_; }
  /// The weights that updates accumulate in, (share) f32: the master weights, or `parameters` (share) itself where that
  /// is f32. Whoever writes them calls weights_changed() afterwards.
  Tensor weights(const Tensor& parameters) const;
  void weights_changed(const Tensor& parameters);
  Tensor first_moment() const;   // (share) f32
  Tensor second_moment() const;  // (share) f32

  static std::vector<MemoryLine> memory_plan(const ParameterLayout& layout, DType compute_dtype);
  static std::vector<MemoryLine> memory_plan(const ParameterLayout& layout, DType compute_dtype,
                                             const OptimizerShare& share);

 private:
  std::function<UpdateResult()> update(const Tensor& parameters, const Tensor& gradients, const Tensor& sums, double rate, std::int64_t step);

  Ops* ops_;
  const ParameterLayout* layout_;
  OptimizerConfig config_;
  OptimizerShare share_;
  std::vector<Segment> segments_;        // of all gradients
  std::vector<Segment> share_segments_;  // of the share, counted from its begin
  std::int64_t first_segment_ = 0;       // which of all the first of the share is
  Arena arena_;
  bool has_master_ = false;
  std::size_t master_ = 0, m_ = 0, v_ = 0, sums_ = 0, clip_ = 0;
};

}  // namespace sinkscope
