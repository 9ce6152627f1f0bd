#include "engine/train/gradient_sums.h"

#include <algorithm>

namespace sinkscope {
namespace {

std::int64_t bucket_elements(const RanksConfig& config) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(config.bucket_megabytes * 1e6 / static_cast<double>(sizeof(float))));
}

std::size_t request_own(Arena& arena, const OptimizerShare& share) { return arena.request("own share", DType::f32, share.size); }

}  // namespace

Shard shard_of(const RanksConfig& config, int ranks) { return ranks > 1 ? config.shard : Shard::none; }

bool has_gradients_by_section(const RanksConfig& config, int ranks) { return shard_of(config, ranks) >= Shard::gradients; }

OptimizerShare share_of(const RanksConfig& config, std::int64_t flat_size, int rank, int ranks) {
  return shard_of(config, ranks) == Shard::none ? optimizer_share(flat_size, 0, 1) : optimizer_share(flat_size, rank, ranks);
}

GradientSums::GradientSums(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config)
    : ops_(&ops),
      decoder_(&decoder),
      ranks_(&ranks),
      shard_(shard_of(config, ranks.size())),
      by_section_(has_gradients_by_section(config, ranks.size())),
      wire_(config.reduce_dtype == ReduceDType::bf16 ? DType::bf16 : DType::f32),
      bucket_(bucket_elements(config)),
      share_(share_of(config, decoder.layout().flat_size(), ranks.rank(), ranks.size())),
      arena_("gradients") {
  if (!by_section_) return;
  own_ = request_own(arena_, share_);
  arena_.allocate(ops);
}

std::size_t GradientSums::wire_bytes(const ParameterLayout& layout, const RanksConfig& config) {
  if (config.reduce_dtype != ReduceDType::bf16) return 0;
  return 2 * size_of(DType::bf16) * static_cast<std::size_t>(std::min(bucket_elements(config), layout.flat_size()));
}

std::vector<MemoryLine> GradientSums::memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks) {
  if (!has_gradients_by_section(config, ranks)) return {};
  Arena arena("gradients");
  request_own(arena, share_of(config, layout.flat_size(), 0, ranks));
  const ArenaEntry& entry = arena.entries().front();
  return {{arena.name(), entry.name, entry.bytes}};
}

void GradientSums::begin_step() {
  passes_ = 0;
  end_ = decoder_->layout().flat_size();
  decoder_->replace_gradients();
}

BackwardHooks GradientSums::begin_pass(bool last) {
  const auto sections = std::ssize(decoder_->layout().sections());
  if (!by_section_) {
    if (!last) return {};
    return {.close = [this](std::int64_t section) { sum_down_to(decoder_->layout().sections()[static_cast<std::size_t>(section)].begin); }};
  }
  if (passes_ > 0) ranks_->finish();  // so that the host waits for other ranks here, where it is known to, not for this pass's losses
  ++passes_;
  open(0);
  open(sections - 1);
  return {.open = [this](std::int64_t section) { open(section); }, .close = [this](std::int64_t section) { close(section); }};
}

void GradientSums::finish() {
  if (by_section_)
    keep_sums();
  else
    sum_down_to(0);
  ranks_->join();
}

Tensor GradientSums::gradients() const {
  if (by_section_) return arena_.tensor(own_, {share_.size});
  return shard_ == Shard::none ? decoder_->gradients() : decoder_->gradients().rows(share_.begin, share_.size);
}

/// Zeros where a pass adds, and after the first one everywhere but on the rank that keeps the sums of the passes before.
void GradientSums::open(std::int64_t section) {
  keep_sums();  // whose place it may be
  if (passes_ == 1) {
    decoder_->zero_added(section);
    return;
  }
  const Stretch stretch = stretch_of(section);
  ops_->zero(stretch.x);
  if (const Tensor own = own_of(section); own.size() > 0) ops_->copy(stretch.of(ranks_->rank()), own);
}

void GradientSums::close(std::int64_t section) {
  const Stretch stretch = stretch_of(section);
  for (std::int64_t end = stretch.x.size(); end > 0;) {
    const std::int64_t begin = std::max<std::int64_t>(end - bucket_, 0);
    sum(stretch.x.rows(begin, end - begin), stretch.first + begin);
    end = begin;
  }
  closed_.push_back(section);
  last_sum_ = ranks_->mark();
}

void GradientSums::sum_down_to(std::int64_t first) {
  while (end_ > 0 && std::max<std::int64_t>(end_ - bucket_, 0) >= first) {
    const std::int64_t begin = std::max<std::int64_t>(end_ - bucket_, 0);
    sum(decoder_->gradients().rows(begin, end_ - begin), begin);
    end_ = begin;
  }
}

void GradientSums::sum(const Tensor& bucket, std::int64_t first) {
  if (shard_ == Shard::none)
    ranks_->start_all_reduce(bucket, wire_);
  else
    ranks_->start_reduce({.x = bucket, .first = first, .part = share_.part});
}

/// What was summed of the rank's share, out of the sections that were closed.
void GradientSums::keep_sums() {
  if (closed_.empty()) return;
  ranks_->join(last_sum_);
  for (const std::int64_t section : closed_)
    if (const Tensor own = own_of(section); own.size() > 0) ops_->copy(own, stretch_of(section).of(ranks_->rank()));
  closed_.clear();
}

Stretch GradientSums::stretch_of(std::int64_t section) const {
  return {.x = decoder_->section_gradients(section),
          .first = decoder_->layout().sections()[static_cast<std::size_t>(section)].begin,
          .part = share_.part};
}

/// Where the rank keeps its elements of a section.
Tensor GradientSums::own_of(std::int64_t section) const {
  const Stretch stretch = stretch_of(section);
  const std::int64_t size = stretch.size_of(ranks_->rank());
  return arena_.tensor(own_, {share_.size}).rows(size == 0 ? 0 : stretch.first + stretch.begin_of(ranks_->rank()) - share_.begin, size);
}

}  // namespace sinkscope
