#include <algorithm>
#include <cmath>
#include <functional>
#include <ranges>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/world.h"
#include "engine/config/load.h"
#include "engine/train/gradient_sums.h"
#include "kernels/ops.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

/// One rank that says it is of so many, and writes down what it is asked to sum, by its place in the flat array: of
/// what is dealt the blocks in the order in which it expects them. Sums are there when they are waited for, not before.
class Recorder final : public Communicator {
 public:
  explicit Recorder(int size, OptimizerShare share = OptimizerShare(0)) : size_(size), share_(std::move(share)) {}
  int rank() const override { return size_ - 1; }
  int size() const override { return size_; }
  std::string description() const override { return "recorder"; }
  void start_all_reduce(const Tensor& x, DType wire) override {
    wires.insert(wire);
    const auto begin = x.as<float>() - base;
    parts.emplace_back(begin, begin + x.size());
    whole = true;
  }
  void start_reduce(std::span<const Stretch> stretches, DType wire) override {
    wires.insert(wire);
    for (const Stretch& stretch : stretches) reduce(stretch);
  }
  void reduce(const Stretch& stretch) {
    check_stretch("reduce", stretch, rank(), size_);
    const DealtBlock& block = share_.blocks().at(share_.blocks().size() - 1 - dealt % share_.blocks().size());
    ++dealt;
    CHECK(stretch.x.size() == block.size);
    CHECK(stretch.part == block.part);
    CHECK(stretch.own.size() == share_.piece(block).size);
    if (base == nullptr)
      parts.emplace_back(block.begin, block.begin + block.size);
    else
      parts.emplace_back(stretch.x.as<float>() - base, stretch.x.as<float>() - base + stretch.x.size());
    under_way_.push_back(stretch);
  }
  std::int64_t mark() override { return static_cast<std::int64_t>(under_way_.size()); }
  void join(std::int64_t mark) override {
    ++joined;
    arrive(static_cast<std::size_t>(mark));
  }
  void finish() override { arrive(under_way_.size()); }
  void arrive(std::size_t end) {
    for (; arrived_ < end; ++arrived_) {
      const Stretch& stretch = under_way_[arrived_];
      // The other ranks' addends.
      for (std::int64_t i = 0; i < stretch.own.size(); ++i)
        stretch.own.as<float>()[i] = 10 * stretch.of(rank()).as<float>()[i];
    }
  }
  void broadcast(const Tensor&, int) override {}
  void start_share(std::span<const Stretch>) override {}
  std::vector<std::byte> gather(std::span<const std::byte> mine) override { return {mine.begin(), mine.end()}; }

  const float* base = nullptr;
  std::vector<std::pair<std::int64_t, std::int64_t>> parts;
  std::set<DType> wires;
  std::size_t dealt = 0;
  int joined = 0;
  bool whole = false;  // it was asked for sums of all

 private:
  int size_;
  OptimizerShare share_;
  std::vector<Stretch> under_way_;  // and what has arrived of them
  std::size_t arrived_ = 0;
};

ModelConfig small_model(const std::string& preset) {
  Config config =
      parse_config(R"({"model": {"preset": ")" + preset + R"(", "layers": 3, "channels": 32, "heads": 2, "hidden": 48,
                                             "vocab_size": 50}, "train": {"micro_batch": 1}})",
                   "test");
  resolve_with_dataset(config, 50, 0, 1);
  return config.model;
}

TEST_CASE("buckets are summed from the end, none before it is ready, the same ones whatever was ready when") {
  const auto ops = make_cpu_ops(1);
  Decoder decoder(*ops, small_model("llama"), {.max_sequences = 1, .max_length = 8});
  const Shard shard = GENERATE(Shard::none, Shard::optimizer);
  // 4000 elements.
  const RanksConfig config{.bucket_megabytes = 0.016, .shard = shard, .reduce_dtype = ReduceDType::bf16};
  const OptimizerShare share = share_of(config, decoder.layout(), 1, 2);
  Recorder recorder(2, share);
  recorder.base = decoder.gradients().as<float>();
  GradientSums sums(*ops, decoder, recorder, config);
  CHECK(sums.share_alone() == (shard == Shard::optimizer));
  const std::vector<Section>& sections = decoder.layout().sections();
  REQUIRE(sections.size() == 5);
  using Parts = std::vector<std::pair<std::int64_t, std::int64_t>>;
  Parts all;
  if (shard == Shard::none)
    for (std::int64_t end = decoder.layout().flat_size(); end > 0; end = all.back().first)
      all.emplace_back(std::max<std::int64_t>(end - 4000, 0), end);
  else
    for (const DealtBlock& block : std::views::reverse(share.blocks()))
      all.emplace_back(block.begin, block.begin + block.size);
  CHECK(all.size() > sections.size());
  sums.begin_step();
  CHECK_FALSE(sums.begin_pass(false).close);
  const BackwardHooks hooks = sums.begin_pass(true);
  CHECK_FALSE(hooks.open);
  for (std::int64_t section = 4; section >= 0; --section) {
    hooks.close(section);
    const std::int64_t ready = sections[static_cast<std::size_t>(section)].begin;
    std::size_t count = 0;
    while (count < all.size() && all[count].first >= ready) ++count;
    CHECK(recorder.parts == Parts(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count)));
  }
  sums.finish();
  CHECK(recorder.parts == all);
  CHECK(recorder.joined == 1);
  CHECK(recorder.whole == (shard == Shard::none));
  CHECK(recorder.wires == std::set{DType::bf16});
  CHECK(sums.gradients().size() == (shard == Shard::none ? decoder.layout().flat_size() : share.size()));
  recorder.parts.clear();
  sums.begin_step();
  sums.finish();  // a rank that broke off sums the same
  CHECK(recorder.parts == all);
}

TEST_CASE(
    "by section a rank keeps the sums of its share over the passes of a step, whatever lies in the places of blocks") {
  const auto ops = make_cpu_ops(1);
  const std::string preset = GENERATE("llama", "gpt2");  // the latter has biases, and a head that is the embedding
  INFO(preset);
  const ModelConfig model = small_model(preset);
  Decoder whole(*ops, model, {.max_sequences = 1, .max_length = 8});
  Decoder decoder(*ops, model, {.max_sequences = 1, .max_length = 8, .gradients_by_section = true});
  std::vector<float> values(static_cast<std::size_t>(whole.layout().flat_size()));
  initialize_parameters(whole.layout(), 1, values);
  for (const Decoder* of : {&whole, &decoder}) ops->copy_from_host(of->parameters(), values.data());
  CHECK_THROWS_AS(decoder.gradients(), std::logic_error);
  for (const int size : {2, 7}) {
    const RanksConfig config{.bucket_megabytes = 0.016, .shard = Shard::gradients};
    const OptimizerShare share = share_of(config, whole.layout(), size - 1, size);
    Recorder recorder(size, share);
    GradientSums sums(*ops, decoder, recorder, config);
    CHECK(sums.share_alone());
    const std::vector<std::int32_t> tokens = {1, 4, 9, 16, 25, 36, 49, 3, 7};
    std::vector<float> losses(8);
    sums.begin_step();
    REQUIRE(sums.gradients().size() == share.size());
    std::vector<float> expected(static_cast<std::size_t>(share.size()));
    for (int pass = 0; pass < 3; ++pass) {
      recorder.parts.clear();
      const BackwardHooks hooks = sums.begin_pass(pass == 2);
      whole.zero_gradients();
      for (Decoder* of : {&whole, &decoder}) {
        of->forward(1, 8 - pass, tokens.data());
        of->loss(tokens.data() + 1, losses.data(), 1.0F);
        of->backward(of == &decoder ? hooks : BackwardHooks{});
      }
      for (const DealtBlock& block : share.blocks()) {
        const OptimizerShare::Piece piece = share.piece(block);
        for (std::int64_t i = 0; i < piece.size; ++i) {
          float& sum = expected[static_cast<std::size_t>(piece.place + i)];
          sum = 10 * (sum + whole.gradients().as<float>()[piece.begin + i]);
        }
      }
      std::int64_t covered = 0;
      for (const auto& [first, end] : recorder.parts) covered += end - first;
      CHECK(covered == whole.layout().flat_size());
    }
    sums.finish();
    CHECK(recorder.wires == std::set{DType::f32});
    double most = 0, largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
      most = std::max(most, static_cast<double>(std::abs(expected[i] - sums.gradients().as<float>()[i])));
    }
    CHECK(largest > 0);
    CHECK(most <= 1e-5 * largest);
  }
}

TEST_CASE("one process is its own sum") {
  const auto ops = make_cpu_ops(1);
  World world;
  const auto alone = world.connect(*ops, {});
  CHECK(alone->size() == 1);
  CHECK(alone->leads());
  CHECK(alone->description() == "one process");
  std::vector<float> values = {1, 2, 3};
  const Tensor x(values.data(), DType::f32, {3});
  alone->all_reduce(x);
  alone->broadcast(x, 0);
  alone->share({.x = x, .part = 3});
  const Stretch in_place[] = {{.x = x, .part = 3}};
  alone->start_reduce(in_place, DType::f32);
  alone->join();
  alone->finish();
  CHECK(values == std::vector<float>{1, 2, 3});
  CHECK(alone->any(true));
  CHECK_FALSE(alone->any(false));
  CHECK(alone->text_of(0, "text") == "text");
  CHECK_FALSE(alone->first(std::nullopt).has_value());
  CHECK(alone->first("found") == "found");
  CHECK_THROWS_AS(alone->share({.x = x, .part = 2}), std::invalid_argument);
  std::vector<float> apart(3);
  CHECK_THROWS_AS(alone->share({.x = x, .part = 3, .own = Tensor(apart.data(), DType::f32, {3})}),
                  std::invalid_argument);
  const Stretch too_short[] = {{.x = x, .part = 3, .own = Tensor(apart.data(), DType::f32, {2})}};
  CHECK_THROWS_AS(alone->start_reduce(too_short, DType::f32), std::invalid_argument);
  std::vector<double> doubles(3);
  CHECK_THROWS_AS(alone->all_reduce(Tensor(doubles.data(), DType::f64, {3}), DType::bf16), std::invalid_argument);
  CHECK(world.exchange("mine") == std::vector<std::string>{"mine"});
  CHECK(test::message_of(
            [&] { static_cast<void>(world.together([]() -> int { throw std::runtime_error("own"); })); }) == "own");
}

}  // namespace
}  // namespace sinkscope
