#include "engine/probes/probe_sets.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/data/sampler.h"
#include "engine/model/random.h"

namespace sinkscope {

namespace {

/// Ordinary tokens by rank: the vocabulary without BOS and EOS.
class OrdinaryTokens {
 public:
  explicit OrdinaryTokens(const ProbeSetOptions& options) : count_(options.vocab_size) {
    for (const std::int32_t id : {options.bos_id, options.eos_id})
      if (id >= 0 && id < options.vocab_size && std::find(special_.begin(), special_.end(), id) == special_.end())
        special_.push_back(id);
    std::sort(special_.begin(), special_.end());
    count_ -= static_cast<std::int64_t>(special_.size());
    if (count_ < 1)
      throw std::runtime_error("probe sets: a vocabulary of " + std::to_string(options.vocab_size) +
                               " has no token but BOS and EOS, expected at least one");
  }

  std::int32_t draw(std::uint64_t key, std::uint64_t index) const {
    auto id = static_cast<std::int32_t>(random_uniform(key, index) * static_cast<double>(count_));
    for (const std::int32_t special : special_)
      if (id >= special) ++id;
    return id;
  }

 private:
  std::vector<std::int32_t> special_;  // ascending
  std::int64_t count_;
};

ProbeSet natural_set(std::string name, const TokenStream& stream, const ProbeSetOptions& options, std::int64_t length,
                     bool with_bos) {
  Windows::Options cut;
  cut.length = length;
  cut.bos = with_bos ? BosPolicy::sequence : BosPolicy::none;
  cut.bos_id = options.bos_id;
  cut.eos_id = options.eos_id;
  const Windows windows(stream, cut);
  const std::int64_t sequences = std::min(options.sequences, windows.count());
  const ShuffledOrder order(windows.count(), random_key(options.seed, "probes.natural"));
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < sequences; ++i) chosen.push_back(order.window(i));
  std::sort(chosen.begin(), chosen.end());
  Batch batch;
  windows.resize(batch, sequences);
  for (std::int64_t row = 0; row < sequences; ++row) windows.fill(chosen[static_cast<std::size_t>(row)], row, batch);
  return {std::move(name), length, sequences, with_bos, std::move(batch.inputs), std::move(batch.targets)};
}

/// Token `place` of sequence `row`, place in [0, T], from `token(row, place)`.
template <class Token>
ProbeSet made_set(std::string name, const ProbeSetOptions& options, Token token) {
  ProbeSet set{std::move(name), options.length, options.sequences, false, {}, {}};
  for (std::int64_t row = 0; row < set.sequences; ++row)
    for (std::int64_t t = 0; t < set.length; ++t) {
      set.inputs.push_back(token(row, t));
      set.targets.push_back(token(row, t + 1));
    }
  return set;
}

void expect_at_least(const char* option, std::int64_t value, std::int64_t least) {
  if (value < least)
    throw std::invalid_argument("probe sets: " + std::string(option) + " is " + std::to_string(value) +
                                ", expected at least " + std::to_string(least));
}

}  // namespace

std::string phase_probe_set(BosPolicy bos) { return bos == BosPolicy::sequence ? "natural_bos" : "natural"; }

ProbeSetOptions probe_set_options(const Config& config, std::int64_t vocab_size) {
  ProbeSetOptions options;
  options.length = config.train.sequence_length;
  options.short_length = config.probes.short_length;
  options.sequences = config.probes.sequences;
  options.vocab_size = vocab_size;
  options.bos_id = static_cast<std::int32_t>(config.data.bos_id < config.model.vocab_size ? config.data.bos_id : -1);
  options.eos_id = static_cast<std::int32_t>(config.data.eos_id);
  return options;
}

std::vector<ProbeSet> build_probe_sets(const TokenStream& validation, const ProbeSetOptions& options) {
  expect_at_least("length", options.length, 2);
  expect_at_least("short_length", options.short_length, 2);
  expect_at_least("sequences", options.sequences, 1);
  expect_at_least("vocab_size", options.vocab_size, 1);
  const bool has_bos = options.bos_id >= 0;

  std::vector<ProbeSet> sets;
  sets.push_back(natural_set("natural", validation, options, options.length, false));
  if (has_bos) sets.push_back(natural_set("natural_bos", validation, options, options.length, true));
  if (options.short_length < options.length) {
    sets.push_back(natural_set("natural_short", validation, options, options.short_length, false));
    if (has_bos) sets.push_back(natural_set("natural_short_bos", validation, options, options.short_length, true));
  }
  for (ProbeSet& set : build_made_sets(options)) sets.push_back(std::move(set));
  return sets;
}

std::vector<ProbeSet> build_made_sets(const ProbeSetOptions& options) {
  expect_at_least("length", options.length, 2);
  expect_at_least("sequences", options.sequences, 1);
  expect_at_least("vocab_size", options.vocab_size, 1);
  const OrdinaryTokens tokens(options);
  std::vector<ProbeSet> sets;
  const std::uint64_t random = random_key(options.seed, "probes.random");
  sets.push_back(made_set("random", options, [&](std::int64_t row, std::int64_t place) {
    return tokens.draw(random, static_cast<std::uint64_t>(row * (options.length + 1) + place));
  }));
  const std::uint64_t repeated = random_key(options.seed, "probes.repeated");
  sets.push_back(made_set("repeated", options, [&](std::int64_t row, std::int64_t) {
    return tokens.draw(repeated, static_cast<std::uint64_t>(row));
  }));
  return sets;
}

}  // namespace sinkscope
