#include "engine/train/gradient_sums.h"

#include <algorithm>
#include <ranges>
#include <utility>

namespace sinkscope {
namespace {

std::int64_t bucket_elements(const RanksConfig& config) {
  return std::max<std::int64_t>(
      1, static_cast<std::int64_t>(config.bucket_megabytes * 1e6 / static_cast<double>(sizeof(float))));
}

DType wire_of(const RanksConfig& config) { return config.reduce_dtype == ReduceDType::bf16 ? DType::bf16 : DType::f32; }

std::size_t request_own(Arena& arena, const OptimizerShare& share) {
  return arena.request("own share", DType::f32, share.size());
}

}  // namespace

Shard shard_of(const RanksConfig& config, int ranks) { return ranks > 1 ? config.shard : Shard::none; }

bool has_gradients_by_section(const RanksConfig& config, int ranks) {
  return shard_of(config, ranks) >= Shard::gradients;
}

OptimizerShare share_of(const RanksConfig& config, const ParameterLayout& layout, int rank, int ranks) {
  if (shard_of(config, ranks) == Shard::none) return OptimizerShare(layout.flat_size());
  return {dealt_blocks(layout, ranks, bucket_elements(config)), rank};
}

CarriedBytes carried_bytes(const ParameterLayout& layout, const RanksConfig& config, int ranks, DType compute) {
  if (shard_of(config, ranks) == Shard::none || !config.copy_engines) return {};
  const OptimizerShare share = share_of(config, layout, 0, ranks);
  std::int64_t largest = 0;
  for (const Section& section : layout.sections()) {
    std::int64_t row = 0;
    for (const DealtBlock& block : share.blocks_of(section)) row += line_elements(block.part);
    largest = std::max(largest, row * ranks);
  }
  const auto elements = static_cast<std::size_t>(largest);
  return {.reduced = 2 * elements * size_of(wire_of(config)), .shared = elements * size_of(compute)};
}

GradientSums::GradientSums(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config)
    : ops_(&ops),
      decoder_(&decoder),
      ranks_(&ranks),
      shard_(shard_of(config, ranks.size())),
      by_section_(has_gradients_by_section(config, ranks.size())),
      wire_(wire_of(config)),
      bucket_(bucket_elements(config)),
      share_(share_of(config, decoder.layout(), ranks.rank(), ranks.size())),
      arena_("gradients") {
  if (shard_ == Shard::none) return;
  own_ = request_own(arena_, share_);
  arena_.allocate(ops);
}

std::size_t GradientSums::wire_bytes(const ParameterLayout& layout, const RanksConfig& config, int ranks) {
  if (config.reduce_dtype != ReduceDType::bf16) return 0;
  std::int64_t largest = std::min(bucket_elements(config), layout.flat_size());
  if (shard_of(config, ranks) != Shard::none) {
    const OptimizerShare share = share_of(config, layout, 0, ranks);
    largest = std::ranges::max(share.blocks(), {}, &DealtBlock::size).size;
  }
  return 2 * size_of(DType::bf16) * static_cast<std::size_t>(largest);
}

std::vector<MemoryLine> GradientSums::memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks) {
  if (shard_of(config, ranks) == Shard::none) return {};
  Arena arena("gradients");
  request_own(arena, share_of(config, layout, 0, ranks));
  const ArenaEntry& entry = arena.entries().front();
  return {{arena.name(), entry.name, entry.bytes}};
}

void GradientSums::begin_step() {
  passes_ = 0;
  end_ = decoder_->layout().flat_size();
  section_ = std::ssize(decoder_->layout().sections());
  decoder_->replace_gradients();
}

BackwardHooks GradientSums::begin_pass(bool last) {
  const std::vector<Section>& sections = decoder_->layout().sections();
  if (!by_section_) {
    if (!last || ranks_->alone()) return {};  // a pass without hooks can be recorded
    if (shard_ == Shard::none)
      return {.close = [this, &sections](std::int64_t section) {
        sum_down_to(sections[static_cast<std::size_t>(section)].begin);
      }};
    return {.close = [this](std::int64_t section) { sum_section(section); }};
  }
  // The host is to wait for other ranks here, where it is known to, not for this pass's losses.
  if (passes_ > 0) ranks_->finish();
  ++passes_;
  open(0);
  open(std::ssize(sections) - 1);
  return {.open = [this](std::int64_t section) { open(section); },
          .close = [this](std::int64_t section) { close(section); }};
}

void GradientSums::finish() {
  if (shard_ == Shard::none)
    sum_down_to(0);
  else
    while (!by_section_ && section_ > 0) sum_section(section_ - 1);
  ranks_->join();
}

Tensor GradientSums::gradients() const {
  return shard_ == Shard::none ? decoder_->gradients() : arena_.tensor(own_, {share_.size()});
}

/// Zeros where a pass adds, and after the first one everywhere but on the rank that keeps the sums of the passes
/// before.
void GradientSums::open(std::int64_t section) {
  if (last_sum_ >= 0) ranks_->join(std::exchange(last_sum_, -1));  // of what lay in its place
  if (passes_ == 1) {
    decoder_->zero_added(section);
    return;
  }
  const Tensor gradients = decoder_->section_gradients(section);
  const Section& part = decoder_->layout().sections()[static_cast<std::size_t>(section)];
  ops_->zero(gradients);
  for (const DealtBlock& block : share_.blocks_of(part))
    if (const OptimizerShare::Piece own = share_.piece(block); own.size > 0)
      ops_->copy(gradients.rows(own.begin - part.begin, own.size), this->gradients().rows(own.place, own.size));
}

void GradientSums::close(std::int64_t section) {
  sum_section(section);
  last_sum_ = ranks_->mark();
}

void GradientSums::sum_down_to(std::int64_t first) {
  while (end_ > 0 && std::max<std::int64_t>(end_ - bucket_, 0) >= first) {
    const std::int64_t begin = std::max<std::int64_t>(end_ - bucket_, 0);
    ranks_->start_all_reduce(decoder_->gradients().rows(begin, end_ - begin), wire_);
    end_ = begin;
  }
}

/// Its blocks, from the last on.
void GradientSums::sum_section(std::int64_t section) {
  const Tensor gradients = decoder_->section_gradients(section);
  const Section& part = decoder_->layout().sections()[static_cast<std::size_t>(section)];
  std::vector<Stretch> stretches;
  for (const DealtBlock& block : std::views::reverse(share_.blocks_of(part))) {
    const OptimizerShare::Piece own = share_.piece(block);
    stretches.push_back({.x = gradients.rows(block.begin - part.begin, block.size),
                         .part = block.part,
                         .own = this->gradients().rows(own.place, own.size)});
  }
  ranks_->start_reduce(stretches, wire_);
  section_ = section;
}

}  // namespace sinkscope
