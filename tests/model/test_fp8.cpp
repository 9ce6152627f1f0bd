// A decoder with FP8 products in its blocks, and the scales that follow from earlier steps.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/model/fp8_scales.h"
#include "tests/catch.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// Of every kind of MLP and norm, at sizes that FP8 allows.
std::vector<ModelConfig> models() {
  return {
      resolved_model(R"({"preset": "llama", "layers": 2, "channels": 32, "heads": 2, "hidden": 48})", 13, 12),
      resolved_model(R"({"preset": "gpt2", "layers": 2, "channels": 32, "heads": 4})", 13, 12),
      resolved_model(
          R"({"preset": "qwen3", "layers": 2, "channels": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, )"
          R"("hidden": 48})",
          13, 12),
      resolved_model(R"({"preset": "gpt_neox", "layers": 2, "channels": 32, "heads": 2, "hidden": 64})", 13, 12)};
}

constexpr std::int64_t kOperands = 2 * kBlockMaps * kFp8Operands;

DecoderOptions options_with(bool fp8) {
  return {.max_sequences = 3, .max_length = 12, .sink_positions = 3, .residual_norms = true, .fp8 = fp8};
}

}  // namespace

TEST_CASE("until scales are set a decoder computes as without FP8 products, and then nearly so") {
  for (const ModelConfig& config : models()) {
    INFO(test::describe(config));
    Random random(71);
    const auto ops = make_cpu_ops(2);
    const Values parameters = strong_parameters(ParameterLayout(config), 5);
    const Batch batch = random_batch(random, config, 3, 12), other = random_batch(random, config, 2, 9);
    Decoder plain = make_decoder(*ops, config, options_with(false), parameters),
            decoder = make_decoder(*ops, config, options_with(true), parameters);
    const Step expected = run_step(*ops, plain, batch, 0.25F);
    decoder.zero_step_sums();
    CHECK(same_bits(run_step(*ops, decoder, batch, 0.25F), expected));
    const std::vector<double> amax = decoder.step_sums().amax;
    REQUIRE(std::ssize(amax) == kOperands);
    for (const double value : amax) CHECK(value > 0);
    CHECK(plain.step_sums().amax.empty());
    // Over the passes of a step they rise.
    run_step(*ops, decoder, other, 0.25F);
    const std::vector<double> both = decoder.step_sums().amax;
    decoder.zero_step_sums();
    run_step(*ops, decoder, other, 0.25F);
    const std::vector<double> alone = decoder.step_sums().amax;
    for (std::size_t i = 0; i < amax.size(); ++i) CHECK(both[i] == std::max(amax[i], alone[i]));

    Fp8History history;
    history.add(both);
    decoder.set_fp8_scales(history.scales());
    decoder.zero_gradients();
    plain.zero_gradients();
    const Step exact = run_step(*ops, plain, batch, 0.25F), rounded = run_step(*ops, decoder, batch, 0.25F);
    const double losses = relative_error(doubles(rounded.losses), doubles(exact.losses));
    const double gradients = relative_error(doubles(rounded.gradients), doubles(exact.gradients));
    CHECK(losses > 1e-4);
    CHECK(losses < 0.15);
    CHECK(gradients > 1e-3);
    CHECK(gradients < 0.4);
    // And the same bits where activations are computed again.
    for (const Recompute recompute : {Recompute::mlp, Recompute::block}) {
      DecoderOptions options = options_with(true);
      options.recompute = recompute;
      Decoder again = make_decoder(*ops, config, options, parameters);
      again.set_fp8_scales(history.scales());
      CHECK(same_bits(run_step(*ops, again, batch, 0.25F), rounded));
    }
  }
}

TEST_CASE("every linear map of every block has scales of its own") {
  const ModelConfig config = models().front();
  Random random(72);
  const auto ops = make_cpu_ops(1);
  const Values parameters = strong_parameters(ParameterLayout(config), 6);
  const Batch batch = random_batch(random, config, 3, 12);
  Decoder decoder = make_decoder(*ops, config, options_with(true), parameters);
  decoder.zero_step_sums();
  run_step(*ops, decoder, batch, 0.25F);
  Fp8History history;
  history.add(decoder.step_sums().amax);
  const std::vector<float> scales = history.scales();
  decoder.set_fp8_scales(scales);
  decoder.zero_gradients();
  const Step step = run_step(*ops, decoder, batch, 0.25F);
  for (std::size_t i = 0; i < scales.size(); ++i) {
    INFO(i);
    std::vector<float> coarse = scales;
    coarse[i] *= 0x1p12F;  // most of it is beyond the largest number
    decoder.set_fp8_scales(coarse);
    decoder.zero_gradients();
    const Step other = run_step(*ops, decoder, batch, 0.25F);
    CHECK_FALSE(same_bits(other.gradients, step.gradients));
    CHECK(same_bits(other.losses, step.losses) == (i % kFp8Operands == 2));  // output gradients play no part in them
  }
  CHECK_THROWS_AS(decoder.set_fp8_scales(std::vector<float>(3, 1.0F)), std::invalid_argument);
}

TEST_CASE("a scale is the largest power of two that keeps the magnitudes of the last steps within the format") {
  const auto scales_of = [](const std::vector<double>& amax) {  // of x, weight and dout of one map
    Fp8History history;
    history.add(amax);
    return history.scales();
  };
  CHECK(Fp8History().scales().empty());
  CHECK(scales_of({448, 449, 57344}) == std::vector<float>{1, 0.5F, 1});
  CHECK(scales_of({3.5, 3.6, 1e-6}) == std::vector<float>{128, 64, std::ldexp(1.0F, 35)});
  CHECK(scales_of({0, std::nan(""), std::numeric_limits<double>::infinity()}) == std::vector<float>{1, 1, 1});
  CHECK(scales_of({1e-40, 1e38, 1e300}) == std::vector<float>{0x1p100F, std::ldexp(1.0F, -118 + 18), 0x1p-100F});

  Fp8History history;
  history.add({100, 1, 1});
  for (std::size_t step = 1; step < Fp8History::kSteps; ++step) {
    history.add({1, 1, 1});
    CHECK(history.scales().front() == 4);
  }
  history.add({1, 1, std::nan("")});
  CHECK(history.scales() == std::vector<float>{256, 256, 32768});
  CHECK(history.steps().size() == Fp8History::kSteps);
  CHECK(Fp8History(history.steps()).scales() == history.scales());
}
