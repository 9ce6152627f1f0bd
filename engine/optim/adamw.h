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
#include "engine/optim/optimizer_share.h"
#include "kernels/ops.h"

namespace sinkscope {

/// What an update saw.
struct UpdateResult {
  double gradient_norm = 0;                // global, before clipping
  std::vector<double> squared_norms;       // of each parameter's gradient, in the order of specs()
  std::optional<std::string> non_finite;   // in backward order the first parameter whose gradient is not; the one with
                                           // the largest where only the norm of all is not, as f32
};

class AdamW {
 public:
  /// Allocates and zeroes both moments, and master weights where the compute dtype is not f32: all of them, or those of
  /// `share` alone. `ops` and `layout` must outlive the optimizer.
  AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config);
  AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config, const OptimizerShare& share);

  /// One update of `parameters` (share) real, through the master weights if there are any, from `gradients` (share) at
  /// the given rate; `step` counts from 1. Norms are those of all gradients: where the share is not whole,
  /// `sum_over_ranks` adds the other shares' part of the squared norms (of each parameter) f64 to it, in order with the
  /// Ops. With a gradient that is not finite nothing changes, and the result names it. Waits for the norms, not for the
  /// update.
  UpdateResult step(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step);
  /// The same without waiting: what it returns does, and is called once.
  using SumOverRanks = std::function<void(const Tensor&)>;
  [[nodiscard]] std::function<UpdateResult()> step_later(const Tensor& parameters, const Tensor& gradients, double rate,
                                                         std::int64_t step, const SumOverRanks& sum_over_ranks = {});

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
  Ops* ops_;
  const ParameterLayout* layout_;
  OptimizerConfig config_;
  OptimizerShare share_;
  std::vector<Segment> segments_;  // one a parameter, of the share
  Arena arena_;
  bool has_master_ = false;
  std::size_t master_ = 0, m_ = 0, v_ = 0, sums_ = 0, clip_ = 0;
};

}  // namespace sinkscope
