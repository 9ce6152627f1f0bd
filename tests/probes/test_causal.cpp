// The causal tests: every number against the double-precision reference that makes the same edits, and a circuit built
// by hand whose answers are known.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "engine/model/decoder.h"
#include "engine/model/random.h"
#include "engine/probes/causal.h"
#include "engine/probes/circuit.h"
#include "engine/probes/sink_scores.h"
#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tests/model/reference_decoder.h"
#include "tests/probes/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr std::int64_t kPosition = 4;

CausalOptions test_options() {
  CausalOptions options;
  options.position = kPosition;
  options.rotary_shift = 7;
  options.sink_threshold = 0.15;
  options.resamples = 200;
  return options;
}

std::vector<ProbeSet> some_sets() {
  const MemoryStream stream = random_stream(1000, kVocab, kEos);
  return build_probe_sets(stream, {.length = kLength, .short_length = 12, .sequences = 5, .vocab_size = kVocab,
                                   .bos_id = kBos, .eos_id = kEos, .seed = 3});
}

Decoder make_decoder(Ops& ops, const ModelConfig& model, std::int64_t sequences, std::span<const float> parameters) {
  Decoder decoder(ops, model,
                  {.max_sequences = sequences, .max_length = kLength, .sink_positions = 6, .residual_norms = true,
                   .training = false});
  ops.copy_from_host(decoder.parameters(), parameters.data());
  return decoder;
}

/// Means over sequences, by the definitions.
struct Expected {
  double score[2] = {}, rate[2] = {}, ratio[2] = {};  // at 0 and at p
  double loss = 0;
};

double length_of(const std::vector<double>& rows, std::int64_t row, std::int64_t channels) {
  double squares = 0;
  for (std::int64_t c = 0; c < channels; ++c) squares += rows[at(row * channels + c)] * rows[at(row * channels + c)];
  return std::sqrt(squares);
}

Expected measure(const ModelConfig& model, const ProbeSet& set, const reference::Activations& run, double threshold) {
  Expected out;
  const std::int64_t B = set.sequences, T = set.length, L = model.layers, H = model.heads, C = model.channels;
  const std::int64_t places[2] = {0, kPosition};
  for (std::int64_t b = 0; b < B; ++b)
    for (int i = 0; i < 2; ++i) {
      double largest = 0;
      for (std::int64_t l = 0; l < L; ++l) {
        for (std::int64_t h = 0; h < H; ++h) {
          double sum = 0;
          for (std::int64_t t = places[i]; t < T; ++t)
            sum += run.layers[at(l)].attention[at(((b * H + h) * T + t) * T + places[i])];
          const double score = sum / static_cast<double>(T - places[i]);
          out.score[i] += score / static_cast<double>(B * L * H);
          if (score > threshold) out.rate[i] += 1 / static_cast<double>(B * L * H);
        }
        double rest = 0;
        for (std::int64_t t = 0; t < T; ++t)
          if (t != 0 && t != kPosition)
            rest += length_of(run.layers[at(l)].output, b * T + t, C) / static_cast<double>(T - 2);
        largest = std::max(largest, length_of(run.layers[at(l)].output, b * T + places[i], C) / rest);
      }
      out.ratio[i] += largest / static_cast<double>(B);
    }
  const reference::Loss loss = reference::loss(model, run, set.targets);
  for (std::int64_t b = 0; b < B; ++b) {
    double sum = 0, count = 0;
    for (std::int64_t t = 0; t < T; ++t) {
      if (set.targets[at(b * T + t)] < 0) continue;
      sum += loss.per_target[at(b * T + t)];
      count += 1;
    }
    out.loss += sum / count / static_cast<double>(B);
  }
  return out;
}

/// h^l_0 of the reference: mean direction at a norm.
std::vector<double> first_state(const ModelConfig& model, const reference::Activations& run, std::int64_t layer,
                                double* mean_norm) {
  const std::int64_t C = model.channels, T = run.length;
  std::vector<double> direction(at(C), 0.0);
  double norm = 0;
  for (std::int64_t b = 0; b < run.sequences; ++b) {
    const std::vector<double>& h = run.layers[at(layer)].output;
    const double length = length_of(h, b * T, C);
    norm += length / static_cast<double>(run.sequences);
    for (std::int64_t c = 0; c < C; ++c) direction[at(c)] += h[at(b * T * C + c)] / length;
  }
  *mean_norm = norm;
  return direction;
}

std::vector<double> at_norm(std::vector<double> direction, double norm) {
  const double length = length_of(direction, 0, static_cast<std::int64_t>(direction.size()));
  for (double& x : direction) x *= norm / length;
  return direction;
}

void check_estimate(const Estimate& found, double expected) {
  CHECK(found.value == Approx(expected).epsilon(2e-4).margin(2e-5));
  CHECK(found.low <= found.value + 1e-12);
  CHECK(found.value <= found.high + 1e-12);
}

const CausalTest& find(const CausalRecord& record, const std::string& kind, std::int64_t layer) {
  for (const CausalTest& test : record.tests)
    if (test.kind == kind && test.layer.value_or(-1) == layer) return test;
  throw std::out_of_range(kind);
}

/// A model whose sink is built by hand. Position 0 is known by its learned embedding (channel 0); the MLP of layer 0
/// turns that into a large value in channel 1, which the keys of layer 1 read and every query asks for. No attention
/// moves anything: all values are 0.
struct BuiltCircuit {
  ModelConfig model;
  ParameterLayout layout;
  std::vector<float> parameters;

  static ModelConfig config() {
    ModelConfig config;
    config.preset = ModelPreset::gpt2;
    config.layers = 3;
    config.channels = 8;
    config.heads = config.kv_heads = 1;
    config.head_dim = 8;
    config.hidden = 8;
    config.vocab_size = kVocab;
    config.max_sequence_length = kLength;
    config.norm = NormType::layernorm;
    config.position = PositionEncoding::learned;
    config.mlp = MlpType::gelu;
    config.bias = true;
    config.tied_embedding = true;
    return config;
  }

  BuiltCircuit() : model(config()), layout(model), parameters(at(layout.flat_size()), 0.0F) {
    set_all(".norm1.weight", 1);
    set_all(".norm2.weight", 1);
    set_all("final_norm.weight", 1);
    const ParameterSpec& tokens = layout.find("embed.token.weight");
    for (std::int64_t v = 0; v < kVocab; ++v)
      for (std::int64_t c = 4; c < 8; ++c)
        parameters[at(tokens.offset + v * 8 + c)] =
            static_cast<float>(random_normal(1, static_cast<std::uint64_t>(v * 8 + c)));
    put("embed.position.weight", 0, 8);                  // position 0, channel 0
    put("blocks.0.mlp.up.weight", 0, 4);                 // hidden 0 reads channel 0,
    put("blocks.0.mlp.up.bias", 0, -6);                  // and only where it is large
    put("blocks.0.mlp.down.weight", 1 * 8 + 0, 20);      // and writes channel 1
    put("blocks.1.attention.qkv.bias", 0, 10);           // every query of layer 1 is 10 in dimension 0,
    put("blocks.1.attention.qkv.weight", (8 + 0) * 8 + 1, 1);  // where its keys hold channel 1
  }
  void put(const std::string& name, std::int64_t place, double value) {
    parameters[at(layout.find(name).offset + place)] = static_cast<float>(value);
  }
  void set_all(const std::string& ending, float value) {
    for (const ParameterSpec& spec : layout.specs())
      if (spec.name.ends_with(ending)) std::fill_n(parameters.begin() + spec.offset, spec.size, value);
  }
};

}  // namespace

TEST_CASE("Every number of every causal test is that of the reference with the same edit") {
  for (const ModelConfig& model : small_models()) {
    INFO(to_string(model.preset));
    const auto ops = make_cpu_ops(1);
    const ParameterLayout layout(model);
    const std::vector<float> parameters = strong_parameters(layout, 5);
    const std::vector<double> flat(parameters.begin(), parameters.end());
    const std::vector<ProbeSet> sets = some_sets();
    const ProbeSet& set = sets.front();
    const CausalOptions options = test_options();
    Decoder decoder = make_decoder(*ops, model, 2, parameters);  // in parts of 2, 2 and 1
    CausalTests tests(*ops, decoder, options);
    const CausalRecord record = tests.run(set, sets);

    const auto run = [&](const reference::Edits& edits) {
      return reference::forward(model, layout, flat, set.sequences, set.length, set.inputs, edits);
    };
    const reference::Activations plain = run({});
    const Expected before = measure(model, set, plain, options.sink_threshold);
    const std::vector<double> uniform = uniform_sink_scores(kLength, kPosition + 1);
    const std::int64_t source = record.source_layer, L = model.layers;
    std::size_t checked = 0;
    const auto check = [&](const std::string& kind, std::int64_t layer, const reference::Edits& edits) {
      INFO(kind << " " << layer);
      const CausalTest& test = find(record, kind, layer);
      const Expected after = measure(model, set, run(edits), options.sink_threshold);
      check_estimate(test.first.score, after.score[0]);
      check_estimate(test.other.score, after.score[1]);
      check_estimate(test.first.excess, after.score[0] / uniform.front());
      check_estimate(test.other.excess, after.score[1] / uniform.back());
      check_estimate(test.first.rate, after.rate[0]);
      check_estimate(test.other.rate, after.rate[1]);
      check_estimate(test.first.ratio, after.ratio[0]);
      check_estimate(test.other.ratio, after.ratio[1]);
      check_estimate(test.loss, after.loss);
      check_estimate(test.score_change, after.score[0] - before.score[0]);
      check_estimate(test.other_score_change, after.score[1] - before.score[1]);
      check_estimate(test.loss_change, after.loss - before.loss);
      CHECK(
          test.removed.value ==
          Approx((before.score[0] - after.score[0]) / (before.score[0] - uniform.front())).epsilon(2e-3).margin(2e-3));
      CHECK(test.moved.value ==
            Approx((after.score[1] - before.score[1]) / uniform.back() / (before.score[0] / uniform.front() - 1))
                .epsilon(2e-3)
                .margin(2e-3));
      ++checked;
    };
    check("none", -1, {});
    for (std::int64_t l = 0; l < L; ++l) {
      check("knock_out_mlp", l, {.knocked_mlp = l});
      check("knock_out_attention", l, {.knocked_attention = l});
    }
    double norm = 0;
    for (std::int64_t l = 0; l + 1 < L; ++l) {
      const std::vector<double> direction = first_state(model, plain, l, &norm);
      check("transplant", l,
            {.transplant_layer = l, .transplant_position = kPosition, .transplant = at_norm(direction, norm)});
    }
    const std::vector<double> direction = first_state(model, plain, source, &norm);
    std::vector<double> random(at(model.channels));
    for (std::size_t c = 0; c < random.size(); ++c)
      random[c] = random_normal(random_key(options.seed, "causal.direction"), c);
    check("transplant_random_direction", source,
          {.transplant_layer = source, .transplant_position = kPosition, .transplant = at_norm(random, norm)});
    double ratio = 0;
    for (std::int64_t b = 0; b < set.sequences; ++b) {
      double rest = 0;
      for (std::int64_t t = 1; t < kLength; ++t)
        rest += length_of(plain.layers[at(source)].output, b * kLength + t, model.channels);
      ratio += length_of(plain.layers[at(source)].output, b * kLength, model.channels) / (rest / (kLength - 1)) /
               static_cast<double>(set.sequences);
    }
    check(
        "transplant_small", source,
        {.transplant_layer = source, .transplant_position = kPosition, .transplant = at_norm(direction, norm / ratio)});
    for (const std::int64_t layers : std::set<std::int64_t>{2, source + 1, L})
      check("isolate", layers, {.isolated_position = kPosition, .isolated_layers = layers});
    if (model.position == PositionEncoding::rope) check("rotary_shift", 7, {.first_rotary_index = 7});
    CHECK(record.tests.size() == checked);

    REQUIRE(record.controls.size() == sets.size());
    for (const CausalControl& control : record.controls) {
      const auto found =
          std::find_if(sets.begin(), sets.end(), [&](const ProbeSet& s) { return s.name == control.set; });
      REQUIRE(found != sets.end());
      const reference::Activations activations =
          reference::forward(model, layout, flat, found->sequences, found->length, found->inputs);
      const Expected expected = measure(model, *found, activations, options.sink_threshold);
      check_estimate(control.first.score, expected.score[0]);
      check_estimate(control.loss, expected.loss);
      CHECK(control.length == found->length);
    }
  }
}

TEST_CASE("A circuit built by hand: the tests name the MLP that makes it, and move its sink") {
  const BuiltCircuit built;
  const auto ops = make_cpu_ops(1);
  Decoder decoder = make_decoder(*ops, built.model, 5, built.parameters);
  const std::vector<ProbeSet> sets = some_sets();
  CausalOptions options = test_options();
  options.sink_threshold = 0.3;
  const CausalRecord record = CausalTests(*ops, decoder, options).run(sets.front(), sets);
  CHECK(record.sink_formed);
  REQUIRE(record.step_up_layer == 0);
  CHECK(record.source_layer == 0);
  CHECK(find(record, "none", -1).first.rate.value == Approx(1.0 / 3.0));  // layer 1 alone reads it

  // Without the MLP of layer 0 nothing is left; nothing else is needed.
  CHECK(find(record, "knock_out_mlp", 0).removed.low > 0.95);
  for (const std::int64_t layer : {1, 2}) CHECK(std::abs(find(record, "knock_out_mlp", layer).removed.value) < 1e-6);
  for (const std::int64_t layer : {0, 1, 2})
    CHECK(std::abs(find(record, "knock_out_attention", layer).removed.value) < 1e-6);

  // Its product makes a sink anywhere, before the layer that reads it; its direction and its norm both matter.
  CHECK(find(record, "transplant", 0).moved.low > 0.3);
  CHECK(std::abs(find(record, "transplant", 1).moved.value) < 1e-6);
  CHECK(find(record, "transplant_random_direction", 0).moved.value < 0.2);
  // Position 0 is known by its embedding, not by being unmixed: isolation adds its own weight and no more.
  const Estimate moved = find(record, "isolate", 3).moved;
  const double own = 1.0 / (kLength - kPosition) / uniform_sink_scores(kLength, kPosition + 1).back() /
                     (find(record, "none", -1).first.excess.value - 1);
  CHECK(moved.value > 0);
  CHECK(moved.value < own);

  const std::vector<std::string> reading = causal_reading(record);
  CHECK(reading.front().find("stepping up in layer 0") != std::string::npos);
  CHECK(reading.at(1).find("MLP's output at position 0 of one layer the sink loses most in layer 0: 1") !=
        std::string::npos);
  std::string isolated;
  for (const std::string& statement : reading)
    if (statement.find("in the layers below 3") != std::string::npos) isolated = statement;
  // What isolation adds by itself is told in the unit of what it moves: at most 1/16 of a score over u_4 and the
  // excess.
  char share[32];
  std::snprintf(share, sizeof share, "up to %.0f %% of the sink at 0.", 100 * own);
  CHECK(isolated.find(share) != std::string::npos);
  CHECK(reading.at(2).find("none alone is needed") != std::string::npos);
}

TEST_CASE("States are written where attention still follows, and their memory is planned") {
  for (const std::int64_t layers : {1, 2, 3}) {
    ModelConfig model = BuiltCircuit::config();
    model.layers = layers;
    const ParameterLayout layout(model);
    CountingOps ops(make_cpu_ops(1));
    Decoder decoder = make_decoder(ops, model, 5, strong_parameters(layout, 3));
    // The last MLP lifts position 0 by its embedding: the step-up layer is the last one, after which nothing attends.
    std::vector<float> parameters = strong_parameters(layout, 3);
    const std::string last = "blocks." + std::to_string(layers - 1) + ".mlp.";
    for (const ParameterSpec& spec : layout.specs())
      if (spec.name.starts_with("blocks."))
        std::fill_n(parameters.begin() + spec.offset, spec.size, spec.name.ends_with("norm2.weight") ? 1.0F : 0.0F);
    parameters[at(layout.find("embed.position.weight").offset)] = 100;
    parameters[at(layout.find(last + "up.weight").offset)] = 4;
    parameters[at(layout.find(last + "up.bias").offset)] = -6;
    parameters[at(layout.find(last + "down.weight").offset + 8)] = 1e4F;
    ops.copy_from_host(decoder.parameters(), parameters.data());
    ops.allocations.clear();
    CausalTests tests(ops, decoder, test_options());
    std::size_t planned = 0;
    for (const MemoryLine& line : CausalTests::memory_plan(model, DType::f32)) planned += line.bytes;
    const CausalRecord record = tests.run(some_sets().front(), {});
    CHECK(ops.allocations == std::vector<std::size_t>{planned});

    INFO(layers << " layers");
    REQUIRE(record.step_up_layer == layers - 1);
    CHECK(record.source_layer == 0);  // R is the same in all blocks before
    std::int64_t written = 0;
    for (const CausalTest& test : record.tests) {
      if (!test.kind.starts_with("transplant")) continue;
      ++written;
      CHECK(*test.layer < layers - 1);
    }
    CHECK(written == (layers == 1 ? 0 : layers - 1 + 2));  // a layer each but the last, and two controls
    for (const std::string& statement : causal_reading(record)) CHECK(!statement.empty());
    CHECK(!causal_summary(record).empty());
  }
}

TEST_CASE("A model without a sink is told to have none") {
  BuiltCircuit built;
  built.put("blocks.0.mlp.down.weight", 8, 0);
  const auto ops = make_cpu_ops(1);
  Decoder decoder = make_decoder(*ops, built.model, 5, built.parameters);
  const std::vector<ProbeSet> sets = some_sets();
  const CausalRecord record = CausalTests(*ops, decoder, test_options()).run(sets.front(), {});
  CHECK_FALSE(record.sink_formed);
  CHECK(causal_reading(record).size() == 2);
  CHECK(causal_reading(record).back().find("No sink has formed") == 0);
}

TEST_CASE("Equal calls give equal records, whatever went before, and the model stays") {
  const ModelConfig model = small_models().front();
  const auto ops = make_cpu_ops(1);
  const std::vector<float> parameters = strong_parameters(ParameterLayout(model), 6);
  Decoder decoder = make_decoder(*ops, model, 5, parameters);
  const std::vector<ProbeSet> sets = some_sets();
  CausalTests tests(*ops, decoder, test_options());
  const std::string first = to_json(tests.run(sets.front(), sets)).dump();
  CHECK(to_json(tests.run(sets.front(), sets)).dump() == first);
  std::vector<float> after(parameters.size());
  ops->copy_to_host(after.data(), decoder.parameters());
  CHECK(after == parameters);
}

TEST_CASE("Progress goes over every pass, by its tokens, from none to all") {
  const ModelConfig model = small_models().front();
  const auto ops = make_cpu_ops(1);
  Decoder decoder = make_decoder(*ops, model, 5, strong_parameters(ParameterLayout(model), 6));
  const std::vector<ProbeSet> sets = some_sets();
  std::vector<CausalProgress> told;
  CausalTests tests(*ops, decoder, test_options());
  const CausalRecord record =
      tests.run(sets.front(), sets, [&](const CausalProgress& progress) { told.push_back(progress); });
  const auto passes = static_cast<std::int64_t>(record.tests.size() - 1 + record.controls.size() - 1);
  REQUIRE(static_cast<std::int64_t>(told.size()) == passes + 1);
  double tokens = static_cast<double>((record.tests.size() - 1) * at(sets.front().sequences * sets.front().length)),
         last = 0;
  for (const CausalControl& control : record.controls)
    if (control.set != record.set)
      tokens += static_cast<double>(last = static_cast<double>(control.sequences * control.length));
  for (std::size_t i = 0; i < told.size(); ++i) {
    CHECK(told[i].done == static_cast<std::int64_t>(i));
    CHECK(told[i].passes == passes);
  }
  CHECK(told.front().share == 0);
  CHECK(told[1].share == Approx(static_cast<double>(sets.front().sequences * sets.front().length) / tokens));
  CHECK(told[told.size() - 2].share == Approx(1 - last / tokens));
  CHECK(told.back().share == 1);
}

TEST_CASE("Options that do not fit are refused by name") {
  const ModelConfig model = small_models().front();
  const auto ops = make_cpu_ops(1);
  const std::vector<float> parameters = strong_parameters(ParameterLayout(model), 6);
  Decoder decoder = make_decoder(*ops, model, 5, parameters);
  const auto refused = [&](auto change) -> std::string {
    CausalOptions options = test_options();
    change(options);
    try {
      CausalTests(*ops, decoder, options);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return {};
  };
  CHECK(refused([](CausalOptions& o) { o.position = 0; }) == "CausalTests: position 0, expected at least 1");
  CHECK(refused([](CausalOptions& o) { o.position = 6; }) ==
        "CausalTests: position 6, expected one below the decoder's 6 sink positions");
  CHECK(refused([](CausalOptions& o) { o.isolated_layers = 0; }).find("isolated_layers 0") != std::string::npos);
  CHECK(refused([](CausalOptions& o) { o.rotary_shift = 0; }).find("rotary_shift 0") != std::string::npos);
  CausalTests tests(*ops, decoder, test_options());
  ProbeSet single = some_sets().front();
  single.sequences = 1;
  CHECK_THROWS_AS(tests.run(single, {}), std::invalid_argument);
  ProbeSet longer = some_sets().front();
  longer.length = kLength + 1;
  CHECK_THROWS_AS(tests.run(longer, {}), std::invalid_argument);
}
