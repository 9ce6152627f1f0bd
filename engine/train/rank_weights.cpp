#include "engine/train/rank_weights.h"

#include <algorithm>
#include <cstddef>

namespace sinkscope {

RankWeights::RankWeights(Ops& ops, Decoder& decoder, AdamW& optimizer, RankParameters& parameters, Communicator& ranks)
    : ops_(&ops), decoder_(&decoder), optimizer_(&optimizer), parameters_(&parameters), ranks_(&ranks) {}

/// Calls work with a place on the device for each piece of the flat arrays, and the blocks of the piece.
void RankWeights::in_pieces(
    const std::function<void(const Tensor& piece, std::span<const DealtBlock> blocks)>& work) const {
  const Tensor place = decoder_->gradient_memory();
  for (std::span<const DealtBlock> left = optimizer_->share().blocks(); !left.empty();) {
    std::size_t count = 1;  // no block is larger than a section
    while (count < left.size() && left[count].begin + left[count].size - left.front().begin <= place.size()) ++count;
    const DealtBlock& last = left[count - 1];
    work(place.rows(0, last.begin + last.size - left.front().begin), left.first(count));
    left = left.subspan(count);
  }
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
  in_pieces([&](const Tensor& piece, std::span<const DealtBlock> blocks) {
    const std::int64_t begin = blocks.front().begin;
    if (ranks_->leads()) ops_->copy_from_host(piece, values.data() + begin);
    ranks_->broadcast(piece, 0);
    for (const DealtBlock& block : blocks)
      if (const OptimizerShare::Piece own = optimizer_->share().piece(block); own.size > 0)
        ops_->copy(kept.rows(own.place, own.size), piece.rows(own.begin - begin, own.size));
  });
}

std::span<const float> RankWeights::collect(const Tensor& kept, std::vector<float>& buffer) {
  const auto size = static_cast<std::size_t>(decoder_->layout().flat_size());
  if (optimizer_->share().whole()) {
    if (!ranks_->leads()) return {};
    if (ops_->device_name() == "cpu") return {kept.as<float>(), size};
    buffer.resize(size);
    ops_->copy_to_host(buffer.data(), kept);
    return buffer;
  }
  if (ranks_->leads()) buffer.resize(size);
  in_pieces([&](const Tensor& piece, std::span<const DealtBlock> blocks) {
    const std::int64_t begin = blocks.front().begin;
    std::vector<Stretch> stretches;
    for (const DealtBlock& block : blocks) {
      const OptimizerShare::Piece own = optimizer_->share().piece(block);
      stretches.push_back({.x = piece.rows(block.begin - begin, block.size),
                           .part = block.part,
                           .own = kept.rows(own.place, own.size)});
    }
    ranks_->start_share(stretches);
    ranks_->finish();
    if (ranks_->leads()) ops_->copy_to_host(buffer.data() + begin, piece);
  });
  if (!ranks_->leads()) return {};
  return buffer;
}

}  // namespace sinkscope
