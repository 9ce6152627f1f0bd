#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engine/data/sampler.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kBos = 900, kEos = 901;
constexpr std::array kPolicies = {BosPolicy::none, BosPolicy::sequence, BosPolicy::document};

/// Documents of 0 to 11 tokens, each token's value its own place (so that text is recognizable).
MemoryStream random_stream(std::mt19937& random, std::int64_t size) {
  std::vector<std::int32_t> tokens;
  std::size_t left = random() % 12;
  for (std::int32_t i = 0; static_cast<std::int64_t>(tokens.size()) < size; ++i) {
    tokens.push_back(left == 0 ? kEos : 1000 + i);
    left = left == 0 ? random() % 12 : left - 1;
  }
  return MemoryStream(std::move(tokens));
}

Windows::Options options_of(std::int64_t length, BosPolicy policy) {
  return {.length = length,
          .bos = policy,
          .bos_id = kBos,
          .eos_id = kEos,
          .common_targets = {kPolicies.begin(), kPolicies.end()}};
}

Batch window(const MemoryStream& stream, std::int64_t length, BosPolicy policy, std::int64_t index) {
  const Windows windows(stream, options_of(length, policy));
  Batch batch;
  windows.resize(batch, 1);
  windows.fill(index, 0, batch);
  return batch;
}

/// The window's text: first input, then every target, without BOS.
std::vector<std::int32_t> text_of(const Batch& batch) {
  std::vector<std::int32_t> text = {batch.inputs.front()};
  text.insert(text.end(), batch.targets.begin(), batch.targets.end());
  std::erase(text, kBos);
  return text;
}

std::vector<std::int32_t> common_of(const Batch& batch) {
  std::vector<std::int32_t> targets;
  for (std::size_t i = 0; i < batch.targets.size(); ++i)
    if (batch.common[i] != 0) targets.push_back(batch.targets[i]);
  return targets;
}

}  // namespace

TEST_CASE("the three policies on a stream worked by hand") {
  const MemoryStream stream({10, 11, kEos, 12, 13, 14, kEos, 15, 16});
  using Mask = std::vector<std::uint8_t>;
  const auto none = window(stream, 4, BosPolicy::none, 0);
  CHECK(none.inputs == Ids{10, 11, kEos, 12});
  CHECK(none.targets == Ids{11, kEos, 12, 13});
  CHECK(none.common == Mask{1, 1, 0, 0});
  const auto sequence = window(stream, 4, BosPolicy::sequence, 0);
  CHECK(sequence.inputs == Ids{kBos, 10, 11, kEos});
  CHECK(sequence.targets == Ids{10, 11, kEos, 12});
  CHECK(sequence.common == Mask{0, 1, 1, 0});
  const auto document = window(stream, 4, BosPolicy::document, 0);
  CHECK(document.inputs == Ids{kBos, 10, 11, kEos});
  CHECK(document.targets == Ids{10, 11, kEos, kBos});
  CHECK(document.common == Mask{0, 1, 1, 0});
  // Window 1 begins inside a document: no BOS at its start.
  const auto second = window(stream, 4, BosPolicy::document, 1);
  CHECK(second.inputs == Ids{13, 14, kEos, kBos});
  CHECK(second.targets == Ids{14, kEos, kBos, 15});
  CHECK(second.common == Mask{1, 1, 0, 1});
}

TEST_CASE("window i covers the same text under every policy, less its end") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const auto stream = random_stream(random, 20 + static_cast<std::int64_t>(random() % 300));
    const auto length = 1 + static_cast<std::int64_t>(random() % 18);
    const std::int64_t count = Windows(stream, options_of(length, BosPolicy::none)).count();
    CHECK(count == (stream.size() - 1) / length);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto none = window(stream, length, BosPolicy::none, i);
      const auto sequence = window(stream, length, BosPolicy::sequence, i);
      const auto document = window(stream, length, BosPolicy::document, i);
      const auto begin = stream.tokens().begin() + i * length;
      // none: the stream itself; sequence: all of it but the last token; document: a beginning of it.
      REQUIRE(text_of(none) == std::vector<std::int32_t>(begin, begin + length + 1));
      REQUIRE(text_of(sequence) == std::vector<std::int32_t>(begin, begin + length));
      const auto text = text_of(document);
      REQUIRE(std::equal(text.begin(), text.end(), begin));
      // Every input is the target before it, and a BOS stands exactly before what begins a document.
      for (const Batch* batch : {&none, &sequence, &document})
        REQUIRE(std::equal(batch->inputs.begin() + 1, batch->inputs.end(), batch->targets.begin()));
      std::vector<std::int32_t> rebuilt;
      for (std::int64_t j = 0; static_cast<std::int64_t>(rebuilt.size()) <= length; ++j) {
        const std::int64_t at = i * length + j;
        if (at == 0 || stream.tokens()[static_cast<std::size_t>(at - 1)] == kEos) rebuilt.push_back(kBos);
        rebuilt.push_back(stream.tokens()[static_cast<std::size_t>(at)]);
      }
      REQUIRE(std::equal(document.inputs.begin(), document.inputs.end(), rebuilt.begin()));
      // The common targets are the same stream tokens in all three, and none is a BOS.
      REQUIRE(common_of(none) == common_of(sequence));
      REQUIRE(common_of(none) == common_of(document));
      REQUIRE(std::ranges::count(common_of(none), kBos) == 0);
      // The mask leaves out nothing that all three predict. Ordinary tokens are all distinct.
      std::map<std::int32_t, int> seen;
      for (const Batch* batch : {&none, &sequence, &document})
        for (const auto target : batch->targets) ++seen[target];
      const auto common = common_of(none);
      for (const auto& [token, times] : seen)
        if (token != kEos && token != kBos) REQUIRE((times == 3) == (std::ranges::count(common, token) == 1));
    }
  }
}

TEST_CASE("an order is a permutation of each epoch, and depends on seed and epoch") {
  for (const std::int64_t count : {1, 2, 3, 5, 16, 17, 1000, 4097}) {
    const ShuffledOrder order(count, 42);
    std::vector<std::int64_t> previous;
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<std::int64_t> windows;
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t sample = epoch * count + i;
        REQUIRE(order.epoch(sample) == epoch);
        windows.push_back(order.window(sample));
      }
      auto sorted = windows;
      std::sort(sorted.begin(), sorted.end());
      std::vector<std::int64_t> all(static_cast<std::size_t>(count));
      std::iota(all.begin(), all.end(), 0);
      REQUIRE(sorted == all);
      if (count >= 16) {
        CHECK(windows != all);
        CHECK(windows != previous);
        std::vector<std::int64_t> other;
        for (std::int64_t i = 0; i < count; ++i) other.push_back(ShuffledOrder(count, 43).window(epoch * count + i));
        CHECK(other != windows);
      }
      previous = windows;
    }
  }
}

TEST_CASE("an order spreads windows evenly") {
  // Each of 8 windows should come first equally often over seeds: 1000 times of 8000, sigma 30.
  std::array<int, 8> first{};
  for (std::uint64_t seed = 0; seed < 8000; ++seed) ++first[static_cast<std::size_t>(ShuffledOrder(8, seed).window(0))];
  for (const int times : first) CHECK(std::abs(times - 1000) < 150);
  // Neighbours in the order are not neighbours in the stream more often than chance has it.
  const ShuffledOrder order(10000, 5);
  int near = 0;
  for (std::int64_t i = 0; i + 1 < 10000; ++i) near += std::abs(order.window(i) - order.window(i + 1)) <= 10 ? 1 : 0;
  CHECK(near < 60);  // 20 expected
}

TEST_CASE("batches resume exactly from a sample number, inside an epoch, across epochs and files") {
  TemporaryFolder folder;
  std::vector<std::filesystem::path> files;
  for (std::uint16_t shard = 0; shard < 3; ++shard) {
    std::vector<std::uint16_t> tokens(static_cast<std::size_t>(37 + 11 * shard));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint16_t>(1000 * shard + i);
    files.push_back(folder / (std::to_string(shard) + ".bin"));
    write_gpt2_shard(files.back(), tokens);
  }
  constexpr std::int64_t kLength = 8, kBatch = 3, kSteps = 20;  // 17 windows: three and a half epochs
  const auto run = [&](std::int64_t from_step) {
    const auto stream = open_token_stream(files, true);  // everything anew, as after a restart
    const Windows windows(*stream, options_of(kLength, BosPolicy::sequence));
    const ShuffledOrder order(windows.count(), 9);
    std::vector<std::vector<std::int32_t>> inputs;
    Batch batch;
    windows.resize(batch, kBatch);
    for (std::int64_t step = from_step; step < kSteps; ++step) {
      for (std::int64_t row = 0; row < kBatch; ++row) windows.fill(order.window(step * kBatch + row), row, batch);
      inputs.push_back(batch.inputs);
    }
    return inputs;
  };
  const auto whole = run(0);
  bool spans_files = false;
  for (const auto& inputs : whole)
    for (std::size_t i = 1; i < inputs.size(); ++i)
      spans_files = spans_files || (inputs[i] != kBos && inputs[i - 1] != kBos && inputs[i] != inputs[i - 1] + 1);
  CHECK(spans_files);
  for (std::int64_t step = 0; step < kSteps; ++step)
    CHECK(run(step) == std::vector<std::vector<std::int32_t>>(whole.begin() + step, whole.end()));
}

TEST_CASE("windows refuse what cannot work") {
  const MemoryStream stream({1, 2, 3, 4, 5});
  auto options = options_of(5, BosPolicy::none);
  const auto message = [&] { return message_of([&] { Windows(stream, options); }); };
  CHECK(message() == "the token stream: is shorter than one window: train.sequence_length (5) takes 6 tokens, found 5");
  options.length = 0;
  CHECK(message() == "the window length must be at least 1, found 0");
  options = options_of(2, BosPolicy::sequence);
  options.bos_id = -1;
  CHECK(message() ==
        "this BOS policy needs a BOS id, and the dataset has none; set data.bos_id or use data.bos = \"none\"");
  options = options_of(2, BosPolicy::document);
  options.eos_id = -1;
  CHECK(message() ==
        "data.bos = \"document\" needs an EOS id to find the documents, and the dataset has none; set data.eos_id");
  const Windows windows(stream, options_of(2, BosPolicy::none));
  Batch batch;
  windows.resize(batch, 1);
  CHECK(message_of([&] { windows.fill(2, 0, batch); }) == "window 2 of 2");
  CHECK(message_of([&] { windows.fill(0, 1, batch); }) == "row 1 of a batch of 1 x 2, windows of 2");
  CHECK(message_of([] { ShuffledOrder(0, 1); }) == "an order needs at least one window, found 0");
}
