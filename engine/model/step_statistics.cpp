#include "engine/model/step_statistics.h"

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>

namespace sinkscope {

std::int64_t StepStatistics::elements(std::int64_t layers, std::int64_t heads, std::int64_t positions) {
  return 2 * layers * heads * positions + (layers + 1) * (positions + 2);
}

StepStatistics::StepStatistics(Ops& ops, const Tensor& sums, std::int64_t layers, std::int64_t heads,
                               std::int64_t positions)
    : ops_(&ops), all_(sums) {
  std::int64_t begin = 0;
  const auto next = [&](std::initializer_list<std::int64_t> extents) {
    std::int64_t size = 1;
    for (const std::int64_t extent : extents) size *= extent;
    const Tensor part = all_.rows(begin, size).view(extents);
    begin += size;
    return part;
  };
  sink_scores_ = next({layers, heads, positions});
  sinks_above_ = next({layers, heads, positions});
  norm_first_ = next({layers + 1, positions});
  norm_rest_ = next({layers + 1});
  norm_ratio_ = next({layers + 1});
}

void StepStatistics::zero() {
  if (!all_) return;
  sequences_ = 0;
  norms_ = false;
  ops_->zero(all_);
}

void StepStatistics::add(const Tensor& sink, const Tensor& norms, double threshold) {
  if (!all_) return;
  const StageRange range(*ops_, "step statistics");
  ops_->sink_sums(
      {.sink = sink, .threshold = static_cast<float>(threshold), .scores = sink_scores_, .above = sinks_above_});
  if (norms) {
    ops_->norm_sums({.norms = norms, .first = norm_first_, .rest = norm_rest_, .ratio = norm_ratio_});
    norms_ = true;
  }
  sequences_ += sink.extent(1);
}

std::function<StepSums()> StepStatistics::read() const {
  if (!all_) return [] { return StepSums(); };
  auto all = std::make_shared<std::vector<double>>(static_cast<std::size_t>(all_.size()));
  return [all, wait = ops_->copy_to_host_later(all->data(), all_), statistics = *this] {
    wait();
    return statistics.sums_of(*all);
  };
}

StepSums StepStatistics::sums_of(const std::vector<double>& all) const {
  const auto part = [&](const Tensor& view) {
    const auto* begin = all.data() + (static_cast<const double*>(view.data) - all_.as<double>());
    return std::vector<double>(begin, begin + view.size());
  };
  StepSums out{.layers = sink_scores_.extent(0),
               .heads = sink_scores_.extent(1),
               .positions = sink_scores_.extent(2),
               .sequences = sequences_,
               .sink_scores = part(sink_scores_),
               .sinks_above = part(sinks_above_)};
  if (!norms_) return out;
  out.norm_first = part(norm_first_);
  out.norm_rest = part(norm_rest_);
  out.norm_ratio = part(norm_ratio_);
  return out;
}

std::int64_t AttentionSums::elements(std::int64_t layers, std::int64_t heads, std::int64_t length) {
  return layers * (heads + length);
}

AttentionSums::AttentionSums(Ops& ops, const Tensor& sums, std::int64_t layers, std::int64_t heads)
    : ops_(&ops), all_(sums), layers_(layers), heads_(heads) {}

void AttentionSums::begin(std::int64_t sequences, std::int64_t length) {
  if (sequences_ == 0) {
    length_ = length;
    ops_->zero(all_.rows(0, elements(layers_, heads_, length)));
  }
  if (length != length_)
    throw std::invalid_argument("AttentionSums: a batch of length " + std::to_string(length) + " after one of " +
                                std::to_string(length_) + "; expected one length in a step");
  sequences_ += sequences;
}

void AttentionSums::add(std::int64_t layer, const Tensor& entropy, const Tensor& key_mass) {
  const std::int64_t B = entropy.extent(0), H = heads_, T = length_;
  ops_->sink_sums({.sink = entropy.view({1, B, H, 1}), .scores = all_.rows(layer * H, H).view({1, H, 1}), .above = {}});
  ops_->sink_sums({.sink = key_mass.view({1, B * H, 1, T}),
                   .scores = all_.rows(layers_ * H + layer * T, T).view({1, 1, T}),
                   .above = {}});
}

std::function<void(StepSums&)> AttentionSums::read() const {
  if (sequences_ == 0) return [](StepSums&) {};
  auto all = std::make_shared<std::vector<double>>(static_cast<std::size_t>(elements(layers_, heads_, length_)));
  return
      [all, wait = ops_->copy_to_host_later(all->data(), all_.rows(0, std::ssize(*all))), of = *this](StepSums& sums) {
        wait();
        const auto masses = all->begin() + of.layers_ * of.heads_;
        sums.layers = of.layers_;
        sums.heads = of.heads_;
        sums.attention_sequences = of.sequences_;
        sums.entropy.assign(all->begin(), masses);
        sums.key_mass.assign(masses, all->end());
      };
}

}  // namespace sinkscope
