#include "engine/optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

namespace sinkscope {
namespace {

struct Requests {
  std::size_t master = 0, m = 0, v = 0, sums = 0, clip = 0;
};

Requests request_all(Arena& arena, const ParameterLayout& layout, DType compute_dtype, const OptimizerShare& share) {
  const bool has_master = compute_dtype != DType::f32;
  return {.master = has_master ? arena.request("master weights", DType::f32, share.size()) : 0,
          .m = arena.request("first moment", DType::f32, share.size()),
          .v = arena.request("second moment", DType::f32, share.size()),
          .sums = arena.request("gradient norms", DType::f64, static_cast<std::int64_t>(layout.specs().size())),
          .clip = arena.request("clip scale", DType::f32, 2)};
}

}  // namespace

AdamW::AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config)
    : AdamW(ops, layout, config, OptimizerShare(layout.flat_size())) {}

AdamW::AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config, const OptimizerShare& share)
    : ops_(&ops),
      layout_(&layout),
      config_(config),
      share_(share),
      segments_(share.of(layout.segments())),
      arena_("optimizer") {
  has_master_ = ops.compute_dtype() != DType::f32;
  const Requests requests = request_all(arena_, layout, ops.compute_dtype(), share);
  master_ = requests.master;
  m_ = requests.m;
  v_ = requests.v;
  sums_ = requests.sums;
  clip_ = requests.clip;
  arena_.allocate(ops);
}

UpdateResult AdamW::step(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step) {
  return step_later(parameters, gradients, rate, step)();
}

std::function<UpdateResult()> AdamW::step_later(const Tensor& parameters, const Tensor& gradients, double rate,
                                                std::int64_t step, const SumOverRanks& sum_over_ranks) {
  if (share_.whole() == static_cast<bool>(sum_over_ranks))
    throw std::logic_error("AdamW: norms are summed over ranks where a rank has a share, and there alone");
  const StageRange range(*ops_, "optimizer");
  const Tensor sums = arena_.tensor(sums_, {std::ssize(segments_)});
  if (share_.size() > 0)
    ops_->sum_of_squares({.x = gradients, .segments = segments_, .sums = sums});
  else
    ops_->zero(sums);
  if (sum_over_ranks) sum_over_ranks(sums);
  const Tensor clip = arena_.tensor(clip_, {2});
  const auto result = std::make_shared<UpdateResult>();
  result->squared_norms.resize(segments_.size());
  const std::function<void()> wait_for_norms = ops_->copy_to_host_later(result->squared_norms.data(), sums);
  ops_->clip_scale({.sums = sums, .max_norm = config_.clip_norm, .out = clip});
  if (share_.size() > 0)  // does nothing when the norm is not finite
    ops_->adamw_step({.param = weights(parameters),
                      .grad = gradients,
                      .compute = has_master_ ? parameters : Tensor{},
                      .m = first_moment(),
                      .v = second_moment(),
                      .segments = segments_,
                      .clip = clip,
                      .lr = rate,
                      .beta1 = config_.beta1,
                      .beta2 = config_.beta2,
                      .eps = config_.eps,
                      .weight_decay = config_.weight_decay,
                      .step = step});
  return [layout = layout_, result, wait_for_norms] {
    wait_for_norms();
    double total = 0;
    for (const double squared_norm : result->squared_norms) total += squared_norm;
    // Backwards: what is not finite flows on to every gradient computed after it, down to the embedding.
    for (std::size_t i = result->squared_norms.size(); i-- > 0 && !result->non_finite;)
      if (!std::isfinite(result->squared_norms[i])) result->non_finite = layout->specs()[i].name;
    result->gradient_norm = std::sqrt(total);
    if (!std::isfinite(static_cast<float>(result->gradient_norm)) && !result->non_finite) {  // no update either
      const auto largest = std::max_element(result->squared_norms.begin(), result->squared_norms.end());
      result->non_finite = layout->specs()[static_cast<std::size_t>(largest - result->squared_norms.begin())].name;
    }
    return std::move(*result);
  };
}

Tensor AdamW::weights(const Tensor& parameters) const {
  return has_master_ ? arena_.tensor(master_, {share_.size()}) : parameters;
}

void AdamW::weights_changed(const Tensor& parameters) {
  if (has_master_) ops_->convert(parameters, weights(parameters));
}

Tensor AdamW::first_moment() const { return arena_.tensor(m_, {share_.size()}); }
Tensor AdamW::second_moment() const { return arena_.tensor(v_, {share_.size()}); }

std::vector<MemoryLine> AdamW::memory_plan(const ParameterLayout& layout, DType compute_dtype) {
  return memory_plan(layout, compute_dtype, OptimizerShare(layout.flat_size()));
}

std::vector<MemoryLine> AdamW::memory_plan(const ParameterLayout& layout, DType compute_dtype,
                                           const OptimizerShare& share) {
  Arena arena("optimizer");
  request_all(arena, layout, compute_dtype, share);
  std::vector<MemoryLine> lines;
  for (const ArenaEntry& entry : arena.entries()) lines.push_back({arena.name(), entry.name, entry.bytes});
  return lines;
}

}  // namespace sinkscope
