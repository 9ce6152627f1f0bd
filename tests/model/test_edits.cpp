// Forward passes with edits, as causal tests make them, against the double-precision reference that makes the same.
#include <string>

#include "tests/catch.h"
#include "tests/model/reference_decoder.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct Model {
  explicit Model(const ModelConfig& config_in, std::uint64_t seed)
      : config(config_in),
        layout(config_in),
        ops(make_cpu_ops(1)),
        parameters(strong_parameters(layout, seed)),
        decoder(make_decoder(
            *ops, config,
            {.max_sequences = 2, .max_length = 9, .sink_positions = 6, .residual_norms = true, .training = false},
            parameters)),
        random(seed),
        batch(random_batch(random, config, 2, 9)),
        vector({config.channels}, random.normals(config.channels, 5.0)) {}

  ModelConfig config;
  ParameterLayout layout;
  std::unique_ptr<Ops> ops;
  Values parameters;
  Decoder decoder;
  Random random;
  Batch batch;
  Floats vector;

  /// The largest relative difference of losses, sink scores and the last residual norms.
  double difference(const ForwardEdits& edits, const reference::Edits& same) {
    decoder.forward(batch.sequences, batch.length, batch.inputs.data(), nullptr, edits);
    Values losses(batch.inputs.size());
    decoder.loss(batch.targets.data(), losses.data());
    const reference::Activations run = reference::forward(config, layout, doubles(parameters), batch.sequences,
                                                          batch.length, batch.inputs, same);
    const double loss = relative_error(doubles(losses), reference::loss(config, run, batch.targets).per_target);
    const double sink = relative_error(doubles(decoder.sink_scores()), reference::sink_scores(config, run, 6));
    const double norms = relative_error(doubles(decoder.residual_norms()), reference::residual_norms(config, run));
    return std::max({loss, sink, norms});
  }
};

}  // namespace

TEST_CASE("Every edit does to every family what the reference does") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    Model model(config, 7);
    const double untouched = model.difference({}, {});
    CHECK(untouched < kForward);
    for (std::int64_t layer = 0; layer < config.layers; ++layer)
      for (const std::int64_t position : {0, 4}) {
        INFO("layer " << layer << ", position " << position);
        CHECK(model.difference({.knock_out = {Branch::mlp, layer, position}},
                               {.knocked_mlp = layer, .knocked_position = position}) < kForward);
        CHECK(model.difference({.knock_out = {Branch::attention, layer, position}},
                               {.knocked_attention = layer, .knocked_position = position}) < kForward);
        CHECK(model.difference({.transplant = {layer, position, model.vector}},
                               {.transplant_layer = layer, .transplant_position = position,
                                .transplant = model.vector.doubles()}) < kForward);
        CHECK(model.difference({.isolation = {position, layer + 1}},
                               {.isolated_position = position, .isolated_layers = layer + 1}) < kForward);
      }
    if (config.position == PositionEncoding::rope) {
      CHECK(model.difference({.first_rotary_index = 5}, {.first_rotary_index = 5}) < kForward);
    }
    // They are edits, not decorations: each changes what is computed, and the next pass is without them.
    CHECK(model.difference({.knock_out = {Branch::mlp, 0, 0}}, {}) > 100 * kForward);
    CHECK(model.difference({.knock_out = {Branch::attention, 0, 4}}, {}) > 100 * kForward);
    CHECK(model.difference({.transplant = {0, 4, model.vector}}, {}) > 100 * kForward);
    CHECK(model.difference({.isolation = {4, 1}}, {}) > 100 * kForward);
    CHECK(model.difference({}, {}) == untouched);
  }
}

TEST_CASE("An edit that names no place of the batch is refused, and the decoder stays as it was") {
  Model model(tiny_presets().front(), 8);
  const std::int64_t L = model.config.layers;
  model.difference({}, {});
  const Values before = model.decoder.sink_scores();
  const auto refused = [&](const ForwardEdits& edits) {
    return message_of<std::invalid_argument>([&] {
      model.decoder.forward(model.batch.sequences, model.batch.length, model.batch.inputs.data(), nullptr, edits);
    });
  };
  CHECK(refused({.knock_out = {Branch::mlp, L, 0}}) ==
        "Decoder::forward: knock-out: layer " + std::to_string(L) + ", expected one of " + std::to_string(L));
  CHECK(refused({.knock_out = {Branch::mlp, 0, 9}}).find("position 9") != std::string::npos);
  CHECK(refused({.transplant = {L, 0, model.vector}}).find("transplant: layer") != std::string::npos);
  CHECK(refused({.transplant = {0, 9, model.vector}}).find("transplant: position 9") != std::string::npos);
  CHECK(refused({.transplant = {0, 1, {}}}).find("expected " + std::to_string(model.config.channels) + " channels") !=
        std::string::npos);
  CHECK(refused({.isolation = {-1, 1}}).find("isolation: position -1") != std::string::npos);
  CHECK(refused({.isolation = {0, L + 1}}).find("isolation: " + std::to_string(L + 1) + " layers, expected 1 to") !=
        std::string::npos);
  CHECK(refused({.isolation = {3, 0}}).find("isolation: 0 layers, expected 1 to") != std::string::npos);
  CHECK(refused({.first_rotary_index = 9}).find("rotary shift: index 9") != std::string::npos);
  CHECK(same_bits(model.decoder.sink_scores(), before));
}

TEST_CASE("No gradients come out of a pass with edits") {
  const ModelConfig config = tiny_presets().front();
  const auto ops = make_cpu_ops(1);
  Decoder decoder = make_decoder(*ops, config, {.max_sequences = 1, .max_length = 5},
                                 strong_parameters(ParameterLayout(config), 9));
  Random random(9);
  const Batch batch = random_batch(random, config, 1, 5);
  Values losses(5);
  decoder.forward(1, 5, batch.inputs.data(), nullptr, {.knock_out = {Branch::mlp, 0, 0}});
  decoder.loss(batch.targets.data(), losses.data());
  CHECK(message_of<std::logic_error>([&] { decoder.loss(batch.targets.data(), losses.data(), 1.0F); }) ==
        "Decoder::loss: gradients asked of a forward pass with edits");
}
