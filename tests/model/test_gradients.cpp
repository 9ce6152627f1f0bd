// The backward pass against central finite differences of the double-precision reference, and the
// ways in which gradients add up.
#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/catch.h"
#include "tests/model/reference_decoder.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr double kGradient = 1e-5;  // relative error of fp32 through a whole model and back
constexpr double kCancelled = 1e-6;  // of a sum whose terms cancel, relative to the gradient of the whole model
constexpr float kScale = 0.25F;     // of the loss's gradient; exact in binary

Doubles slice(const Doubles& flat, const ParameterSpec& spec) {
  return Doubles(flat.begin() + spec.offset, flat.begin() + spec.offset + spec.size);
}

double norm(const Doubles& x) { return std::sqrt(dot(x, x)); }

double distance(const Doubles& a, const Doubles& b) {
  Doubles difference = a;
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] -= b[i];
  return norm(difference);
}

DecoderOptions options_for(const Batch& batch) {
  return {.max_sequences = batch.sequences, .max_length = batch.length};
}

Values gradients_of(Ops& ops, const ModelConfig& config, const Values& parameters, const Batch& batch,
                    float scale = kScale) {
  Decoder decoder = make_decoder(ops, config, options_for(batch), parameters);
  return run_step(ops, decoder, batch, scale).gradients;
}

/// The reference's scaled loss as a function of one parameter, the others fixed.
class LossOfParameter {
 public:
  LossOfParameter(const ModelConfig& config, const ParameterLayout& layout, const Values& parameters,
                  const Batch& batch, const ParameterSpec& spec)
      : config_(config), layout_(layout), flat_(doubles(parameters)), batch_(batch), spec_(spec) {}

  double operator()(const Doubles& values) {
    std::copy(values.begin(), values.end(), flat_.begin() + spec_.offset);
    return static_cast<double>(kScale) * reference::loss(config_, layout_, flat_, batch_.sequences, batch_.length,
                                                         batch_.inputs, batch_.targets)
                                             .sum;
  }

 private:
  const ModelConfig& config_;
  const ParameterLayout& layout_;
  Doubles flat_;
  const Batch& batch_;
  const ParameterSpec& spec_;
};

/// Every element outside the parameters is zero.
bool gaps_are_zero(const ParameterLayout& layout, Values flat) {
  for (const ParameterSpec& spec : layout.specs())
    std::fill(flat.begin() + spec.offset, flat.begin() + spec.offset + spec.size, 0.0F);
  return std::all_of(flat.begin(), flat.end(), [](float x) { return x == 0.0F; });
}

}  // namespace

TEST_CASE("every gradient entry of the presets is that of finite differences") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    const auto ops = make_cpu_ops(2);
    const ParameterLayout layout(config);
    const Values parameters = strong_parameters(layout, 21);
    Random random(22);
    Batch batch = random_batch(random, config, 2, 5);
    batch.targets[7] = -1;
    const Values gradients = gradients_of(*ops, config, parameters, batch);
    CHECK(gaps_are_zero(layout, gradients));
    for (const ParameterSpec& spec : layout.specs()) {
      INFO(spec.name);
      LossOfParameter loss(config, layout, parameters, batch, spec);
      const Doubles expected = finite_differences(std::ref(loss), slice(doubles(parameters), spec));
      CHECK(std::sqrt(dot(expected, expected)) > 1e-3);  // the parameter matters here
      CHECK(relative_error(slice(doubles(gradients), spec), expected) < kGradient);
    }
  }
}

TEST_CASE("gradients of random models agree with finite differences along random directions and single axes") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(1000 + seed);
    const ModelConfig config = random_model(random);
    INFO(test::describe(config) << ", seed " << seed);
    const auto ops = make_cpu_ops(seed % 8 == 0 ? 2 : 1);
    const ParameterLayout layout(config);
    const Values parameters = strong_parameters(layout, seed);
    const Batch batch = random_batch(random, config, 1 + random.below(3), 2 + random.below(8), 5);
    const Values gradients = gradients_of(*ops, config, parameters, batch);
    for (const ParameterSpec& spec : layout.specs()) {
      LossOfParameter loss(config, layout, parameters, batch, spec);
      const Doubles centre = slice(doubles(parameters), spec), gradient = slice(doubles(gradients), spec);
      // The terms of a sink logit's gradient may cancel.
      const double cancelled = spec.name.ends_with("attention.sink") ? kCancelled * norm(doubles(gradients)) : 0;
      const double length = norm(gradient);
      const auto check_along = [&](const Doubles& direction) {
        const Doubles difference = finite_differences(
            [&](const Doubles& step) {
              Doubles moved = centre;
              for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += step[0] * direction[i];
              return loss(moved);
            },
            {0.0}, 1e-5);
        // The error of fp32 is one of the whole gradient, however little of it this direction sees.
        CHECK(std::abs(dot(gradient, direction) - difference[0]) < kGradient * length + cancelled + 1e-9);
      };
      INFO(spec.name);
      Doubles direction = random.normals(spec.size);
      const double scale = norm(direction);
      for (double& x : direction) x /= scale;
      check_along(direction);
      Doubles axis(at(spec.size), 0.0);
      axis[at(random.below(spec.size))] = 1.0;
      check_along(axis);
    }
  }
}

TEST_CASE("the gradients of two micro-batches add up to those of one of twice the size") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    const auto ops = make_cpu_ops(1);
    const ParameterLayout layout(config);
    const Values parameters = strong_parameters(layout, 31);
    Random random(32);
    const Batch whole = random_batch(random, config, 6, 10, 3);
    const Values expected = gradients_of(*ops, config, parameters, whole);

    const Batch first = whole.part(0, 3), second = whole.part(3, 3);
    Decoder decoder = make_decoder(*ops, config, options_for(first), parameters);
    const Step one = run_step(*ops, decoder, first, kScale);
    const Step two = run_step(*ops, decoder, second, kScale);
    const Values alone = gradients_of(*ops, config, parameters, second);
    for (const ParameterSpec& spec : layout.specs()) {
      INFO(spec.name);
      const auto part = [&](const Values& values) { return slice(doubles(values), spec); };
      // Of the same products the sum alone is rounded; a matrix of twice the rows rounds the products otherwise too.
      // Where the halves cancel, their rounding is more of the sum than of either.
      const Doubles halves = plus(part(one.gradients), part(alone));
      const double terms = norm(part(one.gradients)) + norm(part(alone));
      CHECK(distance(part(two.gradients), halves) < kSingle / 4 * terms);
      CHECK(distance(part(two.gradients), part(expected)) < kSingle * terms);
    }
    // Zeroing begins anew: the first batch once more gives its own bits.
    decoder.zero_gradients();
    CHECK(same_bits(run_step(*ops, decoder, first, kScale), one));
  }
}

TEST_CASE("the gradient's scale is a factor of every gradient") {
  const ModelConfig config = tiny_presets().back();
  const auto ops = make_cpu_ops(1);
  const Values parameters = strong_parameters(ParameterLayout(config), 33);
  Random random(34);
  const Batch batch = random_batch(random, config, 2, 6);
  Values quarter = gradients_of(*ops, config, parameters, batch, 0.25F);
  const Values half = gradients_of(*ops, config, parameters, batch, 0.5F);
  for (float& x : quarter) x *= 2.0F;
  CHECK(same_bits(quarter, half));
}

TEST_CASE("ignored targets have no loss, and a batch of them no gradient") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    const auto ops = make_cpu_ops(1);
    const ParameterLayout layout(config);
    const Values parameters = strong_parameters(layout, 41);
    Random random(42);
    Batch batch = random_batch(random, config, 2, 9, 2);
    Decoder decoder = make_decoder(*ops, config, options_for(batch), parameters);
    const Step step = run_step(*ops, decoder, batch, kScale);
    for (std::size_t i = 0; i < batch.targets.size(); ++i) CHECK((step.losses[i] == 0.0F) == (batch.targets[i] == -1));

    // Under a causal mask tokens after the last target do not matter.
    Batch cut = batch, other = batch;
    for (std::int64_t b = 0; b < batch.sequences; ++b)
      for (std::int64_t t = 5; t < batch.length; ++t) {
        const std::size_t i = at(b * batch.length + t);
        cut.targets[i] = other.targets[i] = -1;
        other.inputs[i] = static_cast<std::int32_t>((other.inputs[i] + 1) % config.vocab_size);
      }
    const Values a = gradients_of(*ops, config, parameters, cut), b = gradients_of(*ops, config, parameters, other);
    CHECK(relative_error(doubles(a), doubles(b)) < kSingle);

    std::fill(batch.targets.begin(), batch.targets.end(), -1);
    decoder.zero_gradients();
    const Step none = run_step(*ops, decoder, batch, kScale);
    for (const Values* values : {&none.losses, &none.gradients})
      CHECK(std::all_of(values->begin(), values->end(), [](float x) { return x == 0.0F; }));
  }
}

TEST_CASE("logits made in chunks give the losses and gradients of the whole") {
  for (const bool tied : {false, true}) {
    ModelConfig config = resolved_model(
        R"({"layers": 1, "channels": 8, "heads": 1, "hidden": 8, "tied_embedding": )" +
            std::string(tied ? "true}" : "false}"),
        70001, 3);
    const auto ops = make_cpu_ops(1);
    const ParameterLayout layout(config);
    const Values parameters = strong_parameters(layout, 51);
    Random random(52);
    const Batch whole = random_batch(random, config, 25, 3, 7);  // 75 rows: chunks of 32, 32 and 11
    Decoder decoder = make_decoder(*ops, config, options_for(whole), parameters);
    std::size_t logits_bytes = 0;
    for (const MemoryLine& line : Decoder::memory_plan(config, options_for(whole), DType::f32))
      if (line.buffer == "logits") logits_bytes = line.bytes;
    REQUIRE(logits_bytes / (70001 * sizeof(float)) == 32);
    const Step step = run_step(*ops, decoder, whole, kScale);
    CHECK(relative_error(doubles(step.losses),
                         reference::loss(config, layout, doubles(parameters), 25, 3, whole.inputs, whole.targets)
                             .per_target) < kGradient);

    Decoder small(make_decoder(*ops, config, {.max_sequences = 10, .max_length = 3}, parameters));
    Values losses;
    Step part;
    for (const std::int64_t begin : {0, 10, 20}) {  // at most 30 rows: one chunk each
      part = run_step(*ops, small, whole.part(begin, begin == 20 ? 5 : 10), kScale);
      losses.insert(losses.end(), part.losses.begin(), part.losses.end());
    }
    CHECK(relative_error(doubles(step.losses), doubles(losses)) < kSingle);
    for (const ParameterSpec& spec : layout.specs()) {
      INFO(spec.name);
      CHECK(relative_error(slice(doubles(step.gradients), spec), slice(doubles(part.gradients), spec)) < kGradient);
    }
  }
}
