#include "engine/optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

namespace sinkscope {
namespace {

struct Requests {
  std::size_t master = 0, m = 0, v = 0, sums = 0, clip = 0;
};

Requests request_all(Arena& arena, const ParameterLayout& layout, DType compute_dtype, const OptimizerShare& share) {
  const bool has_master = compute_dtype != DType::f32;
  return {.master = has_master ? arena.request("master weights", DType::f32, share.size) : 0,
          .m = arena.request("first moment", DType::f32, share.size),
          .v = arena.request("second moment", DType::f32, share.size),
          .sums = arena.request("gradient norms", DType::f64, static_cast<std::int64_t>(layout.specs().size())),
          .clip = arena.request("clip scale", DType::f32, 2)};
}

/// The stretches of segments that lie in the share, counted from its begin.
std::vector<Segment> segments_within(const std::vector<Segment>& segments, const OptimizerShare& share) {
  std::vector<Segment> within;
  for (const Segment& segment : segments) {
    const std::int64_t begin = std::max(segment.begin, share.begin);
    const std::int64_t end = std::min(segment.begin + segment.size, share.begin + share.size);
    if (begin < end) within.push_back({.begin = begin - share.begin, .size = end - begin, .decay = segment.decay});
  }
  return within;
}

}  // namespace

OptimizerShare optimizer_share(std::int64_t flat_size, int rank, int ranks) {
  constexpr std::int64_t kLine = 64;  // elements, as parameters are aligned
  const std::int64_t part = ranks == 1 ? flat_size : (flat_size + ranks * kLine - 1) / (ranks * kLine) * kLine;
  const std::int64_t begin = std::min(flat_size, rank * part);
  return {.part = part, .begin = begin, .size = std::min(part, flat_size - begin)};
}

AdamW::AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config)
    : AdamW(ops, layout, config, optimizer_share(layout.flat_size(), 0, 1)) {}

AdamW::AdamW(Ops& ops, const ParameterLayout& layout, const OptimizerConfig& config, const OptimizerShare& share)
    : ops_(&ops),
      layout_(&layout),
      config_(config),
      share_(share),
      segments_(layout.segments()),
      share_segments_(segments_within(segments_, share)),
      arena_("optimizer") {
  has_master_ = ops.compute_dtype() != DType::f32;
  const Requests requests = request_all(arena_, layout, ops.compute_dtype(), share);
  master_ = requests.master;
  m_ = requests.m;
  v_ = requests.v;
  sums_ = requests.sums;
  clip_ = requests.clip;
  arena_.allocate(ops);
  while (first_segment_ < std::ssize(segments_) &&
         segments_[static_cast<std::size_t>(first_segment_)].begin + segments_[static_cast<std::size_t>(first_segment_)].size <= share_.begin)
    ++first_segment_;
}

std::function<UpdateResult()> AdamW::step_of_share_later(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step,
                                                         const std::function<void(const Tensor&)>& sum_over_ranks) {
  const StageRange range(*ops_, "optimizer");
  const Tensor sums = arena_.tensor(sums_, {static_cast<std::int64_t>(segments_.size())});
  ops_->zero(sums);
  if (!share_segments_.empty())
    ops_->sum_of_squares({.x = gradients,
                          .segments = share_segments_,
                          .sums = sums.rows(first_segment_, std::ssize(share_segments_))});
  sum_over_ranks(sums);
  return update(parameters, gradients, sums, rate, step);
}

UpdateResult AdamW::step(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step) {
  return step_later(parameters, gradients, rate, step)();
}

std::function<UpdateResult()> AdamW::step_later(const Tensor& parameters, const Tensor& gradients, double rate, std::int64_t step) {
  const StageRange range(*ops_, "optimizer");
  const Tensor sums = arena_.tensor(sums_, {static_cast<std::int64_t>(segments_.size())});
  ops_->sum_of_squares({.x = gradients, .segments = segments_, .sums = sums});
  return update(parameters, gradients.rows(share_.begin, share_.size), sums, rate, step);
}

/// From the gradients of the share and the squared norms of all.
std::function<UpdateResult()> AdamW::update(const Tensor& parameters, const Tensor& gradients, const Tensor& sums, double rate, std::int64_t step) {
  const Tensor clip = arena_.tensor(clip_, {2});
  const auto result = std::make_shared<UpdateResult>();
  result->squared_norms.resize(segments_.size());
  const std::function<void()> wait_for_norms = ops_->copy_to_host_later(result->squared_norms.data(), sums);
  ops_->clip_scale({.sums = sums, .max_norm = config_.clip_norm, .out = clip});
  if (share_.size > 0)  // does nothing when the norm is not finite
    ops_->adamw_step({.param = weights(parameters),
                      .grad = gradients,
                      .compute = has_master_ ? parameters : Tensor{},
                      .m = first_moment(),
                      .v = second_moment(),
                      .segments = share_segments_,
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
  return has_master_ ? arena_.tensor(master_, {share_.size}) : parameters;
}

void AdamW::weights_changed(const Tensor& parameters) {
  if (has_master_) ops_->convert(parameters, weights(parameters));
}

Tensor AdamW::first_moment() const { return arena_.tensor(m_, {share_.size}); }
Tensor AdamW::second_moment() const { return arena_.tensor(v_, {share_.size}); }

std::vector<MemoryLine> AdamW::memory_plan(const ParameterLayout& layout, DType compute_dtype) {
  return memory_plan(layout, compute_dtype, optimizer_share(layout.flat_size(), 0, 1));
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
