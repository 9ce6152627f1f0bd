#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "engine/model/random.h"
#include "engine/optim/adamw.h"
#include "tests/catch.h"

namespace sinkscope {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.layers = 2;
  config.channels = 8;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.hidden = 12;
  config.vocab_size = 11;
  config.max_sequence_length = 6;
  return config;
}

struct Arrays {
  Arrays(Ops& ops, const ParameterLayout& layout, std::uint64_t seed, double gradient_scale)
      : arena("test"),
        p(arena.request("parameters", DType::f32, layout.flat_size())),
        g(arena.request("gradients", DType::f32, layout.flat_size())),
        size(layout.flat_size()) {
    arena.allocate(ops);
    for (const ParameterSpec& spec : layout.specs())
      for (std::int64_t i = spec.offset; i < spec.offset + spec.size; ++i) {
        parameters().as<float>()[i] = static_cast<float>(random_normal(seed, static_cast<std::uint64_t>(i)));
        gradients().as<float>()[i] =
            static_cast<float>(gradient_scale * random_normal(seed + 1, static_cast<std::uint64_t>(i)));
      }
  }
  Tensor parameters() const { return arena.tensor(p, {size}); }
  Tensor gradients() const { return arena.tensor(g, {size}); }

  Arena arena;
  std::size_t p, g;
  std::int64_t size;
};

TEST_CASE("AdamW follows its equations, decaying matrices only") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  Arrays arrays(*ops, layout, 3, 0.5);
  OptimizerConfig config;
  config.clip_norm = 1.0;
  AdamW optimizer(*ops, layout, config);

  const auto n = static_cast<std::size_t>(arrays.size);
  const float* start = arrays.parameters().as<float>();
  std::vector<double> p(start, start + n), m(n), v(n);
  for (std::int64_t step = 1; step <= 4; ++step) {
    for (std::size_t i = 0; i < n; ++i) arrays.gradients().as<float>()[i] *= step == 3 ? 0.01F : 1.1F;
    const float* g = arrays.gradients().as<float>();
    double squared = 0;
    for (std::size_t i = 0; i < n; ++i) squared += static_cast<double>(g[i]) * g[i];
    const double scale = std::min(1.0, 1.0 / std::sqrt(squared)), rate = 1e-2 / static_cast<double>(step);

    const UpdateResult result = optimizer.step(arrays.parameters(), arrays.gradients(), rate, step);
    CHECK(result.gradient_norm == Approx(std::sqrt(squared)));
    CHECK(!result.non_finite);
    const double t = static_cast<double>(step);
    for (const ParameterSpec& spec : layout.specs())
      for (auto i = static_cast<std::size_t>(spec.offset); i < static_cast<std::size_t>(spec.offset + spec.size); ++i) {
        const double gradient = scale * g[i];
        m[i] = 0.9 * m[i] + 0.1 * gradient;
        v[i] = 0.95 * v[i] + 0.05 * gradient * gradient;
        const double update = m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.95, t))) + 1e-8);
        p[i] -= rate * (update + (spec.shape.size() == 2 ? 0.1 * p[i] : 0.0));
      }
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double difference = arrays.parameters().as<float>()[i] - p[i];
      error += difference * difference;
      norm += p[i] * p[i];
    }
    CHECK(std::sqrt(error / norm) < 1e-6);
  }
}

TEST_CASE("a gradient that is not finite is named and changes nothing") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Arrays arrays(*ops, layout, 5, 0.1);
    AdamW optimizer(*ops, layout, OptimizerConfig{});
    const ParameterSpec& spec = layout.find("blocks.1.mlp.down.weight");
    arrays.gradients().as<float>()[spec.offset + spec.size - 1] = bad;
    const float* values = arrays.parameters().as<float>();
    const std::vector<float> before(values, values + arrays.size);
    const UpdateResult result = optimizer.step(arrays.parameters(), arrays.gradients(), 1e-3, 1);
    REQUIRE(result.non_finite);
    CHECK(*result.non_finite == "blocks.1.mlp.down.weight");
    CHECK(std::vector<float>(values, values + arrays.size) == before);
    const float* m = optimizer.first_moment().as<float>();
    CHECK(std::vector<float>(m, m + arrays.size) == std::vector<float>(before.size(), 0.0F));
  }
}

TEST_CASE("gradients whose norm is beyond f32 are told and change nothing, each of them finite though it is") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  Arrays arrays(*ops, layout, 5, 0.1);
  AdamW optimizer(*ops, layout, OptimizerConfig{});
  const ParameterSpec& spec = layout.find("blocks.1.mlp.down.weight");
  std::fill_n(arrays.gradients().as<float>() + spec.offset, 4, 3e38F);
  const float* values = arrays.parameters().as<float>();
  const std::vector<float> before(values, values + arrays.size);
  const UpdateResult result = optimizer.step(arrays.parameters(), arrays.gradients(), 1e-3, 1);
  CHECK(result.gradient_norm == Approx(6e38));
  REQUIRE(result.non_finite);
  CHECK(*result.non_finite == "blocks.1.mlp.down.weight");
  CHECK(std::vector<float>(values, values + arrays.size) == before);
}

TEST_CASE("the shares of several optimizers cover the flat arrays once, and update them to the bit as one does") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  for (const int ranks : {2, 3, 40}) {  // the last ones of 40 have nothing
    INFO(ranks << " ranks");
    Arrays whole(*ops, layout, 3, 0.5), shared(*ops, layout, 3, 0.5);
    AdamW one(*ops, layout, OptimizerConfig{});
    std::vector<AdamW> several;
    std::int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const OptimizerShare share = optimizer_share(layout.flat_size(), rank, ranks);
      CHECK(share.begin == next);
      CHECK(share.size <= share.part);
      CHECK(share.part * ranks >= layout.flat_size());
      next += share.size;
      several.emplace_back(*ops, layout, OptimizerConfig{}, share);
    }
    CHECK(next == layout.flat_size());
    for (std::int64_t step = 1; step <= 3; ++step) {
      const UpdateResult expected = one.step(whole.parameters(), whole.gradients(), 1e-2, step);
      for (AdamW& optimizer : several) {
        const UpdateResult found = optimizer.step(shared.parameters().rows(optimizer.share().begin, optimizer.share().size), shared.gradients(), 1e-2, step);
        CHECK(found.squared_norms == expected.squared_norms);
        CHECK(found.gradient_norm == expected.gradient_norm);
      }
    }
    const auto n = static_cast<std::size_t>(layout.flat_size());
    const float *a = whole.parameters().as<float>(), *b = shared.parameters().as<float>();
    CHECK(std::vector<float>(a, a + n) == std::vector<float>(b, b + n));
    for (const AdamW& optimizer : several) {
      const float* m = one.first_moment().as<float>() + optimizer.share().begin;
      const Tensor mine = optimizer.first_moment();
      CHECK(std::vector<float>(m, m + optimizer.share().size) ==
            std::vector<float>(mine.as<float>(), mine.as<float>() + mine.size()));
    }
  }
  CHECK(optimizer_share(1000, 0, 1).size == 1000);
}

/// Remembers where one layer's queries, keys and values lie.
class FindQkv final : public ActivationObserver {
 public:
  explicit FindQkv(std::int64_t layer) : layer_(layer) {}
  void embedding(const Tensor& /*h*/) override {}
  void block(const BlockActivations& b) override {
    if (b.layer == layer_) qkv = b.qkv;
  }
  Tensor qkv;

 private:
  std::int64_t layer_;
};

TEST_CASE("of gradients that are not finite the first in backward order is named, where they began") {
  const auto ops = make_cpu_ops(1);
  const std::vector<std::int32_t> inputs = {1, 2, 3, 4, 5, 6}, targets = {2, 3, 4, 5, 6, 7};
  for (const std::int64_t layer : {0, 1}) {
    INFO("layer " << layer);
    Decoder decoder(*ops, small_model(), {.max_sequences = 1, .max_length = 6});
    AdamW optimizer(*ops, decoder.layout(), OptimizerConfig{});
    initialize_parameters(decoder.layout(), 1,
                          {decoder.parameters().as<float>(), static_cast<std::size_t>(decoder.layout().flat_size())});
    decoder.zero_gradients();
    FindQkv place(layer);
    decoder.forward(1, 6, inputs.data(), &place);
    std::vector<float> losses(6);
    decoder.loss(targets.data(), losses.data(), 1.0F);
    place.qkv.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
    decoder.backward();
    const UpdateResult result = optimizer.step(decoder.parameters(), decoder.gradients(), 1e-3, 1);
    REQUIRE(result.non_finite);
    CHECK(*result.non_finite == "blocks." + std::to_string(layer) + ".attention.qkv.weight");
    CHECK(!std::isfinite(result.squared_norms[0]));  // it has flowed on to embed.token.weight
  }
}

TEST_CASE("shares update from their own gradients and the norms of all as one optimizer does") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  OptimizerConfig config;
  config.clip_norm = 0.5;
  for (const int ranks : {2, 3, 40}) {  // the last with shares of nothing
    INFO(ranks);
    Arrays whole(*ops, layout, 5, 0.5), dealt(*ops, layout, 5, 0.5);
    AdamW one(*ops, layout, config);
    const UpdateResult expected = one.step(whole.parameters(), whole.gradients(), 0.01, 1);
    std::vector<double> norms;  // of all shares, in the first round
    for (const bool adding : {true, false})
      for (int rank = 0; rank < ranks; ++rank) {
        const OptimizerShare share = optimizer_share(layout.flat_size(), rank, ranks);
        AdamW optimizer(*ops, layout, config, share);
        const Tensor gradients = dealt.gradients().rows(share.begin, share.size);
        Arrays tried(*ops, layout, 5, 0.5);
        const UpdateResult result =
            optimizer.step_of_share_later((adding ? tried : dealt).parameters().rows(share.begin, share.size), gradients, 0.01, 1, [&](const Tensor& sums) {
              norms.resize(static_cast<std::size_t>(sums.size()));
              for (std::size_t i = 0; i < norms.size(); ++i)
                adding ? norms[i] += sums.as<double>()[i] : sums.as<double>()[i] = norms[i];
            })();
        if (!adding) CHECK(result.gradient_norm == Approx(expected.gradient_norm).epsilon(1e-12));
        for (std::size_t i = 0; !adding && i < norms.size(); ++i)
          CHECK(result.squared_norms[i] == Approx(expected.squared_norms[i]).epsilon(1e-12));
      }
    for (std::int64_t i = 0; i < layout.flat_size(); ++i)
      CHECK(dealt.parameters().as<float>()[i] == Approx(whole.parameters().as<float>()[i]).epsilon(1e-6).margin(1e-9));
  }
}

}  // namespace
}  // namespace sinkscope
