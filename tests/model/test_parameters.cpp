// Names, places and initial values of parameters, and the FLOPs of a step, by hand count.
#include <algorithm>
#include <cmath>
#include <set>

#include "engine/model/parameters.h"
#include "engine/model/random.h"
#include "tests/catch.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

std::vector<std::string> names(const ModelConfig& config) {
  std::vector<std::string> out;
  const ParameterLayout layout(config);
  for (const ParameterSpec& spec : layout.specs()) {
    std::string line = spec.name;
    for (const std::int64_t extent : spec.shape) line.append(1, ' ').append(std::to_string(extent));
    out.push_back(line);
  }
  return out;
}

Values initial_values(const ParameterLayout& layout, std::uint64_t seed) {
  Values flat(static_cast<std::size_t>(layout.flat_size()), 7.0F);
  initialize_parameters(layout, seed, flat);
  return flat;
}

Values values_of(const ParameterLayout& layout, const Values& flat, const std::string& name) {
  const ParameterSpec& spec = layout.find(name);
  return Values(flat.begin() + spec.offset, flat.begin() + spec.offset + spec.size);
}

struct Moments {
  double mean = 0, deviation = 0, kurtosis = 0;
};

Moments moments(const Values& values) {
  const auto n = static_cast<double>(values.size());
  Moments out;
  for (const float x : values) out.mean += static_cast<double>(x) / n;
  double square = 0, fourth = 0;
  for (const float x : values) {
    const double d = static_cast<double>(x) - out.mean;
    square += d * d / n;
    fourth += d * d * d * d / n;
  }
  out.deviation = std::sqrt(square);
  out.kurtosis = fourth / (square * square);
  return out;
}

double correlation(const Values& a, const Values& b) {
  return dot(doubles(a), doubles(b)) / std::sqrt(dot(doubles(a), doubles(a)) * dot(doubles(b), doubles(b)));
}

bool constant(const Values& values, float value) {
  return std::all_of(values.begin(), values.end(), [&](float x) { return x == value; });
}

/// Every value lies where normal(0, deviation) puts it; five standard errors wide.
void check_normal(const Values& values, double deviation) {
  const auto n = static_cast<double>(values.size());
  const Moments m = moments(values);
  CHECK(std::abs(m.mean) < 5 * deviation / std::sqrt(n));
  CHECK(std::abs(m.deviation / deviation - 1) < 5 / std::sqrt(2 * n));
  CHECK(std::abs(m.kurtosis - 3) < 5 * std::sqrt(24 / n));
}

ModelConfig large(const std::string& preset) {
  return resolved_model(
      R"({"layers": 3, "channels": 96, "heads": 4, "head_dim": 24, "hidden": 200, "preset": ")" + preset +
          "\"}",
      301, 64);
}

}  // namespace

TEST_CASE("parameters have the documented names and shapes") {
  ModelConfig gpt2 = tiny_presets()[0], llama = tiny_presets()[1], qwen3 = tiny_presets()[2];
  ModelConfig qwen2 = tiny_presets()[3], neox = tiny_presets()[4];
  gpt2.layers = llama.layers = qwen3.layers = qwen2.layers = neox.layers = 1;
  CHECK(names(gpt2) == std::vector<std::string>{
                           "embed.token.weight 11 9", "embed.position.weight 12 9",
                           "blocks.0.norm1.weight 9", "blocks.0.norm1.bias 9",
                           "blocks.0.attention.qkv.weight 27 9", "blocks.0.attention.qkv.bias 27",
                           "blocks.0.attention.output.weight 9 9", "blocks.0.attention.output.bias 9",
                           "blocks.0.norm2.weight 9", "blocks.0.norm2.bias 9",
                           "blocks.0.mlp.up.weight 14 9", "blocks.0.mlp.up.bias 14",
                           "blocks.0.mlp.down.weight 9 14", "blocks.0.mlp.down.bias 9",
                           "final_norm.weight 9", "final_norm.bias 9"});
  CHECK(names(llama) == std::vector<std::string>{
                            "embed.token.weight 11 12", "blocks.0.norm1.weight 12",
                            "blocks.0.attention.qkv.weight 36 12", "blocks.0.attention.output.weight 12 12",
                            "blocks.0.norm2.weight 12", "blocks.0.mlp.gate_up.weight 26 12",
                            "blocks.0.mlp.down.weight 12 13", "final_norm.weight 12", "head.weight 11 12"});
  CHECK(names(qwen3) == std::vector<std::string>{
                            "embed.token.weight 11 10", "blocks.0.norm1.weight 10",
                            "blocks.0.attention.qkv.weight 48 10", "blocks.0.attention.q_norm.weight 6",
                            "blocks.0.attention.k_norm.weight 6", "blocks.0.attention.output.weight 10 24",
                            "blocks.0.norm2.weight 10", "blocks.0.mlp.gate_up.weight 22 10",
                            "blocks.0.mlp.down.weight 10 11", "final_norm.weight 10"});
  CHECK(names(qwen2) == std::vector<std::string>{
                            "embed.token.weight 11 12", "blocks.0.norm1.weight 12",
                            "blocks.0.attention.qkv.weight 20 12", "blocks.0.attention.qkv.bias 20",
                            "blocks.0.attention.output.weight 12 12", "blocks.0.norm2.weight 12",
                            "blocks.0.mlp.gate_up.weight 18 12", "blocks.0.mlp.down.weight 12 9",
                            "final_norm.weight 12"});
  CHECK(names(neox) == std::vector<std::string>{
                           "embed.token.weight 11 14", "blocks.0.norm1.weight 14", "blocks.0.norm1.bias 14",
                           "blocks.0.attention.qkv.weight 42 14", "blocks.0.attention.qkv.bias 42",
                           "blocks.0.attention.output.weight 14 14", "blocks.0.attention.output.bias 14",
                           "blocks.0.norm2.weight 14", "blocks.0.norm2.bias 14",
                           "blocks.0.mlp.up.weight 10 14", "blocks.0.mlp.up.bias 10",
                           "blocks.0.mlp.down.weight 14 10", "blocks.0.mlp.down.bias 14",
                           "final_norm.weight 14", "final_norm.bias 14", "head.weight 11 14"});
  ModelConfig learned = tiny_presets()[6], fixed = learned;
  learned.layers = 1;
  CHECK(names(learned) == std::vector<std::string>{
                              "embed.token.weight 11 12", "blocks.0.norm1.weight 12",
                              "blocks.0.attention.qkv.weight 40 12", "blocks.0.attention.sink 6",
                              "blocks.0.attention.output.weight 12 24", "blocks.0.norm2.weight 12",
                              "blocks.0.mlp.gate_up.weight 22 12", "blocks.0.mlp.down.weight 12 11",
                              "final_norm.weight 12", "head.weight 11 12"});
  fixed.attention.sink = AttentionSink::off_by_one;
  CHECK(!ParameterLayout(fixed).contains("blocks.0.attention.sink"));
}

TEST_CASE("learned sink logits begin at zero, do not decay and leave other initial values as they are") {
  ModelConfig config = large("qwen3");
  const ParameterLayout plain(config);
  const Values plain_values = initial_values(plain, 5);
  config.attention.sink = AttentionSink::learned;
  const ParameterLayout layout(config);
  const Values values = initial_values(layout, 5);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const ParameterSpec& spec = layout.find("blocks." + std::to_string(layer) + ".attention.sink");
    CHECK(spec.layer == layer);
    CHECK(spec.group == ParameterGroup::attention);
    CHECK(!spec.decay);
    CHECK(constant(values_of(layout, values, spec.name), 0.0F));
  }
  CHECK(layout.parameter_count() == plain.parameter_count() + config.layers * config.heads);
  for (const ParameterSpec& spec : plain.specs())
    CHECK(same_bits(values_of(plain, plain_values, spec.name), values_of(layout, values, spec.name)));
}

TEST_CASE("parameters lie one after the other on boundaries of 64 elements, in segments of their own") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    const ModelConfig config = random_model(random);
    INFO(test::describe(config));
    const ParameterLayout layout(config);
    const std::vector<Segment> segments = layout.segments();
    REQUIRE(segments.size() == layout.specs().size());
    std::set<std::string> seen;
    std::int64_t end = 0, count = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const ParameterSpec& spec = layout.specs()[i];
      INFO(spec.name);
      CHECK(spec.offset % 64 == 0);
      CHECK(spec.offset >= end);
      CHECK(spec.offset - end < 64);
      end = spec.offset + spec.size;
      count += spec.size;
      CHECK(seen.insert(spec.name).second);
      CHECK(&layout.find(spec.name) == &spec);
      CHECK(layout.contains(spec.name));
      CHECK(spec.decay == (spec.shape.size() == 2));
      CHECK(segments[i].begin == spec.offset);
      CHECK(segments[i].size == spec.size);
      CHECK(segments[i].decay == spec.decay);
      const bool in_block = spec.name.rfind("blocks.", 0) == 0;
      CHECK(spec.layer == (in_block ? std::stoll(spec.name.substr(7)) : -1));
    }
    CHECK(layout.flat_size() >= end);
    CHECK(layout.flat_size() - end < 64);
    CHECK(layout.parameter_count() == count);
  }
  const ParameterLayout layout(tiny_presets()[1]);
  CHECK(!layout.contains("embed.position.weight"));
  CHECK(message_of<std::out_of_range>([&] { layout.find("blocks.2.norm1.weight"); }) ==
        "the model has no parameter blocks.2.norm1.weight");
  CHECK(message_of<std::invalid_argument>([] { ParameterLayout unresolved{ModelConfig{}}; }) ==
        "parameter embed.token.weight has an extent of 0; the model config is not resolved");
}

TEST_CASE("published models have their published parameter counts") {
  const auto count = [](const std::string& model, std::int64_t vocabulary, std::int64_t length) {
    return ParameterLayout(resolved_model(model, vocabulary, length)).parameter_count();
  };
  CHECK(count(R"({"preset": "gpt2", "layers": 12, "channels": 768, "heads": 12})", 50257, 1024) == 124439808);
  CHECK(count(R"({"preset": "llama", "layers": 22, "channels": 2048, "heads": 32, "kv_heads": 4, "hidden": 5632})",
              32000, 2048) == 1100048384);  // TinyLlama 1.1B
  CHECK(count(R"({"preset": "qwen3", "layers": 28, "channels": 1024, "heads": 16, "kv_heads": 8, "hidden": 3072})",
              151936, 4096) == 596049920);  // Qwen3 0.6B
  CHECK(count(R"({"preset": "qwen2", "layers": 24, "channels": 896, "heads": 14, "kv_heads": 2, "hidden": 4864})",
              151936, 4096) == 494032768);  // Qwen2 0.5B
  // Pythia 70M.
  CHECK(count(R"({"preset": "gpt_neox", "layers": 6, "channels": 512, "heads": 8})", 50304, 2048) == 70426624);
}

TEST_CASE("random bits are SplitMix64's, and uniforms and normals are what they say") {
  // The first outputs for seed 0 of the generator that Steele, Lea and Flood describe.
  CHECK(random_bits(0, 0) == 0xe220a8397b1dcdafULL);
  CHECK(random_bits(0, 1) == 0x6e789e6aa1b965f4ULL);
  CHECK(random_bits(0, 2) == 0x06c45d188009454fULL);
  CHECK(random_key(1, "a") != random_key(1, "b"));
  CHECK(random_key(1, "a") != random_key(2, "a"));

  const std::uint64_t key = random_key(3, "uniforms");
  constexpr int kCount = 100000, kBins = 20;
  std::vector<int> bins(kBins);
  Values normals;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double u = random_uniform(key, i);
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    ++bins[static_cast<std::size_t>(u * kBins)];
    normals.push_back(static_cast<float>(random_normal(key, i)));
  }
  for (const int bin : bins) CHECK(std::abs(bin - kCount / kBins) < 5 * std::sqrt(kCount / kBins));
  check_normal(normals, 1.0);
  const Values next(normals.begin() + 1, normals.end());
  normals.pop_back();
  CHECK(std::abs(correlation(normals, next)) < 5 / std::sqrt(kCount));
}

TEST_CASE("initial values have the scheme's spread, norms are one and biases zero") {
  for (const std::string preset : {"gpt2", "llama", "qwen3", "qwen2", "gpt_neox"}) {
    const ModelConfig config = large(preset);
    const ParameterLayout layout(config);
    const Values flat = initial_values(layout, 5);
    const bool gpt2 = config.init == InitScheme::gpt2;
    CHECK(gpt2 == (preset == "gpt2"));
    for (const ParameterSpec& spec : layout.specs()) {
      INFO(preset << " " << spec.name);
      const Values values = values_of(layout, flat, spec.name);
      const auto ends_with = [&](const std::string& end) {
        return spec.name.size() >= end.size() && spec.name.compare(spec.name.size() - end.size(), end.size(), end) == 0;
      };
      if (ends_with(".bias"))
        CHECK(constant(values, 0.0F));
      else if (spec.shape.size() == 1)
        CHECK(constant(values, 1.0F));
      else if (gpt2 && (ends_with("attention.output.weight") || ends_with("mlp.down.weight")))
        check_normal(values, 0.02 / std::sqrt(6.0));  // 2 L = 6 additions to the residual stream
      else if (gpt2 && ends_with("position.weight"))
        check_normal(values, 0.01);
      else
        check_normal(values, 0.02);
    }
    Values gaps = flat;
    for (const ParameterSpec& spec : layout.specs())
      std::fill(gaps.begin() + spec.offset, gaps.begin() + spec.offset + spec.size, 0.0F);
    CHECK(constant(gaps, 0.0F));
  }
  ModelConfig wide = large("llama");
  wide.init_std = 0.3;
  const ParameterLayout layout(wide);
  check_normal(values_of(layout, initial_values(layout, 5), "blocks.1.mlp.down.weight"), 0.3);
}

TEST_CASE("initial values depend on the seed and the parameter's name alone") {
  const ModelConfig config = large("llama");
  const ParameterLayout layout(config);
  const Values flat = initial_values(layout, 5);
  CHECK(same_bits(flat, initial_values(layout, 5)));

  // Other parameters come and go; the common ones stay.
  ModelConfig other = config;
  other.norm = NormType::layernorm;
  other.position = PositionEncoding::learned;
  other.bias = true;
  other.qk_norm = true;
  other.tied_embedding = true;
  other.layers = 2;
  const ParameterLayout other_layout(other);
  const Values other_flat = initial_values(other_layout, 5);
  int common = 0;
  for (const ParameterSpec& spec : other_layout.specs())
    if (layout.contains(spec.name)) {
      INFO(spec.name);
      ++common;
      CHECK(same_bits(values_of(layout, flat, spec.name), values_of(other_layout, other_flat, spec.name)));
    }
  CHECK(common == 1 + 2 * 6 + 1);

  // Another seed and another name give values that have nothing to do with these.
  const Values reseeded = initial_values(layout, 6);
  const std::string first = "blocks.0.mlp.gate_up.weight", second = "blocks.1.mlp.gate_up.weight";
  const Values values = values_of(layout, flat, first);
  const double limit = 5 / std::sqrt(static_cast<double>(values.size()));
  CHECK(std::abs(correlation(values, values_of(layout, reseeded, first))) < limit);
  CHECK(std::abs(correlation(values, values_of(layout, flat, second))) < limit);

  Values small(3);
  CHECK(message_of<std::invalid_argument>([&] { initialize_parameters(layout, 1, small); }) ==
        "initialize_parameters: expected " + std::to_string(layout.flat_size()) + " elements, got 3");
}

TEST_CASE("the FLOPs of a training step are those of a hand count") {
  // GPT-2 124M: 12 layers of 12 * 768^2 weights and a head of 50257 * 768; attention at half.
  const ModelConfig gpt2 =
      resolved_model(R"({"preset": "gpt2", "layers": 12, "channels": 768, "heads": 12})", 50257, 1024);
  CHECK(training_flops_per_token(gpt2, 1024) == Approx(797815296.0).epsilon(1e-12));
  // Grouped heads and SwiGLU, multiplication by multiplication: 2 FLOPs forward and 4 backward each.
  const ModelConfig qwen3 = tiny_presets()[2];
  double multiplications = 0;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    multiplications += 10 * (4 + 2 + 2) * 6;  // queries, keys, values
    multiplications += 4 * 6 * 10;            // output
    multiplications += 3 * 10 * 11;           // gate, up, down
    multiplications += 2 * 4 * 6 * 12 / 2.0;  // scores and mix: on average half of 12 keys
  }
  multiplications += 10 * 11;  // head, tied or not
  CHECK(training_flops_per_token(qwen3, 12) == Approx(6 * multiplications).epsilon(1e-12));
  ModelConfig exact = gpt2;  // the form of GELU multiplies no matrices
  exact.mlp = MlpType::gelu_erf;
  CHECK(training_flops_per_token(exact, 1024) == training_flops_per_token(gpt2, 1024));
}
