// Every field of a probe record against the definitions in double precision; that probing leaves
// training as it was; and sets that go through in parts.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "engine/model/decoder.h"
#include "engine/probes/probe_pass.h"
#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tests/probes/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

ProbeConfig probe_config() {
  ProbeConfig config;
  config.positions = 4;
  config.sequences = 5;
  config.short_length = 12;
  config.from_layer = 1;
  config.sink_threshold = 0.15;
  return config;
}

std::vector<ProbeSet> sets_for(const ProbeConfig& config) {
  const MemoryStream stream = random_stream(1000, kVocab, kEos);
  return build_probe_sets(stream, {.length = kLength,
                                   .short_length = config.short_length,
                                   .sequences = config.sequences,
                                   .vocab_size = kVocab,
                                   .bos_id = kBos,
                                   .eos_id = kEos,
                                   .seed = 3});
}

Decoder make_decoder(Ops& ops, const ModelConfig& model, std::int64_t sequences, std::span<const float> parameters,
                     bool training) {
  DecoderOptions options;
  options.max_sequences = sequences;
  options.max_length = kLength;
  options.training = training;
  Decoder decoder(ops, model, options);
  ops.copy_from_host(decoder.parameters(), parameters.data());
  return decoder;
}

void check_close(const char* field, const std::vector<double>& found, const std::vector<double>& expected) {
  INFO(field);
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    INFO("place " << i);
    CHECK(found[i] == Approx(expected[i]).epsilon(2e-4).margin(2e-5));
  }
}

/// `positions_tie`: all positions hold the same vector, so that rounding decides which is the largest.
void check_record(const ProbeRecord& found, const ProbeRecord& expected, bool positions_tie) {
  CHECK(found.set == expected.set);
  CHECK(found.length == expected.length);
  CHECK(found.sequences == expected.sequences);
  CHECK(found.with_bos == expected.with_bos);
  CHECK(found.loss == Approx(expected.loss).epsilon(1e-4));
  CHECK(found.layers == expected.layers);
  CHECK(found.heads == expected.heads);
  CHECK(found.kv_heads == expected.kv_heads);
  CHECK(found.positions == expected.positions);
#define CHECK_FIELD(field) check_close(#field, found.field, expected.field)
  CHECK_FIELD(sink_score);
  CHECK_FIELD(sink_rate);
  CHECK_FIELD(sink_rate_layer);
  CHECK_FIELD(sink_rate_from);
  CHECK_FIELD(sink_excess);
  CHECK(found.dominant_position == expected.dominant_position);
  CHECK(found.dominant_position_layer == expected.dominant_position_layer);
  CHECK_FIELD(first_token_mass);
  CHECK_FIELD(first_token_argmax);
  CHECK_FIELD(entropy);
  CHECK_FIELD(key_mass);
  CHECK_FIELD(sink_logit_mass);
  CHECK_FIELD(residual_norm);
  CHECK_FIELD(residual_norm_rest);
  CHECK_FIELD(norm_ratio);
  CHECK_FIELD(attention_output_norm);
  CHECK_FIELD(attention_output_norm_rest);
  CHECK_FIELD(mlp_output_norm);
  CHECK_FIELD(mlp_output_norm_rest);
  CHECK_FIELD(mlp_amplification);
  CHECK_FIELD(key_norm_first);
  CHECK_FIELD(key_norm_rest);
  CHECK_FIELD(value_norm_first);
  CHECK_FIELD(value_norm_rest);
  CHECK_FIELD(cosine_first);
  CHECK_FIELD(cosine_rest);
  CHECK_FIELD(massive_ratio);
  if (!positions_tie) CHECK(found.massive_position == expected.massive_position);
  CHECK(found.massive_channel == expected.massive_channel);
  CHECK_FIELD(direction_stability);
  CHECK_FIELD(direction_stability_middle);
#undef CHECK_FIELD
  CHECK(found.step_up_layer == expected.step_up_layer);
  REQUIRE(found.concentration.has_value() == expected.concentration.has_value());
  if (found.concentration) CHECK(*found.concentration == Approx(*expected.concentration).epsilon(1e-3));
}

}  // namespace

TEST_CASE("every field of a probe record follows its definition") {
  const auto ops = make_cpu_ops(1);
  const ProbeConfig config = probe_config();
  const std::vector<ProbeSet> sets = sets_for(config);
  REQUIRE(sets.size() == 6);
  int circuits = 0;
  for (const ModelConfig& model : small_models()) {
    INFO("preset " << to_string(model.preset));
    const ParameterLayout layout(model);
    std::vector<float> parameters = strong_parameters(layout, 7);
    // The BOS embedding stands out, so that position 0 of those sets has a circuit to find.
    const ParameterSpec& wte = layout.find("embed.token.weight");
    for (std::int64_t c = 0; c < model.channels; ++c)
      parameters[static_cast<std::size_t>(wte.offset + kBos * model.channels + c)] *= 100.0F;
    for (const std::int64_t batch : {5, 2}) {  // whole sets, and sets in parts
      INFO("sequences at once " << batch);
      Decoder decoder = make_decoder(*ops, model, batch, parameters, false);
      ProbePass pass(*ops, decoder, config, sets);
      const std::vector<ProbeRecord> records = pass.run(40, 4000);
      REQUIRE(records.size() == sets.size());
      for (std::size_t i = 0; i < sets.size(); ++i) {
        INFO("set " << sets[i].name);
        double margin = 0;
        const ProbeRecord expected = expected_record(model, layout, parameters, config, sets[i], margin);
        REQUIRE(margin > 1e-6);  // no sink score so close to the threshold that rounding decides
        CHECK(records[i].step == 40);
        CHECK(records[i].tokens == 4000);
        check_record(records[i], expected, sets[i].name == "repeated" && model.position != PositionEncoding::learned);
        const bool sink_logits = model.attention.sink != AttentionSink::none;
        REQUIRE(records[i].sink_logit_mass.size() == static_cast<std::size_t>(sink_logits ? model.layers : 0));
        for (std::int64_t l = 0; l < model.layers; ++l) {  // METRICS section 1: every query's weights sum to 1
          const auto mass = records[i].key_mass.begin() + l * sets[i].length;
          const double on_logits = sink_logits ? records[i].sink_logit_mass[static_cast<std::size_t>(l)] : 0;
          CHECK((on_logits > 0.01) == sink_logits);  // of which a sink logit takes its part
          CHECK(std::accumulate(mass, mass + sets[i].length, 0.0) ==
                Approx((1 - on_logits) * static_cast<double>(sets[i].length)).epsilon(1e-5));
        }
        // And A[0,0] is one.
        for (std::size_t head = 0; !sink_logits && head < records[i].first_token_mass.size(); ++head)
          CHECK(records[i].sink_score[head * 4] >= (1 - 1e-6) / static_cast<double>(sets[i].length));
        circuits += expected.step_up_layer.has_value() ? 1 : 0;
      }
    }
  }
  CHECK(circuits > 0);  // l* and C2 were compared where they are defined
}

TEST_CASE("a probe pass repeats bit for bit, whatever ran in between") {
  const auto ops = make_cpu_ops(2);
  const ModelConfig model = small_models()[0];
  Decoder decoder = make_decoder(*ops, model, 3, strong_parameters(ParameterLayout(model), 1), false);
  ProbePass pass(*ops, decoder, probe_config(), sets_for(probe_config()));
  const auto text = [&] {
    std::string all;
    for (const ProbeRecord& record : pass.run(1, 1)) {
      for (const auto* field : {&record.sink_score, &record.residual_norm, &record.massive_ratio,
                                &record.direction_stability, &record.key_mass})
        all.append(reinterpret_cast<const char*>(field->data()), field->size() * sizeof(double));
      all.append(reinterpret_cast<const char*>(&record.loss), sizeof(double));
    }
    return all;
  };
  const std::string first = text();
  const std::vector<std::int32_t> other(3 * kLength, 4);
  decoder.forward(3, kLength, other.data());
  CHECK(text() == first);
}

TEST_CASE("a probe pass waits for the device once a set, beside the losses, and takes what was planned") {
  const ModelConfig model = small_models()[0];
  const std::vector<ProbeSet> sets = sets_for(probe_config());
  for (const std::int64_t batch : {5, 2}) {
    CountingOps ops(make_cpu_ops(1));
    Decoder decoder = make_decoder(ops, model, batch, strong_parameters(ParameterLayout(model), 1), false);
    ops.allocations.clear();
    ProbePass pass(ops, decoder, probe_config(), sets);
    std::size_t planned = 0;
    for (const MemoryLine& line : ProbePass::memory_plan(model, decoder.options(), probe_config(), sets, DType::f32))
      planned += line.bytes;
    ops.reads = 0;
    pass.run(1, 1);
    int expected = 0;
    for (const ProbeSet& set : sets) {
      const std::int64_t at_once = ProbePass::batch_sequences(decoder.options(), set);
      expected += static_cast<int>((set.sequences + at_once - 1) / at_once) + 1;  // losses of the parts, and the sums
    }
    CHECK(ops.reads == expected);
    CHECK(ops.allocations == std::vector<std::size_t>{planned});
  }
}

TEST_CASE("losses with probes on and off are bit-identical") {
  const ModelConfig model = small_models()[1];
  const ParameterLayout layout(model);
  const auto train = [&](bool probes) {
    const auto ops = make_cpu_ops(2);
    Decoder decoder = make_decoder(*ops, model, 2, strong_parameters(layout, 9), true);
    ProbePass pass(*ops, decoder, probe_config(), sets_for(probe_config()));
    const MemoryStream stream = random_stream(2000, kVocab, kEos);
    std::vector<float> all, losses(2 * kLength);
    std::vector<float> parameters(static_cast<std::size_t>(layout.flat_size())), gradients(parameters.size());
    for (std::int64_t step = 0; step < 6; ++step) {
      std::vector<std::int32_t> inputs(2 * kLength), targets(2 * kLength);
      stream.read(step * 2 * kLength, inputs);
      stream.read(step * 2 * kLength + 1, targets);
      decoder.zero_gradients();
      decoder.forward(2, kLength, inputs.data());
      decoder.loss(targets.data(), losses.data(), 1.0F / (2 * kLength));
      decoder.backward();
      all.insert(all.end(), losses.begin(), losses.end());
      if (probes) pass.run(step, step * 2 * kLength);  // gradients must survive it
      ops->copy_to_host(parameters.data(), decoder.parameters());
      ops->copy_to_host(gradients.data(), decoder.gradients());
      for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i] -= 0.05F * gradients[i];
      ops->copy_from_host(decoder.parameters(), parameters.data());
    }
    all.insert(all.end(), parameters.begin(), parameters.end());
    return all;
  };
  const std::vector<float> with = train(true), without = train(false);
  REQUIRE(with.size() == without.size());
  CHECK(std::memcmp(with.data(), without.data(), with.size() * sizeof(float)) == 0);
}

TEST_CASE("a diverged model is measured as not a number, and its lines stay valid JSON") {
  const auto ops = make_cpu_ops(1);
  const ModelConfig model = small_models()[0];
  std::vector<float> parameters = strong_parameters(ParameterLayout(model), 1);
  for (float& value : parameters) value = std::nanf("");
  Decoder decoder = make_decoder(*ops, model, 5, parameters, false);
  ProbePass pass(*ops, decoder, probe_config(), sets_for(probe_config()));
  for (const ProbeRecord& record : pass.run(1, 1)) {
    CHECK(std::isnan(record.loss));
    CHECK(std::isnan(record.sink_score[0]));
    CHECK(record.sink_rate[0] == 0);
    CHECK(record.dominant_position == -1);
    CHECK(std::isnan(record.norm_ratio[1]));
    CHECK_FALSE(record.step_up_layer.has_value());
    CHECK_FALSE(record.concentration.has_value());
  }
}

TEST_CASE("undefined quantities of a probe record are not numbers") {
  const auto ops = make_cpu_ops(1);
  const ModelConfig model = small_models()[0];
  Decoder decoder = make_decoder(*ops, model, 1, strong_parameters(ParameterLayout(model), 1), false);
  ProbeConfig config = probe_config();
  config.positions = 4;
  ProbeSet set{"natural", 4, 1, false, {1, 2, 3, 4}, {-1, -1, -1, -1}};
  ProbePass pass(*ops, decoder, config, {set});
  const ProbeRecord record = pass.run(1, 1).front();
  CHECK(std::isnan(record.loss));                    // no target is known
  CHECK(std::isnan(record.residual_norm_rest[0]));   // K is the whole sequence
  CHECK(std::isnan(record.direction_stability[0]));  // one sequence makes no pair
  CHECK(record.norm_ratio[0] > 0);
}

TEST_CASE("targets that are not known do not count in the loss") {
  const auto ops = make_cpu_ops(1);
  const ModelConfig model = small_models()[0];
  const std::vector<float> parameters = strong_parameters(ParameterLayout(model), 1);
  Decoder decoder = make_decoder(*ops, model, 2, parameters, false);
  ProbeSet set{"natural", 6, 2, false, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {}};
  set.targets = {2, -1, 4, 5, 6, -1, 8, 9, -1, 11, 12, 13};
  double margin = 0;
  const double expected =
      expected_record(model, ParameterLayout(model), parameters, probe_config(), set, margin).loss;
  ProbePass pass(*ops, decoder, probe_config(), {set});
  CHECK(pass.run(1, 1).front().loss == Approx(expected).epsilon(1e-4));
}

TEST_CASE("a malformed probe set is named") {
  const auto ops = make_cpu_ops(1);
  const ModelConfig model = small_models()[0];
  Decoder decoder = make_decoder(*ops, model, 2, strong_parameters(ParameterLayout(model), 1), false);
  const auto make = [&](ProbeSet set) { ProbePass pass(*ops, decoder, probe_config(), {std::move(set)}); };
  CHECK_THROWS_WITH(make({"long", 21, 1, false, std::vector<std::int32_t>(21), std::vector<std::int32_t>(21)}),
                    "ProbePass: probe set \"long\": length 21, expected 4 (the positions watched, at least 2) to 20 "
                    "(the decoder's max_length)");
  CHECK_THROWS_WITH(make({"short", 3, 1, false, std::vector<std::int32_t>(3), std::vector<std::int32_t>(3)}),
                    "ProbePass: probe set \"short\": length 3, expected 4 (the positions watched, at least 2) to 20 "
                    "(the decoder's max_length)");
  CHECK_THROWS_WITH(make({"torn", 5, 2, false, std::vector<std::int32_t>(10), std::vector<std::int32_t>(9)}),
                    "ProbePass: probe set \"torn\": 10 inputs and 9 targets, expected 10");
  CHECK_THROWS_WITH(make({"none", 5, 0, false, {}, {}}), "ProbePass: probe set \"none\": has no sequences");
}

TEST_CASE("the memory plan of a probe pass grows only when a set goes through in parts") {
  const ModelConfig model = small_models()[0];
  const std::vector<ProbeSet> sets = sets_for(probe_config());
  const auto bytes = [&](std::int64_t sequences) {
    DecoderOptions options;
    options.max_sequences = sequences;
    options.max_length = kLength;
    std::size_t gathered = 0;
    for (const MemoryLine& line : ProbePass::memory_plan(model, options, probe_config(), sets, DType::f32)) {
      CHECK(line.arena == "probes");
      if (line.buffer == "residual stream of a set in parts") gathered = line.bytes;
    }
    return gathered;
  };
  CHECK(bytes(5) == 0);
  CHECK(bytes(2) >= static_cast<std::size_t>(model.layers * 5 * kLength * model.channels) * 4);
}
