#include "engine/probes/probe_sums.h"

#include <initializer_list>

namespace sinkscope {
namespace {

std::int64_t product(std::initializer_list<std::int64_t> extents) {
  std::int64_t size = 1;
  for (const std::int64_t extent : extents) size *= extent;
  return size;
}

}  // namespace

template <class Function>
void ProbeSums::each(const ModelConfig& model, std::int64_t positions, std::int64_t length, Function&& function) {
  const std::int64_t L = model.layers, H = model.heads, G = model.kv_heads, C = model.channels, K = positions;
  const auto norms = [&](std::int64_t R, std::int64_t watched, Tensor& first, Tensor& rest, Tensor& ratio) {
    function(first, {R, watched});
    function(rest, {R});
    function(ratio, {R});
  };
  function(sink_scores, {L, H, K});
  function(sinks_above, {L, H, K});
  function(heads, {head_statistics(model) * L, H, 1});
  function(key_mass, {L, 1, length});
  norms(places(model), K, norm_first, norm_rest, norm_ratio);
  norms(L, K, gain_first, gain_rest, gain_ratio);
  norms(2 * G * L, 1, head_first, head_rest, head_ratio);
  function(directions, {2 * L, C});
  function(direction_counts, {2 * L});
  function(massive, {L, 4});
}

std::int64_t ProbeSums::elements(const ModelConfig& model, std::int64_t positions, std::int64_t length) {
  std::int64_t size = 0;
  ProbeSums().each(model, positions, length,
                   [&](Tensor&, std::initializer_list<std::int64_t> extents) { size += product(extents); });
  return size;
}

ProbeSums::ProbeSums(const Tensor& room, const ModelConfig& model, std::int64_t positions, std::int64_t length)
    : all_(room.rows(0, elements(model, positions, length))) {
  std::int64_t begin = 0;
  each(model, positions, length, [&](Tensor& view, std::initializer_list<std::int64_t> extents) {
    view = all_.rows(begin, product(extents)).view(extents);
    begin += view.size();
  });
}

void ProbeSums::read(Ops& ops) {
  host_.resize(static_cast<std::size_t>(all_.size()));
  ops.copy_to_host(host_.data(), all_);
}

std::span<const double> ProbeSums::values(const Tensor& view) const {
  const auto begin = static_cast<std::size_t>(view.as<double>() - all_.as<double>());
  return std::span(host_).subspan(begin, static_cast<std::size_t>(view.size()));
}

}  // namespace sinkscope
