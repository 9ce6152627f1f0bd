// The whole decoder on the GPU against the CPU's: losses, statistics, gradients, probe passes.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/probes/causal.h"
#include "engine/probes/probe_pass.h"
#include "tests/catch.h"
#include "tests/gpu/support.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kLength = 131, kVocab = 211, kPositions = 8;

/// The presets at small odd sizes: head dims 32, 64 and 128, grouped queries, embeddings tied and not, and
/// a vocabulary whose logits come in several chunks.
std::vector<ModelConfig> models() {
  const auto model = [](const std::string& text, std::int64_t vocab = kVocab) {
    return resolved_model(text, vocab, kLength);
  };
  return {
      model(R"({"preset": "gpt2", "layers": 2, "channels": 96, "heads": 3, "hidden": 101})"),
      model(R"({"preset": "gpt2", "layers": 2, "channels": 128, "heads": 2, "hidden": 72, "tied_embedding": false})"),
      model(R"({"preset": "llama", "layers": 3, "channels": 73, "heads": 6, "kv_heads": 2, "head_dim": 32,
               "hidden": 90})"),
      model(R"({"preset": "llama", "layers": 2, "channels": 100, "heads": 4, "kv_heads": 1, "head_dim": 64,
               "hidden": 131, "tied_embedding": true})"),
      model(R"({"preset": "llama", "layers": 1, "channels": 64, "heads": 2, "hidden": 40})", 30011),
      model(R"({"preset": "qwen3", "layers": 2, "channels": 88, "heads": 4, "kv_heads": 2, "head_dim": 64,
               "hidden": 77})"),
      model(R"({"preset": "qwen3", "layers": 2, "channels": 65, "heads": 2, "kv_heads": 2, "hidden": 50,
               "tied_embedding": false})"),
      model(R"({"preset": "qwen2", "layers": 2, "channels": 96, "heads": 6, "kv_heads": 2, "head_dim": 32,
               "hidden": 83})"),
      // Rotary widths whose halves are a vector and are not; parallel blocks and one after the other.
      model(R"({"preset": "gpt_neox", "layers": 3, "channels": 128, "heads": 2, "rotary_dim": 16, "hidden": 101})"),
      model(R"({"preset": "gpt_neox", "layers": 2, "channels": 97, "heads": 3, "head_dim": 32, "hidden": 70,
               "tied_embedding": true})"),
      model(R"({"preset": "gpt_neox", "layers": 2, "channels": 64, "heads": 2, "parallel_block": false, "mlp": "gelu",
               "hidden": 96})"),
      model(R"({"preset": "llama", "layers": 2, "channels": 90, "heads": 4, "kv_heads": 2, "head_dim": 32,
               "parallel_block": true, "qk_norm": true, "hidden": 71})"),
      // Sink logits, fixed and learned, with the kernels of heads of 32, 64 and 128.
      model(R"({"preset": "gpt2", "layers": 2, "channels": 96, "heads": 3, "hidden": 64,
               "attention": {"sink": "off_by_one"}})"),
      model(R"({"preset": "llama", "layers": 2, "channels": 90, "heads": 6, "kv_heads": 2, "head_dim": 64, "hidden": 71,
               "attention": {"sink": "learned"}})"),
      model(R"({"preset": "qwen3", "layers": 2, "channels": 65, "heads": 4, "kv_heads": 2, "hidden": 50,
               "attention": {"sink": "learned"}})"),
  };
}

/// A backend and a decoder on it that holds `parameters`, whatever it computes in.
struct Side {
  Side(std::unique_ptr<Ops> backend, const ModelConfig& config, const DecoderOptions& options, const Values& parameters)
      : ops(std::move(backend)), decoder(*ops, config, options) {
    const auto size = static_cast<std::int64_t>(parameters.size());
    const Buffer staging = ops->allocate(parameters.size() * sizeof(float));
    const Tensor wide(staging.get(), DType::f32, {size});
    ops->copy_from_host(wide, parameters.data());
    ops->convert(decoder.parameters(), wide);
    ops->synchronize();
  }
  Step step(const Batch& batch) {
    decoder.zero_gradients();
    return run_step(*ops, decoder, batch, 1.0F / static_cast<float>(batch.targets.size()));
  }

  std::unique_ptr<Ops> ops;
  Decoder decoder;
};

std::unique_ptr<Ops> gpu(DType compute) { return make_cuda_ops({.device = 0, .compute = compute}); }

double difference(const Values& found, const Values& expected) {
  return relative_error(doubles(found), doubles(expected));
}

/// What the two sides may differ by, ||gpu - cpu|| / ||cpu||.
struct Bounds {
  double losses, sink_scores, residual_norms, gradients;
};

void check_step(const ParameterLayout& layout, const Step& found, const Step& expected, const Bounds& bounds) {
  CHECK(difference(found.losses, expected.losses) < bounds.losses);
  CHECK(difference(found.sink_scores, expected.sink_scores) < bounds.sink_scores);
  CHECK(difference(found.residual_norms, expected.residual_norms) < bounds.residual_norms);
  for (const ParameterSpec& spec : layout.specs()) {
    INFO(spec.name);
    const auto part = [&](const Values& flat) {
      return Values(flat.begin() + spec.offset, flat.begin() + spec.offset + spec.size);
    };
    CHECK(difference(part(found.gradients), part(expected.gradients)) < bounds.gradients);
  }
}

/// Losses, statistics and gradients of every model and two batches, and the same bits twice.
template <class Parameters>
void check_models(DType compute, const Bounds& bounds, Parameters&& parameters_of) {
  for (const ModelConfig& config : models()) {
    INFO(name_of(compute) << ", " << test::describe(config));
    const ParameterLayout layout(config);
    const Values parameters = parameters_of(layout);
    const DecoderOptions options{
        .max_sequences = 3, .max_length = kLength, .sink_positions = kPositions, .residual_norms = true};
    Side cpu(make_cpu_ops(), config, options, parameters), device(gpu(compute), config, options, parameters);
    Random random(41);
    for (const auto& [sequences, length] : {std::pair<std::int64_t, std::int64_t>{3, 70}, {2, kLength}}) {
      INFO(sequences << " x " << length);
      const Batch batch = random_batch(random, config, sequences, length, 9);
      const Step found = device.step(batch);
      check_step(layout, found, cpu.step(batch), bounds);
      CHECK(same_bits(device.step(batch), found));
    }
  }
}

/// Initial values of a run, with larger embeddings and matrices, so that every part matters; bf16 holds them exactly.
Values rounded_parameters(const ParameterLayout& layout, std::uint64_t seed) {
  Values values(static_cast<std::size_t>(layout.flat_size()));
  initialize_parameters(layout, seed, values);
  for (const ParameterSpec& spec : layout.specs())
    for (std::int64_t i = spec.offset; i < spec.offset + spec.size; ++i) {
      float& value = values[static_cast<std::size_t>(i)];
      value = round_to_bf16(spec.shape.size() == 2 ? 3.0F * value : value);
      if (spec.name.ends_with(".attention.sink")) value = 0.5F * static_cast<float>(i - spec.offset) - 1.0F;
    }
  return values;
}

}  // namespace

TEST_CASE("the fp32 decoder on the GPU has the CPU's losses, statistics and gradients") {
  // Both sides round every sum of some hundred products, in another order: some 1e-7 an operation, some 20
  // operations deep, and gradients are sums over rows that partly cancel. Attention is far from uniform here.
  check_models(DType::f32, {.losses = 5e-6, .sink_scores = 1e-5, .residual_norms = 2e-6, .gradients = 2e-5},
               [](const ParameterLayout& layout) { return strong_parameters(layout, 42); });
}

TEST_CASE("the bf16 decoder on the GPU has the CPU's losses, statistics and gradients to bf16's precision") {
  // Every stored activation is rounded, by up to 2^-9 of itself, on the GPU alone; both sides hold the same
  // weights.
  check_models(DType::bf16, {.losses = 5e-3, .sink_scores = 1e-2, .residual_norms = 5e-3, .gradients = 4e-2},
               [](const ParameterLayout& layout) { return rounded_parameters(layout, 43); });
}

namespace {

constexpr std::int32_t kBos = 3;
constexpr std::int64_t kSequences = 5;

/// Sequences of random tokens, with and without BOS, at two lengths.
std::vector<ProbeSet> probe_sets() {
  Random random(44);
  std::vector<ProbeSet> sets;
  for (const bool with_bos : {false, true})
    for (const std::int64_t length : {kLength, std::int64_t{40}}) {
      ProbeSet set{.name = "set " + std::to_string(sets.size()),
                   .length = length,
                   .sequences = kSequences,
                   .with_bos = with_bos,
                   .inputs = random.tokens(kSequences * length, kVocab),
                   .targets = random.tokens(kSequences * length, kVocab)};
      for (std::int64_t b = 0; with_bos && b < kSequences; ++b) set.inputs[static_cast<std::size_t>(b * length)] = kBos;
      sets.push_back(set);
    }
  return sets;
}

/// The same numbers to the last digit.
void check_same(const std::vector<ProbeRecord>& a, const std::vector<ProbeRecord>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(to_json(a[i]).dump() == to_json(b[i]).dump());
}

/// The smallest distance of any sink score of the set from the threshold.
double threshold_margin(Decoder& decoder, const ProbeSet& set, double threshold) {
  double margin = 1;
  for (std::int64_t b = 0; b < set.sequences; ++b) {
    decoder.forward(1, set.length, set.inputs.data() + b * set.length);
    for (const float score : decoder.sink_scores())
      margin = std::min(margin, std::abs(static_cast<double>(score) - threshold));
  }
  return margin;
}

}  // namespace

TEST_CASE("probe passes in bf16 on the GPU measure what they measure on the CPU, to bf16's precision") {
  ProbeConfig config;
  config.positions = kPositions;
  config.from_layer = 1;
  const std::vector<ProbeSet> sets = probe_sets();
  for (const ModelConfig& model : models()) {
    if (model.vocab_size != kVocab) continue;
    for (const std::int64_t at_once : {2, 5}) {  // sets in parts, and whole ones
      INFO(test::describe(model) << ", " << at_once << " sequences at once");
      const Values parameters = rounded_parameters(ParameterLayout(model), 46);
      const DecoderOptions options{.max_sequences = at_once, .max_length = kLength, .training = false};
      Side cpu(make_cpu_ops(), model, options, parameters), device(gpu(DType::bf16), model, options, parameters);
      ProbePass pass(*device.ops, device.decoder, config, sets);
      const std::vector<ProbeRecord> found = pass.run(7, 700);
      check_same(pass.run(7, 700), found);
      const std::vector<ProbeRecord> expected = ProbePass(*cpu.ops, cpu.decoder, config, sets).run(7, 700);
      for (std::size_t i = 0; i < sets.size(); ++i) {
        INFO(sets[i].name);
        CHECK(found[i].loss == Approx(expected[i].loss).epsilon(5e-3));
        const auto relative = [&](const char* name, auto field) {
          INFO(name);
          CHECK(relative_error(found[i].*field, expected[i].*field) < 3e-2);
        };
        // Cosines and stabilities may be near 0, and close scores decide for another key: by the size of a cosine.
        const auto absolute = [&](const char* name, auto field) {
          INFO(name);
          const Doubles &a = found[i].*field, &b = expected[i].*field;
          REQUIRE(a.size() == b.size());
          for (std::size_t k = 0; k < a.size(); ++k) CHECK(std::abs(a[k] - b[k]) < 5e-2);
        };
#define RELATIVE(field) relative(#field, &ProbeRecord::field)
#define ABSOLUTE(field) absolute(#field, &ProbeRecord::field)
        RELATIVE(sink_score);
        RELATIVE(sink_excess);
        RELATIVE(first_token_mass);
        RELATIVE(entropy);
        RELATIVE(key_mass);
        if (model.attention.sink != AttentionSink::none) RELATIVE(sink_logit_mass);
        RELATIVE(residual_norm);
        RELATIVE(residual_norm_rest);
        RELATIVE(norm_ratio);
        RELATIVE(attention_output_norm);
        RELATIVE(attention_output_norm_rest);
        RELATIVE(mlp_output_norm);
        RELATIVE(mlp_output_norm_rest);
        RELATIVE(mlp_amplification);
        RELATIVE(key_norm_first);
        RELATIVE(key_norm_rest);
        RELATIVE(value_norm_first);
        RELATIVE(value_norm_rest);
        RELATIVE(massive_ratio);
        ABSOLUTE(first_token_argmax);
        ABSOLUTE(cosine_first);
        ABSOLUTE(cosine_rest);
        ABSOLUTE(direction_stability);
        ABSOLUTE(direction_stability_middle);
#undef RELATIVE
#undef ABSOLUTE
      }
    }
  }
}

TEST_CASE("probe passes on the GPU measure what they measure on the CPU") {
  ProbeConfig config;
  config.positions = kPositions;
  config.sink_threshold = 0.15;
  config.from_layer = 1;
  const std::vector<ProbeSet> sets = probe_sets();
  bool circuit = false;
  for (const ModelConfig& model : models()) {
    if (model.vocab_size != kVocab) continue;
    INFO(test::describe(model));
    const ParameterLayout layout(model);
    Values parameters = strong_parameters(layout, 45);
    // The BOS embedding stands out, so that position 0 of those sets has a circuit to find.
    const ParameterSpec& wte = layout.find("embed.token.weight");
    for (std::int64_t c = 0; c < model.channels; ++c)
      parameters[static_cast<std::size_t>(wte.offset + kBos * model.channels + c)] *= 100.0F;
    // Two sequences at once: sets go through in parts.
    const DecoderOptions options{
        .max_sequences = 2, .max_length = kLength, .sink_positions = kPositions, .training = false};
    Side cpu(make_cpu_ops(), model, options, parameters), device(gpu(DType::f32), model, options, parameters);
    for (const ProbeSet& set : sets)
      REQUIRE(threshold_margin(cpu.decoder, set, config.sink_threshold) > 1e-5);  // rounding decides no sink rate
    ProbePass pass(*device.ops, device.decoder, config, sets);
    const std::vector<ProbeRecord> found = pass.run(7, 700);
    check_same(pass.run(7, 700), found);
    const std::vector<ProbeRecord> expected = ProbePass(*cpu.ops, cpu.decoder, config, sets).run(7, 700);
    REQUIRE(found.size() == sets.size());
    for (std::size_t i = 0; i < sets.size(); ++i) {
      circuit = circuit || expected[i].step_up_layer.has_value();
      const Json a = to_json(found[i]).flatten(), b = to_json(expected[i]).flatten();
      REQUIRE(a.size() == b.size());
      for (const auto& [field, value] : b.items()) {
        INFO(sets[i].name << " " << field);
        REQUIRE(a.contains(field));
        if (value.is_number_float())
          CHECK(a.at(field).get<double>() == Approx(value.get<double>()).epsilon(1e-4).margin(1e-5));
        else
          CHECK(a.at(field).dump() == value.dump());
      }
    }
  }
  CHECK(circuit);  // l* and C2 were compared where they are defined
}

TEST_CASE("causal tests on the GPU find what they find on the CPU") {
  const CausalOptions causal{.position = 2, .rotary_shift = 5, .sink_threshold = 0.15, .resamples = 100};
  const std::vector<ProbeSet> sets = probe_sets();
  for (const ModelConfig& model : models()) {
    if (model.vocab_size != kVocab) continue;
    INFO(test::describe(model));
    const Values parameters = rounded_parameters(ParameterLayout(model), 47);
    const DecoderOptions options{.max_sequences = 2, .max_length = kLength, .sink_positions = kPositions,
                                 .residual_norms = true,
                                 .training = false};
    for (const DType real : {DType::f32, DType::bf16}) {
      INFO(name_of(real));
      Side cpu(make_cpu_ops(), model, options, parameters), device(gpu(real), model, options, parameters);
      CausalTests tests(*device.ops, device.decoder, causal);
      const CausalRecord found = tests.run(sets.front(), sets);
      CHECK(to_json(tests.run(sets.front(), sets)).dump() == to_json(found).dump());
      const CausalRecord expected = CausalTests(*cpu.ops, cpu.decoder, causal).run(sets.front(), sets);
      CHECK(found.source_layer == expected.source_layer);
      REQUIRE(found.tests.size() == expected.tests.size());
      const double bound = real == DType::f32 ? 2e-4 : 5e-2;
      for (std::size_t i = 0; i < found.tests.size(); ++i) {
        const CausalTest &a = found.tests[i], &b = expected.tests[i];
        INFO(a.kind << " " << a.layer.value_or(-1));
        CHECK(a.kind == b.kind);
        CHECK(a.layer == b.layer);
        CHECK(a.first.score.value == Approx(b.first.score.value).epsilon(bound));
        CHECK(a.other.score.value == Approx(b.other.score.value).epsilon(bound));
        CHECK(a.first.ratio.value == Approx(b.first.ratio.value).epsilon(bound));
        CHECK(a.other.ratio.value == Approx(b.other.ratio.value).epsilon(bound));
        CHECK(a.loss.value == Approx(b.loss.value).epsilon(bound));
      }
    }
  }
}
