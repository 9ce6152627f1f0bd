#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/gradient_sums.h"
#include "engine/train/non_finite.h"
#include "engine/train/rank_parameters.h"
#include "engine/train/run_memory.h"
#include "kernels/ops.h"
#include "tests/catch.h"

namespace sinkscope {
namespace {

/// The last of so many ranks, to which what the others share comes when it is waited for, and not before: until then
/// NaN lies there. It knows blocks by what this rank keeps of them.
class LateShares final : public Communicator {
 public:
  LateShares(int size, const std::vector<float>& all, OptimizerShare share)
      : size_(size), all_(all), share_(std::move(share)) {}
  int rank() const override { return size_ - 1; }
  int size() const override { return size_; }
  std::string description() const override { return "late shares"; }
  void start_all_reduce(const Tensor&, DType) override {}
  void start_reduce(std::span<const Stretch>, DType) override {}
  void start_share(std::span<const Stretch> stretches) override {
    started_.emplace_back();
    for (const Stretch& stretch : stretches) {
      check_stretch("share", stretch, rank(), size_);
      const std::int64_t place = stretch.own.as<float>() - own;
      const auto block = std::ranges::find_if(share_.blocks(), [&](const DealtBlock& each) {
        const auto piece = share_.piece(each);
        return piece.place == place && piece.size == stretch.own.size() && each.size == stretch.x.size() &&
               each.part == stretch.part;
      });
      REQUIRE(block != share_.blocks().end());
      if (!std::equal(stretch.own.as<float>(), stretch.own.as<float>() + stretch.own.size(),
                      all_.begin() + share_.piece(*block).begin))
        ++wrong;
      std::fill_n(stretch.x.as<float>(), stretch.x.size(), std::numeric_limits<float>::quiet_NaN());
      started_.back().emplace_back(stretch.x, block->begin);
    }
    ++shared;
  }
  std::int64_t mark() override { return static_cast<std::int64_t>(shared); }
  void join(std::int64_t mark) override {
    for (; arrived_ < static_cast<std::size_t>(mark); ++arrived_)
      for (const auto& [x, begin] : started_[arrived_]) std::memcpy(x.data, all_.data() + begin, x.bytes());
  }
  bool shares_beside() const override { return beside; }
  void finish() override { ++finished; }
  void broadcast(const Tensor&, int) override {}
  std::vector<std::byte> gather(std::span<const std::byte> mine) override { return {mine.begin(), mine.end()}; }

  /// Fills what the rank keeps.
  void keep(const Tensor& kept) {
    REQUIRE(kept.size() == share_.size());
    own = kept.as<float>();
    for (const DealtBlock& block : share_.blocks()) {
      const OptimizerShare::Piece piece = share_.piece(block);
      std::copy_n(all_.begin() + piece.begin, piece.size, own + piece.place);
    }
  }

  bool beside = false;
  float* own = nullptr;
  std::size_t shared = 0;
  int wrong = 0, finished = 0;

 private:
  int size_;
  const std::vector<float>& all_;
  OptimizerShare share_;
  std::vector<std::vector<std::pair<Tensor, std::int64_t>>> started_;
  std::size_t arrived_ = 0;
};

/// Sums of all that it is shown.
class Sums final : public ActivationObserver {
 public:
  void embedding(const Tensor& h) override { add(h); }
  void block(const BlockActivations& b) override {
    add(b.output);
    add(b.lse);
    if (b.sink_logits) add(b.sink_logits);
  }
  std::vector<double> sums;

 private:
  void add(const Tensor& x) {
    double sum = 0;
    for (std::int64_t i = 0; i < x.size(); ++i) sum += static_cast<double>(x.as<float>()[i]);
    sums.push_back(sum);
  }
};

ModelConfig model_of(const std::string& preset, int layers, const std::string& more = "") {
  Config config = parse_config(R"({"model": {"preset": ")" + preset + R"(", "layers": )" + std::to_string(layers) +
                                   R"(, "channels": 32, "heads": 2,
                                             "hidden": 48, "vocab_size": 50)" +
                                   more + R"(}, "train": {"micro_batch": 1}})",
                               "test");
  resolve_with_dataset(config, 50, 0, 1);
  return config.model;
}

std::vector<float> values_of(const ParameterLayout& layout, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(layout.flat_size()));
  initialize_parameters(layout, seed, values);
  for (const ParameterSpec& spec : layout.specs())  // none of them alike
    for (std::int64_t i = 0; i < spec.size; ++i)
      values[static_cast<std::size_t>(spec.offset + i)] += 1e-3F * static_cast<float>((i + spec.offset) % 11);
  return values;
}

struct Passed {
  std::vector<float> losses;
  std::vector<double> seen;
  std::vector<float> gradients;
  bool operator==(const Passed&) const = default;
};

Passed pass(Decoder& decoder, bool backward) {
  const std::vector<std::int32_t> tokens = {1, 4, 9, 16, 25, 36, 49, 3, 7};
  Passed passed;
  passed.losses.resize(8);
  Sums sums;
  decoder.zero_gradients();
  decoder.forward(1, 8, tokens.data(), &sums);
  decoder.loss(tokens.data() + 1, passed.losses.data(), backward ? 1.0F : 0.0F);
  if (backward) decoder.backward();
  passed.seen = sums.sums;
  const float* gradients = decoder.gradients().as<float>();
  passed.gradients.assign(gradients, gradients + decoder.layout().flat_size());
  return passed;
}

TEST_CASE(
    "a pass whose parameters come section by section is the pass of all of them to the bit, with none used too early "
    "or too late") {
  const auto ops = make_cpu_ops(1);
  const auto [preset, more] = GENERATE(std::pair("llama", ""), std::pair("gpt2", ""),
                                       std::pair("llama", R"(, "attention": {"sink": "learned"})"));
  const int layers = GENERATE(1, 2, 3, 4);
  const Recompute recompute = GENERATE(Recompute::none, Recompute::block);
  INFO(preset << more << ", " << layers << " layers");
  const ModelConfig model = model_of(preset, layers, more);
  const DecoderOptions options{.max_sequences = 1, .max_length = 8, .recompute = recompute};
  Decoder whole(*ops, model, options);
  DecoderOptions by_section = options;
  by_section.parameters_by_section = true;
  Decoder decoder(*ops, model, by_section);
  CHECK_THROWS_AS(decoder.parameters(), std::logic_error);
  const std::vector<std::int32_t> token = {1};
  CHECK_THROWS_AS(decoder.forward(1, 1, token.data()), std::logic_error);  // without a source
  const ParameterLayout& layout = whole.layout();
  for (const int size : {2, 5}) {
    INFO(size << " ranks");
    std::vector<float> all = values_of(layout, 1);
    const RanksConfig config{.bucket_megabytes = 0.01, .shard = Shard::parameters};  // several blocks a section
    LateShares ranks(size, all, share_of(config, layout, size - 1, size));
    RankParameters parameters(*ops, decoder, ranks, config);
    CHECK(parameters.by_section());
    const auto change = [&](std::uint64_t seed) {
      all = values_of(layout, seed);
      ops->copy_from_host(whole.parameters(), all.data());
      ranks.keep(parameters.own());
      parameters.changed();
    };
    const auto count = [&](const auto& action) {
      const std::size_t before = ranks.shared;
      action();
      return static_cast<int>(ranks.shared - before);
    };
    change(1);
    // Forward takes every section; backward all blocks but the last two, which lie there.
    CHECK(count([&] { CHECK(pass(decoder, true) == pass(whole, true)); }) == layers + 2 + std::max(0, layers - 2));
    // Then blocks alone come again, but for the first two; up to two of them nothing does.
    const int again = layers <= 2 ? 0 : layers - 2;
    CHECK(count([&] { CHECK(pass(decoder, true) == pass(whole, true)); }) == 2 * again);
    CHECK(count([&] { CHECK(pass(decoder, false) == pass(whole, false)); }) == again);
    change(2);
    CHECK(count([&] { CHECK(pass(decoder, false) == pass(whole, false)); }) == layers + 2);
    // What another rank's pass takes of this one is what a pass of its own does.
    change(3);
    int finished = ranks.finished;
    CHECK(count([&] { parameters.pass_by(); }) == layers + 2);
    CHECK(count([&] { parameters.pass_by(); }) == count([&] { pass(decoder, false); }));
    CHECK(ranks.finished == finished + 3);
    // All parameters, one after the other.
    change(4);
    finished = ranks.finished;
    std::size_t seen = 0;
    CHECK(count([&] {
            decoder.for_each_parameter([&](const ParameterSpec& spec, const Tensor& values) {
              CHECK(spec.name == layout.specs().at(seen++).name);
              CHECK(std::memcmp(values.data, all.data() + spec.offset, values.bytes()) == 0);
            });
          }) == layers + 2);
    CHECK(seen == layout.specs().size());
    CHECK(ranks.finished == finished + 1);
    // Where the host looks into passes it waits for each section, on this rank as on those that pass by.
    for (const bool by : {false, true}) {
      change(5);
      finished = ranks.finished;
      parameters.looked_into([&] { by ? parameters.pass_by() : static_cast<void>(pass(decoder, false)); });
      CHECK(ranks.finished == finished + layers + 2 + 1);
    }
    CHECK(pass(decoder, true) == pass(whole, true));
    CHECK(ranks.wrong == 0);
  }
}

TEST_CASE(
    "where ranks have all parameters, passes after an update see those of all, and the host waits for them once") {
  const auto ops = make_cpu_ops(1);
  const Shard shard = GENERATE(Shard::none, Shard::optimizer, Shard::gradients);
  const int shared = shard == Shard::none ? 0 : 1;
  const ModelConfig model = model_of("gpt2", 3);
  const DecoderOptions options{.max_sequences = 1, .max_length = 8};
  Decoder whole(*ops, model, options), decoder(*ops, model, options);
  const ParameterLayout& layout = whole.layout();
  std::vector<float> all = values_of(layout, 1);
  const RanksConfig config{.bucket_megabytes = 0.01, .shard = shard};
  LateShares ranks(3, all, share_of(config, layout, 2, 3));
  RankParameters parameters(*ops, decoder, ranks, config);
  CHECK_FALSE(parameters.by_section());
  for (const std::uint64_t seed : {1, 2}) {
    all = values_of(layout, seed);
    ops->copy_from_host(whole.parameters(), all.data());
    if (shared == 0) ops->copy_from_host(decoder.parameters(), all.data());
    ranks.keep(parameters.own());
    const std::size_t before = ranks.shared;
    const int finished = ranks.finished;
    parameters.changed();
    CHECK(pass(decoder, true) == pass(whole, true));
    for (int i = 0; i < 2; ++i) parameters.settle();
    parameters.pass_by();
    CHECK(ranks.shared == before + static_cast<std::size_t>(shared));
    CHECK(ranks.finished == finished + shared);
  }
  CHECK(ranks.wrong == 0);
}

TEST_CASE(
    "where shares travel beside other work the forward pass behind an update takes them section by section, or what "
    "settles it does") {
  const auto ops = make_cpu_ops(1);
  const Shard shard = GENERATE(Shard::optimizer, Shard::gradients);
  const ModelConfig model = model_of("gpt2", 3);
  const std::size_t sections = 5;
  const DecoderOptions options{.max_sequences = 1, .max_length = 8};
  Decoder whole(*ops, model, options), decoder(*ops, model, options);
  const ParameterLayout& layout = whole.layout();
  REQUIRE(layout.sections().size() == sections);
  std::vector<float> all = values_of(layout, 1);
  const RanksConfig config{.bucket_megabytes = 0.01, .shard = shard};
  LateShares ranks(3, all, share_of(config, layout, 2, 3));
  ranks.beside = true;
  RankParameters parameters(*ops, decoder, ranks, config);
  const auto change = [&](std::uint64_t seed) {
    all = values_of(layout, seed);
    ops->copy_from_host(whole.parameters(), all.data());
    ranks.keep(parameters.own());
    const std::size_t before = ranks.shared;
    parameters.changed();
    CHECK(ranks.shared == before);
    CHECK_FALSE(parameters.has_all());
  };
  const auto counts = [&](const auto& action) {
    const std::size_t shared = ranks.shared;
    const int finished = ranks.finished;
    action();
    CHECK(parameters.has_all());
    return std::pair(ranks.shared - shared, ranks.finished - finished);
  };
  CHECK(parameters.has_all());
  for (const std::uint64_t seed : {1, 2}) {
    change(seed);
    CHECK(counts([&] { CHECK(pass(decoder, true) == pass(whole, true)); }) == std::pair(sections, 0));
    CHECK(counts([&] { for (int i = 0; i < 2; ++i) parameters.settle(); }) == std::pair(std::size_t{0}, 1));
    CHECK(counts([&] { CHECK(pass(decoder, true) == pass(whole, true)); }) == std::pair(std::size_t{0}, 0));
    change(seed + 10);
    CHECK(counts([&] { parameters.settle(); }) == std::pair(sections, 1));
    CHECK(counts([&] { CHECK(pass(decoder, false) == pass(whole, false)); }) == std::pair(std::size_t{0}, 0));
  }
  CHECK(ranks.wrong == 0);
}

TEST_CASE("a tensor that is not finite is found by section too, by what other ranks pass by twice") {
  const auto ops = make_cpu_ops(1);
  const ModelConfig model = model_of("llama", 3);
  Decoder decoder(*ops, model, {.max_sequences = 1, .max_length = 8, .parameters_by_section = true});
  std::vector<float> all = values_of(decoder.layout(), 1);
  const RanksConfig config{.shard = Shard::parameters};
  LateShares ranks(2, all, share_of(config, decoder.layout(), 1, 2));
  RankParameters parameters(*ops, decoder, ranks, config);
  all[static_cast<std::size_t>(decoder.layout().find("blocks.0.norm2.weight").offset)] = INFINITY;
  ranks.keep(parameters.own());
  parameters.changed();
  Batch batch;
  batch.sequences = 1;
  batch.length = 4;
  batch.inputs = {1, 2, 3, 4};
  const std::size_t before = ranks.shared;
  CHECK(first_non_finite(*ops, decoder, batch) == "parameter blocks.0.norm2.weight");
  const std::size_t looked = ranks.shared - before;
  parameters.changed();
  parameters.pass_by();
  parameters.pass_by();
  CHECK(ranks.shared - before == 2 * looked);
}

TEST_CASE("a rank keeps its share of the parameters, and places for the ends and two blocks") {
  Config config = parse_config(
      R"({"model": {"preset": "llama", "layers": 6, "channels": 64, "heads": 2, "vocab_size": 100}})", "test");
  resolve_with_dataset(config, 100, 0, 1);
  const ParameterLayout layout(config.model);
  const auto bytes_of = [&](const char* arena, Shard shard, int ranks) {
    config.ranks.shard = shard;
    std::size_t bytes = 0;
    for (const MemoryLine& line :
         run_memory(config, {}, {.device = Device::cuda, .compute = DType::bf16, .ranks = ranks}))
      if (line.arena == arena) bytes += line.bytes;
    return static_cast<std::int64_t>(bytes);
  };
  const auto parameters = [&](Shard shard, int ranks) { return bytes_of("parameters", shard, ranks); };
  for (const char* arena : {"gradients", "optimizer"})  // as where gradients are
    CHECK(bytes_of(arena, Shard::parameters, 4) == bytes_of(arena, Shard::gradients, 4));
  CHECK(bytes_of("gradients", Shard::parameters, 4) < bytes_of("gradients", Shard::optimizer, 4));
  const std::int64_t whole = 2 * layout.flat_size(), block = layout.sections()[1].size;
  CHECK(parameters(Shard::none, 4) == Approx(whole).margin(1024));
  for (const Shard shard : {Shard::optimizer, Shard::gradients})
    CHECK(parameters(shard, 4) == Approx(whole + whole / 4).margin(2048));
  CHECK(parameters(Shard::parameters, 1) == Approx(whole).margin(1024));
  const std::int64_t places = layout.sections().front().size + layout.sections().back().size + 2 * block;
  CHECK(parameters(Shard::parameters, 4) == Approx(2 * (layout.flat_size() / 4 + places)).margin(2048));
}

}  // namespace
}  // namespace sinkscope
