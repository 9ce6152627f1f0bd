#include "engine/train/rank_weights.h"

#include <algorithm>
#include <cstddef>

namespace sinkscope {

RankWeights::RankWeights(Ops& ops, Decoder& decoder, AdamW& optimizer, RankParameters& parameters, Communicator& ranks)
    : ops_(&ops), decoder_(&decoder), optimizer_(&optimizer), parameters_(&parameters), ranks_(&ranks) {}

/// Calls work with a place on the device for each piece of the flat arrays, the first of whose elements is `begin`.
void RankWeights::in_pieces(const std::function<void(const Tensor& piece, std::int64_t begin)>& work) const {
  const Tensor place = decoder_->gradient_memory();
  const std::int64_t size = decoder_->layout().flat_size();
  for (std::int64_t begin = 0; begin < size; begin += place.size())
    work(place.rows(0, std::min(place.size(), size - begin)), begin);
}

void RankWeights::spread(const HostWeights& weights, bool has_moments) {
  spread(weights.parameters, optimizer_->weights(parameters_->own()));
  optimizer_->weights_changed(parameters_->own());
  parameters_->changed();
  if (!has_moments) return;
  spread(weights.first_moment, optimizer_->first_moment());
  spread(weights.second_moment, optimizer_->second_moment());
}

HostWeightViews RankWeights::collect(HostWeights& buffers) {
  return {.parameters = collect(optimizer_->weights(parameters_->own()), buffers.parameters),
          .first_moment = collect(optimizer_->first_moment(), buffers.first_moment),
          .second_moment = collect(optimizer_->second_moment(), buffers.second_moment)};
}

/// Of rank 0's `values` (flat_size) what each rank keeps.
void RankWeights::spread(std::span<const float> values, const Tensor& kept) {
  const OptimizerShare& share = optimizer_->share();
  in_pieces([&](const Tensor& piece, std::int64_t begin) {
    if (ranks_->leads()) ops_->copy_from_host(piece, values.data() + begin);
    ranks_->broadcast(piece, 0);
    const std::int64_t first = std::max(begin, share.begin), end = std::min(begin + piece.size(), share.begin + share.size);
    if (first < end) ops_->copy(kept.rows(first - share.begin, end - first), piece.rows(first - begin, end - first));
  });
}

std::span<const float> RankWeights::collect(const Tensor& kept, std::vector<float>& buffer) {
  const auto size = static_cast<std::size_t>(decoder_->layout().flat_size());
  if (optimizer_->share().part >= decoder_->layout().flat_size()) {  // rank 0 keeps all
    if (!ranks_->leads()) return {};
    if (ops_->device_name() == "cpu") return {kept.as<float>(), size};
    buffer.resize(size);
    ops_->copy_to_host(buffer.data(), kept);
    return buffer;
  }
  if (ranks_->leads()) buffer.resize(size);
  const OptimizerShare& share = optimizer_->share();
  in_pieces([&](const Tensor& piece, std::int64_t begin) {
    const std::int64_t first = std::max(begin, share.begin), end = std::min(begin + piece.size(), share.begin + share.size);
    if (first < end) ops_->copy(piece.rows(first - begin, end - first), kept.rows(first - share.begin, end - first));
    ranks_->share({.x = piece, .first = begin, .part = share.part});
    if (ranks_->leads()) ops_->copy_to_host(buffer.data() + begin, piece);
  });
  if (!ranks_->leads()) return {};
  return buffer;
}

}  // namespace sinkscope
