// AdamW over a decoder's flat parameters, with clipping by the global norm.
#pragma once

#include <cstdint>
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
  std::optional<std::string> non_finite;   // in backward order the first parameter whose gradient is not
};

class AdamW {
 public:
  /// Allocates and zeroes both moments, and master weights where the compute dtype is not f32. `ops`
  /// and `layout` must outlive the optimizer.
  AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config);

  /// One update of `parameters` (flat_size) real, through the master weights if there are any, from `gradients` (flat_size) at the given rate; `step`
  /// counts from 1. With a gradient that is not finite nothing changes, and the result names it.
  UpdateResult step(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step);

  /// The weights that updates accumulate in, (flat_size) f32: the master weights, or `parameters`
  /// itself where that is f32. Whoever writes them calls weights_changed() afterwards.
  Tensor weights(const Tensor& parameters) const;
  void weights_changed(const Tensor& parameters);
  Tensor first_moment() const;   // (flat_size) f32
  Tensor second_moment() const;  // (flat_size) f32

  static std::vector<MemoryLine> memory_plan(const ParameterLayout& layout, DType compute_dtype);

 private:
  Ops* ops_;
  const ParameterLayout* layout_;
  OptimizerConfig config_;
  std::vector<Segment> segments_;
  Arena arena_;
  bool has_master_ = false;
  std::size_t master_ = 0, m_ = 0, v_ = 0, sums_ = 0, clip_ = 0;
};

}  // namespace sinkscope
