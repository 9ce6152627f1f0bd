#include "engine/train/rank_parameters.h"

#include "engine/train/gradient_sums.h"

namespace sinkscope {
namespace {

std::size_t request_own(Arena& arena, DType compute, const OptimizerShare& share) {
  return arena.request("own share", compute, share.size());
}

}  // namespace

bool has_parameters_by_section(const RanksConfig& config, int ranks) {
  return shard_of(config, ranks) == Shard::parameters;
}

RankParameters::RankParameters(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config)
    : ops_(&ops),
      decoder_(&decoder),
      ranks_(&ranks),
      by_section_(has_parameters_by_section(config, ranks.size())),
      dealt_(shard_of(config, ranks.size()) != Shard::none),
      late_(dealt_ && !by_section_ && ranks.shares_beside()),
      share_(share_of(config, decoder.layout(), ranks.rank(), ranks.size())),
      arena_("parameters") {
  if (!dealt_) return;
  own_ = request_own(arena_, ops.compute_dtype(), share_);
  arena_.allocate(ops);
  if (by_section_ || late_) decoder.set_parameter_source(*this);
}

std::vector<MemoryLine> RankParameters::memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks,
                                                    DType compute) {
  if (shard_of(config, ranks) == Shard::none) return {};
  Arena arena("parameters");
  request_own(arena, compute, share_of(config, layout, 0, ranks));
  const ArenaEntry& entry = arena.entries().front();
  return {{arena.name(), entry.name, entry.bytes}};
}

Tensor RankParameters::own() const {
  return dealt_ ? arena_.tensor(own_, {share_.size()}) : decoder_->parameters();
}

void RankParameters::changed() {
  places_.clear();
  if (!dealt_ || by_section_) return;
  new_ = late_ ? New::waiting : New::under_way;
  if (late_) return;
  std::vector<Stretch> stretches;
  for (std::int64_t section = 0; section < std::ssize(decoder_->layout().sections()); ++section)
    share(section, stretches);
  ranks_->start_share(stretches);
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
  if (has_all()) return;
  Held& held = fetch(section);
  if (!held.joined && looked_into_) ranks_->finish();
  if (!held.joined) ranks_->join(held.mark);
  held.joined = true;
}

void RankParameters::expect(std::int64_t section) {
  if (!has_all()) fetch(section);
}

/// By section the host waits for other ranks here, where it is known to, not for what the pass computed.
void RankParameters::end_forward() {
  if (new_ == New::waiting) new_ = New::under_way;
  if (by_section_) ranks_->finish();
}

void RankParameters::settle() {
  if (new_ == New::here) return;
  if (new_ == New::waiting)
    for (std::int64_t section = 0; section < std::ssize(decoder_->layout().sections()); ++section) need(section);
  new_ = New::here;
  ranks_->finish();
}

/// Into its place, unless it is there or on its way.
RankParameters::Held& RankParameters::fetch(std::int64_t section) {
  Held& held = places_[decoder_->section_parameters(section).data];
  if (held.section == section) return held;
  std::vector<Stretch> stretches;
  share(section, stretches);
  ranks_->start_share_beside(stretches);
  held = {.section = section, .mark = ranks_->mark(), .joined = false};
  return held;
}

/// Its blocks, with what the rank keeps of them.
void RankParameters::share(std::int64_t section, std::vector<Stretch>& stretches) const {
  const Tensor parameters = decoder_->section_parameters(section);
  const Section& part = decoder_->layout().sections()[static_cast<std::size_t>(section)];
  for (const DealtBlock& block : share_.blocks_of(part)) {
    const OptimizerShare::Piece kept = share_.piece(block);
    stretches.push_back({.x = parameters.rows(block.begin - part.begin, block.size),
                         .part = block.part,
                         .own = own().rows(kept.place, kept.size)});
  }
}

}  // namespace sinkscope
