#include "engine/train/rank_weights.h"

#include <cstddef>

namespace sinkscope {

RankWeights::RankWeights(Ops& ops, Decoder& decoder, AdamW& optimizer, Communicator& ranks, bool sharded)
    : ops_(&ops), decoder_(&decoder), optimizer_(&optimizer), ranks_(&ranks), sharded_(sharded) {}

void RankWeights::set_parameters(std::span<const float> parameters) {
  ops_->copy_from_host(decoder_->gradients(), parameters.data());
  ops_->convert(decoder_->parameters(), decoder_->gradients());
}

void RankWeights::spread(const HostWeights& weights, bool has_moments) {
  spread(weights.parameters, optimizer_->weights(decoder_->parameters()));
  ops_->convert(decoder_->parameters(), decoder_->gradients());
  if (!has_moments) return;
  spread(weights.first_moment, optimizer_->first_moment());
  spread(weights.second_moment, optimizer_->second_moment());
}

void RankWeights::share_update() {
  if (sharded_) ranks_->share_parts(decoder_->parameters(), optimizer_->share().part);
}

HostWeightViews RankWeights::collect(HostWeights& buffers) {
  return {.parameters = collect(optimizer_->weights(decoder_->parameters()), buffers.parameters),
          .first_moment = collect(optimizer_->first_moment(), buffers.first_moment),
          .second_moment = collect(optimizer_->second_moment(), buffers.second_moment)};
}

/// Of rank 0's `values` (flat_size) what each rank keeps. All of them are in the gradients afterwards.
void RankWeights::spread(std::span<const float> values, const Tensor& kept) {
  const Tensor all = decoder_->gradients();
  if (ranks_->leads()) ops_->copy_from_host(all, values.data());
  ranks_->broadcast(all, 0);
  ops_->copy(kept, all.rows(optimizer_->share().begin, optimizer_->share().size));
}

std::span<const float> RankWeights::collect(const Tensor& kept, std::vector<float>& buffer) {
  Tensor all = kept;
  if (sharded_) {
    all = decoder_->gradients();
    ops_->copy(all.rows(optimizer_->share().begin, optimizer_->share().size), kept);
    ranks_->share_parts(all, optimizer_->share().part);
  }
  if (!ranks_->leads()) return {};
  const auto size = static_cast<std::size_t>(all.size());
  if (!sharded_ && ops_->device_name() == "cpu") return {all.as<float>(), size};
  buffer.resize(size);
  ops_->copy_to_host(buffer.data(), all);
  return buffer;
}

}  // namespace sinkscope
