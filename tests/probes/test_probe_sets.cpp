#include <algorithm>
#include <set>
#include <string>

#include "engine/probes/probe_sets.h"
#include "tests/catch.h"
#include "tests/probes/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr std::int32_t kSetBos = 57, kSetEos = 58;

ProbeSetOptions options() {
  return {.length = 32,
          .short_length = 8,
          .sequences = 6,
          .vocab_size = 59,
          .bos_id = kSetBos,
          .eos_id = kSetEos,
          .seed = 4};
}

std::vector<std::string> names(const std::vector<ProbeSet>& sets) {
  std::vector<std::string> out;
  for (const ProbeSet& set : sets) out.push_back(set.name);
  return out;
}

std::vector<std::int32_t> row(const std::vector<std::int32_t>& values, const ProbeSet& set, std::int64_t index) {
  const auto begin = values.begin() + index * set.length;
  return {begin, begin + set.length};
}

}  // namespace

TEST_CASE("the probe sets have the names, lengths and sizes of the definition") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  const auto sets = build_probe_sets(stream, options());
  CHECK(names(sets) == std::vector<std::string>{"natural", "natural_bos", "natural_short", "natural_short_bos",
                                                "random", "repeated"});
  for (const ProbeSet& set : sets) {
    INFO(set.name);
    CHECK(set.length == (set.name.find("short") == std::string::npos ? 32 : 8));
    CHECK(set.sequences == 6);
    CHECK(set.with_bos == (set.name.find("bos") != std::string::npos));
    CHECK(set.inputs.size() == static_cast<std::size_t>(set.length * set.sequences));
    CHECK(set.targets.size() == set.inputs.size());
    for (const std::int32_t token : set.inputs) CHECK((token >= 0 && token < 59));
    for (std::int64_t b = 0; b < set.sequences; ++b) {
      CHECK((row(set.inputs, set, b).front() == kSetBos) == set.with_bos);
      for (std::int64_t t = 0; t + 1 < set.length; ++t)  // the target is the next input
        CHECK(row(set.targets, set, b)[static_cast<std::size_t>(t)] ==
              row(set.inputs, set, b)[static_cast<std::size_t>(t + 1)]);
    }
  }
}

TEST_CASE("phases are read on text that begins as training windows do") {
  CHECK(phase_probe_set(BosPolicy::none) == "natural");
  CHECK(phase_probe_set(BosPolicy::sequence) == "natural_bos");
  CHECK(phase_probe_set(BosPolicy::document) == "natural");
}

TEST_CASE("natural sets are different windows of the text, the same with and without BOS") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  const auto sets = build_probe_sets(stream, options());
  for (const std::size_t plain : {0U, 2U}) {
    const ProbeSet& without = sets[plain];
    const ProbeSet& with = sets[plain + 1];
    std::set<std::vector<std::int32_t>> distinct;
    for (std::int64_t b = 0; b < without.sequences; ++b) {
      const auto text = row(without.inputs, without, b);
      distinct.insert(text);
      auto shifted = row(with.inputs, with, b);
      shifted.erase(shifted.begin());
      shifted.push_back(text.back());
      CHECK(shifted == text);
      bool found = false;  // at a multiple of T
      for (std::int64_t offset = 0; offset + without.length < stream.size(); offset += without.length)
        found = found || std::equal(text.begin(), text.end(), stream.tokens().begin() + offset);
      CHECK(found);
    }
    CHECK(distinct.size() == 6);
  }
}

TEST_CASE("random sets never hold BOS or EOS, and repeated ones hold one token a sequence") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  ProbeSetOptions many = options();
  many.sequences = 90;
  many.vocab_size = 6;
  many.bos_id = 0;
  many.eos_id = 3;
  const MemoryStream small = random_stream(3000, 6, 3);
  const auto sets = build_probe_sets(small, many);
  const ProbeSet& random = sets[sets.size() - 2];
  const ProbeSet& repeated = sets.back();
  const std::set<std::int32_t> ordinary = {1, 2, 4, 5};
  CHECK(std::set<std::int32_t>(random.inputs.begin(), random.inputs.end()) == ordinary);
  CHECK(std::set<std::int32_t>(repeated.inputs.begin(), repeated.inputs.end()) == ordinary);
  for (const std::int32_t token : ordinary) {
    const auto share = static_cast<double>(std::count(random.inputs.begin(), random.inputs.end(), token)) /
                       static_cast<double>(random.inputs.size());
    CHECK(share == Approx(0.25).margin(0.03));
  }
  for (std::int64_t b = 0; b < repeated.sequences; ++b) {
    const auto tokens = row(repeated.inputs, repeated, b);
    CHECK(std::set<std::int32_t>(tokens.begin(), tokens.end()).size() == 1);
    CHECK(row(repeated.targets, repeated, b) == tokens);
  }
}

TEST_CASE("probe sets depend on the seed and on nothing else") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  const auto a = build_probe_sets(stream, options());
  const auto b = build_probe_sets(stream, options());
  ProbeSetOptions other = options();
  other.seed = 5;
  const auto c = build_probe_sets(stream, other);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].inputs == b[i].inputs);
    CHECK(a[i].targets == b[i].targets);
    CHECK(a[i].inputs != c[i].inputs);
  }
  Config config;
  config.model.vocab_size = 59;
  config.train.seed = 1;
  const ProbeSetOptions first = probe_set_options(config, 59);
  config.train.seed = 2;
  CHECK(probe_set_options(config, 59).seed == first.seed);  // runs of several seeds are probed alike
  CHECK(first.length == config.train.sequence_length);
  CHECK(first.bos_id == -1);
}

TEST_CASE("sets that would repeat others or need a BOS that is not there are left out") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  ProbeSetOptions changed = options();
  changed.bos_id = -1;
  CHECK(names(build_probe_sets(stream, changed)) ==
        std::vector<std::string>{"natural", "natural_short", "random", "repeated"});
  changed = options();
  for (const std::int64_t length : {32, 33}) {
    changed.short_length = length;
    CHECK(names(build_probe_sets(stream, changed)) ==
          std::vector<std::string>{"natural", "natural_bos", "random", "repeated"});
  }
}

TEST_CASE("rows that pad the vocabulary are never drawn, and may hold the BOS") {
  Config config;
  config.model.vocab_size = 4096;
  config.train.sequence_length = 32;
  config.probes.short_length = 8;
  config.data.bos_id = 60;
  config.data.eos_id = kSetEos;
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  const auto sets = build_probe_sets(stream, probe_set_options(config, 59));
  REQUIRE(sets.size() == 6);
  CHECK(sets[1].inputs.front() == 60);
  for (const ProbeSet& set : {sets[4], sets[5]}) {
    INFO(set.name);
    CHECK(*std::max_element(set.inputs.begin(), set.inputs.end()) < kSetEos);
    CHECK(*std::max_element(set.targets.begin(), set.targets.end()) < kSetEos);
  }
  config.data.bos_id = 4096;  // no row
  CHECK(build_probe_sets(stream, probe_set_options(config, 59)).size() == 4);
}

TEST_CASE("a short text gives the windows it has, none is an error") {
  const MemoryStream stream = random_stream(32 * 3 + 1, 57, kSetEos);
  const auto sets = build_probe_sets(stream, options());
  CHECK(sets[0].sequences == 3);
  CHECK(sets[0].inputs.size() == 3 * 32);
  CHECK(sets[2].sequences == 6);
  CHECK(sets[4].sequences == 6);
  const MemoryStream torn = random_stream(32, 57, kSetEos);
  CHECK_THROWS_WITH(
      build_probe_sets(torn, options()),
      "the token stream: is shorter than one window: train.sequence_length (32) takes 33 tokens, found 32");
}

TEST_CASE("probe set options out of range are named") {
  const MemoryStream stream = random_stream(3000, 57, kSetEos);
  ProbeSetOptions bad = options();
  bad.length = 1;
  CHECK_THROWS_WITH(build_probe_sets(stream, bad), "probe sets: length is 1, expected at least 2");
  bad = options();
  bad.sequences = 0;
  CHECK_THROWS_WITH(build_probe_sets(stream, bad), "probe sets: sequences is 0, expected at least 1");
  bad = options();
  bad.vocab_size = 2;
  bad.bos_id = 0;
  bad.eos_id = 1;
  CHECK_THROWS_WITH(build_probe_sets(stream, bad),
                    "probe sets: a vocabulary of 2 has no token but BOS and EOS, expected at least one");
}
