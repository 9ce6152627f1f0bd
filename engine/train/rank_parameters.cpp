#include "engine/train/rank_parameters.h"

#include "engine/train/gradient_sums.h"

namespace sinkscope {
namespace {

std::size_t request_own(Arena& arena, DType compute, const OptimizerShare& share) { return arena.request("own share", compute, share.size); }

}  // namespace

bool has_parameters_by_section(const RanksConfig& config, int ranks) { return shard_of(config, ranks) == Shard::parameters; }

RankParameters::RankParameters(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config)
    : ops_(&ops),
      decoder_(&decoder),
      ranks_(&ranks),
      by_section_(has_parameters_by_section(config, ranks.size())),
      shared_(shard_of(config, ranks.size()) != Shard::none),
      share_(share_of(config, decoder.layout().flat_size(), ranks.rank(), ranks.size())),
      arena_("parameters") {
  if (!by_section_) return;
  own_ = request_own(arena_, ops.compute_dtype(), share_);
  arena_.allocate(ops);
  decoder.set_parameter_source(*this);
}

std::vector<MemoryLine> RankParameters::memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks, DType compute) {
  if (!has_parameters_by_section(config, ranks)) return {};
  Arena arena("parameters");
  request_own(arena, compute, share_of(config, layout.flat_size(), 0, ranks));
  const ArenaEntry& entry = arena.entries().front();
  return {{arena.name(), entry.name, entry.bytes}};
}

Tensor RankParameters::own() const {
  return by_section_ ? arena_.tensor(own_, {share_.size}) : decoder_->parameters().rows(share_.begin, share_.size);
}

void RankParameters::changed() {
  places_.clear();
  if (!shared_ || by_section_) return;
  travels_ = true;
  ranks_->start_share({.x = decoder_->parameters(), .part = share_.part});
  ranks_->join();
}

void RankParameters::pass_by() {
  if (!by_section_) return;
  const auto sections = std::ssize(decoder_->layout().sections());
  for (std::int64_t section = 0; section < sections; ++section) {
    need(section);
    if (section + 1 < sections) expect(section + 1);
  }
  end_forward();
}

void RankParameters::of_rank_0(const std::function<void()>& work) {
  if (!by_section_) {
    settle();
    if (ranks_->leads()) work();
    return;
  }
  looked_into([&] {
    if (!ranks_->leads()) {
      while (ranks_->any(false)) pass_by();
      return;
    }
    leads_others_ = true;
    work();
    leads_others_ = false;
    ranks_->any(false);
  });
}

void RankParameters::looked_into(const std::function<void()>& passes) {
  looked_into_ = true;
  passes();
  looked_into_ = false;
}

void RankParameters::begin_forward() {
  if (leads_others_) ranks_->any(true);
}

void RankParameters::need(std::int64_t section) {
  Held& held = fetch(section);
  if (!held.joined && looked_into_) ranks_->finish();
  if (!held.joined) ranks_->join(held.mark);
  held.joined = true;
}

void RankParameters::expect(std::int64_t section) { fetch(section); }

/// The host waits for other ranks here, where it is known to, not for what the pass computed.
void RankParameters::end_forward() { ranks_->finish(); }

void RankParameters::settle() {
  if (!travels_) return;
  travels_ = false;
  ranks_->finish();
}

/// Into its place, unless it is there or on its way.
RankParameters::Held& RankParameters::fetch(std::int64_t section) {
  const Stretch stretch = stretch_of(section);
  Held& held = places_[stretch.x.data];
  if (held.section == section) return held;
  const int rank = ranks_->rank();
  if (const std::int64_t size = stretch.size_of(rank); size > 0)
    ops_->copy(stretch.of(rank), own().rows(stretch.first + stretch.begin_of(rank) - share_.begin, size));
  ranks_->start_share(stretch);
  held = {.section = section, .mark = ranks_->mark(), .joined = false};
  return held;
}

Stretch RankParameters::stretch_of(std::int64_t section) const {
  return {.x = decoder_->section_parameters(section),
          .first = decoder_->layout().sections()[static_cast<std::size_t>(section)].begin,
          .part = share_.part};
}

}  // namespace sinkscope
