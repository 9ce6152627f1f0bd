// Attention entropy and key mass of a step's batches, taken while backward passes go through the layers.
#include <cmath>
#include <stdexcept>

#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tests/model/reference_decoder.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr Recompute kSummedModes[] = {Recompute::none, Recompute::mlp, Recompute::block};

/// What the sums must be, from the attention matrices of a pass in double precision.
struct Expected {
  Doubles entropy;   // (L, H)
  Doubles key_mass;  // (L, T)
  Doubles missing;   // (L) of the masses, what is on sink logits

  Expected(const ModelConfig& config, std::int64_t length)
      : entropy(at(config.layers * config.heads), 0.0),
        key_mass(at(config.layers * length), 0.0),
        missing(at(config.layers), 0.0) {}

  void add(const ModelConfig& config, const reference::Activations& run) {
    const std::int64_t H = config.heads, T = run.length;
    for (std::int64_t l = 0; l < config.layers; ++l)
      for (std::int64_t b = 0; b < run.sequences; ++b)
        for (std::int64_t h = 0; h < H; ++h)
          for (std::int64_t t = 0; t < T; ++t) {
            double rest = 1;
            for (std::int64_t k = 0; k <= t; ++k) {
              const double weight = run.layers[at(l)].attention[at(((b * H + h) * T + t) * T + k)];
              entropy[at(l * H + h)] -= weight > 0 ? weight * std::log(weight) / static_cast<double>(T) : 0.0;
              key_mass[at(l * T + k)] += weight;
              rest -= weight;
            }
            missing[at(l)] += rest;
          }
  }
};

/// forward, loss and a backward pass that adds to the sums.
void measured_step(Decoder& decoder, const Batch& batch) {
  Values losses(batch.targets.size());
  decoder.forward(batch.sequences, batch.length, batch.inputs.data());
  decoder.loss(batch.targets.data(), losses.data(), 0.1F);
  decoder.backward_with_attention_sums();
}

DecoderOptions options_for(std::int64_t sequences, std::int64_t length, Recompute recompute) {
  return {.max_sequences = sequences,
          .max_length = length,
          .sink_positions = 2,
          .residual_norms = true,
          .attention_sums = true,
          .recompute = recompute};
}

/// Two batches of a step, after a step of other batches, against the reference.
void check_sums(const ModelConfig& config, std::int64_t sequences, std::int64_t length, Recompute recompute,
                std::uint64_t seed) {
  INFO(test::describe(config) << ", " << sequences << " x " << length << ", recompute " << to_string(recompute));
  const ParameterLayout layout(config);
  const Values parameters = strong_parameters(layout, seed);
  const auto ops = make_cpu_ops(2);
  Decoder decoder = make_decoder(*ops, config, options_for(sequences, length, recompute), parameters);
  Random random(seed);
  measured_step(decoder, random_batch(random, config, sequences, length));
  decoder.zero_step_sums();
  Expected expected(config, length);
  std::int64_t total = 0;
  for (const std::int64_t count : {sequences, std::max<std::int64_t>(1, sequences - 1)}) {
    const Batch batch = random_batch(random, config, count, length, 3);
    measured_step(decoder, batch);
    expected.add(config, reference::forward(config, layout, doubles(parameters), count, length, batch.inputs));
    total += count;
  }
  const StepSums sums = decoder.step_sums();
  CHECK(sums.attention_sequences == total);
  CHECK(sums.layers == config.layers);
  CHECK(sums.heads == config.heads);
  CHECK(relative_error(sums.entropy, expected.entropy) < kForward);
  CHECK(relative_error(sums.key_mass, expected.key_mass) < kForward);
  REQUIRE(sums.key_mass.size() == at(config.layers * length));
  for (std::int64_t l = 0; l < config.layers; ++l) {
    double mass = 0;
    for (std::int64_t k = 0; k < length; ++k) mass += sums.key_mass[at(l * length + k)];
    const auto queries = static_cast<double>(total * config.heads * length);
    CHECK(mass == Approx(queries - expected.missing[at(l)]).epsilon(1e-5));
    CHECK((expected.missing[at(l)] > 1e-3 * queries) == (config.attention.sink != AttentionSink::none));
  }
}

}  // namespace

TEST_CASE("a backward pass sums attention entropy and key mass as the reference has them, whatever is recomputed") {
  for (const ModelConfig& config : tiny_presets())
    for (const Recompute recompute : kSummedModes) {
      check_sums(config, 3, 7, recompute, 91);
      check_sums(config, 2, 12, recompute, 92);
      check_sums(config, 2, 2, recompute, 93);
    }
}

TEST_CASE("random models sum attention entropy and key mass as the reference has them") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(3000 + seed);
    const ModelConfig config = random_model(random);
    check_sums(config, 1 + random.below(4), 2 + random.below(10), kSummedModes[seed % 3], seed);
  }
}

TEST_CASE("attention sums change no bit of gradients, and are the same bits whatever is recomputed") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    Random random(94);
    const Batch batch = random_batch(random, config, 3, 9, 5);
    const Values parameters = strong_parameters(ParameterLayout(config), 95);
    const auto gradients = [&](Recompute recompute, bool measured, StepSums& sums) {
      const auto ops = make_cpu_ops(1);
      Decoder decoder = make_decoder(*ops, config, options_for(3, 9, recompute), parameters);
      if (measured)
        measured_step(decoder, batch);
      else
        run_step(*ops, decoder, batch, 0.1F);
      sums = decoder.step_sums();
      return to_host(*ops, decoder.gradients());
    };
    StepSums plain, kept;
    const Values expected = gradients(Recompute::none, false, plain);
    CHECK(same_bits(gradients(Recompute::none, true, kept), expected));
    CHECK(plain.entropy.empty());
    CHECK(plain.key_mass.empty());
    for (const Recompute recompute : {Recompute::mlp, Recompute::block}) {
      StepSums sums;
      CHECK(same_bits(gradients(recompute, true, sums), expected));
      CHECK(sums.entropy == kept.entropy);
      CHECK(sums.key_mass == kept.key_mass);
    }
  }
}

TEST_CASE("a step that does not ask for attention sums pays nothing for them, and one that does waits once") {
  const ModelConfig config = tiny_presets()[2];
  CountingOps ops(make_cpu_ops(1));
  Random random(96);
  const Batch batch = random_batch(random, config, 2, 8);
  Decoder decoder =
      make_decoder(ops, config, options_for(2, 8, Recompute::block), strong_parameters(ParameterLayout(config), 97));
  Values losses(batch.targets.size());
  const auto reads_of = [&](bool measured) {
    ops.reads = ops.attention_statistics_calls = ops.zeros = 0;
    decoder.zero_step_sums();
    decoder.forward(2, 8, batch.inputs.data());
    decoder.loss(batch.targets.data(), losses.data(), 0.1F);
    decoder.add_step_sums(0.3);
    if (measured)
      decoder.backward_with_attention_sums();
    else
      decoder.backward();
    CHECK(ops.reads == 1);  // the losses
    const StepSums sums = decoder.step_sums();
    CHECK(sums.sequences == 2);
    CHECK(sums.attention_sequences == (measured ? 2 : 0));
    CHECK(sums.key_mass.empty() == !measured);
    CHECK(ops.attention_statistics_calls == (measured ? config.layers : 0));
    return std::pair(ops.reads, ops.zeros);
  };
  const auto plain = reads_of(false), measured = reads_of(true);
  CHECK(plain == std::pair(2, 2));  // its sums; zeros of them and of the residual's gradient
  CHECK(measured == std::pair(3, 3));
  CHECK(reads_of(false) == plain);  // what was summed before is not read again
}

TEST_CASE("attention sums need no sink positions, and only a decoder that trains has room for them") {
  const ModelConfig config = tiny_presets()[0];
  const auto ops = make_cpu_ops(1);
  Random random(98);
  const Batch batch = random_batch(random, config, 2, 6);
  Decoder decoder = make_decoder(*ops, config, {.max_sequences = 2, .max_length = 6, .attention_sums = true},
                                 strong_parameters(ParameterLayout(config), 99));
  measured_step(decoder, batch);
  const StepSums sums = decoder.step_sums();
  CHECK(sums.sequences == 0);
  CHECK(sums.attention_sequences == 2);
  CHECK(sums.entropy.size() == at(config.layers * config.heads));

  const auto planned = [&](bool attention, bool training) {
    const DecoderOptions options{
        .max_sequences = 20, .max_length = 10, .attention_sums = attention, .training = training};
    std::size_t bytes = 0;
    for (const MemoryLine& line : Decoder::memory_plan(config, options, DType::f32)) bytes += line.bytes;
    return bytes;
  };
  const auto whole = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::size_t L = 2, H = 3;
  CHECK(planned(true, true) - planned(false, true) ==
        whole(L * (H + 10) * 8) + whole(6 * 20 * H * 4) + whole(200 * H * 4));
  CHECK(planned(true, false) == planned(false, false));
}

TEST_CASE("attention sums that cannot be taken are refused before the backward pass begins") {
  const ModelConfig config = tiny_presets()[1];
  const auto ops = make_cpu_ops(1);
  const Values parameters = strong_parameters(ParameterLayout(config), 100);
  Random random(101);
  const auto refusal = [&](Decoder& decoder, std::int64_t sequences, std::int64_t length) {
    const Batch batch = random_batch(random, config, sequences, length);
    Values losses(batch.targets.size());
    decoder.forward(sequences, length, batch.inputs.data());
    decoder.loss(batch.targets.data(), losses.data(), 0.1F);
    const std::string message = message_of<std::exception>([&] { decoder.backward_with_attention_sums(); });
    decoder.backward();  // still to be had
    return message;
  };
  Decoder decoder =
      make_decoder(*ops, config, {.max_sequences = 2, .max_length = 8, .attention_sums = true}, parameters);
  CHECK(refusal(decoder, 2, 1) == "Decoder::backward_with_attention_sums: a batch of 2 x 1 tokens; expected at most 2 "
                                  "sequences of at least 2");
  CHECK(refusal(decoder, 4, 4) == "Decoder::backward_with_attention_sums: a batch of 4 x 4 tokens; expected at most 2 "
                                  "sequences of at least 2");
  measured_step(decoder, random_batch(random, config, 2, 8));
  CHECK(refusal(decoder, 2, 7) == "AttentionSums: a batch of length 7 after one of 8; expected one length in a step");
  decoder.zero_step_sums();
  measured_step(decoder, random_batch(random, config, 2, 7));
  CHECK(decoder.step_sums().key_mass.size() == at(config.layers * 7));
  CHECK(message_of<std::logic_error>([&] { decoder.backward_with_attention_sums(); }) ==
        "Decoder::backward: no loss with a gradient scale came before it");
  Decoder without = make_decoder(*ops, config, {.max_sequences = 2, .max_length = 8}, parameters);
  CHECK(refusal(without, 2, 8) ==
        "Decoder::backward_with_attention_sums: the decoder's options ask for no attention sums");
}
