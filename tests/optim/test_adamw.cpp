#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "engine/model/random.h"
#include "engine/optim/adamw.h"
#include "tests/catch.h"
#include "tests/optim/small_model.h"

namespace sinkscope {
namespace {

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

/// What a rank keeps of a flat array.
std::vector<float> kept_of(const OptimizerShare& share, const Tensor& flat) {
  std::vector<float> kept(static_cast<std::size_t>(share.size()));
  for (const DealtBlock& block : share.blocks()) {
    const OptimizerShare::Piece piece = share.piece(block);
    std::copy_n(flat.as<float>() + piece.begin, piece.size, kept.begin() + piece.place);
  }
  return kept;
}

Tensor view(std::vector<float>& values) { return Tensor(values.data(), DType::f32, {std::ssize(values)}); }

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

TEST_CASE(
    "shares update from their own gradients and the norms of all as one optimizer does, to the bit where nothing is "
    "clipped") {
  const auto ops = make_cpu_ops(1);
  const ParameterLayout layout(small_model());
  OptimizerConfig config;
  config.clip_norm = GENERATE(0.0, 0.5);
  for (const int ranks : {2, 3, 40}) {
    INFO(ranks);
    const Arrays whole(*ops, layout, 5, 0.5);
    std::vector<AdamW> several, others;  // of the others the norms alone count
    std::vector<std::vector<float>> parameters, gradients;
    for (int rank = 0; rank < ranks; ++rank) {
      const OptimizerShare share(dealt_blocks(layout, ranks, 300), rank);
      several.emplace_back(*ops, layout, config, share);
      others.emplace_back(*ops, layout, config, share);
      parameters.push_back(kept_of(share, whole.parameters()));
      gradients.push_back(kept_of(share, whole.gradients()));
    }
    AdamW one(*ops, layout, config);
    CHECK_THROWS_AS(several.front().step(view(parameters[0]), view(gradients[0]), 0.01, 1), std::logic_error);
    for (std::int64_t step = 1; step <= 3; ++step) {
      std::vector<double> norms(layout.specs().size());
      for (std::size_t rank = 0; rank < several.size(); ++rank) {
        std::vector<float> unused = parameters[rank];
        others[rank].step_later(view(unused), view(gradients[rank]), 0.01, step, [&](const Tensor& sums) {
          // These become sums of all ranks.
          for (std::size_t i = 0; i < norms.size(); ++i) norms[i] += std::exchange(sums.as<double>()[i], 7.0);
        })();
      }
      const UpdateResult expected = one.step(whole.parameters(), whole.gradients(), 0.01, step);
      for (std::size_t rank = 0; rank < several.size(); ++rank) {
        const UpdateResult result = several[rank].step_later(
            view(parameters[rank]), view(gradients[rank]), 0.01, step,
            [&](const Tensor& sums) { std::copy(norms.begin(), norms.end(), sums.as<double>()); })();
        CHECK(result.gradient_norm == Approx(expected.gradient_norm).epsilon(1e-12));
        for (std::size_t i = 0; i < norms.size(); ++i)
          CHECK(result.squared_norms[i] == Approx(expected.squared_norms[i]).epsilon(1e-12));
        const OptimizerShare& share = several[rank].share();
        const std::vector<float> values = kept_of(share, whole.parameters()),
                                 first = kept_of(share, one.first_moment());
        const auto* found = several[rank].first_moment().as<float>();
        if (config.clip_norm == 0.0) {
          CHECK(parameters[rank] == values);
          CHECK(std::vector<float>(found, found + share.size()) == first);
        }
        for (std::size_t i = 0; i < values.size(); ++i) {
          CHECK(parameters[rank][i] == Approx(values[i]).epsilon(1e-6).margin(1e-9));
          CHECK(found[i] == Approx(first[i]).epsilon(1e-6).margin(1e-9));
        }
      }
    }
  }
}

}  // namespace
}  // namespace sinkscope
