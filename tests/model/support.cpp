#include "tests/model/support.h"

#include <cmath>
#include <cstring>

#include "engine/config/load.h"
#include "engine/model/random.h"

namespace sinkscope::test {

ModelConfig resolved_model(const std::string& model, std::int64_t vocabulary, std::int64_t length) {
  Config config = parse_config(R"({"probes": {"enabled": false}, "train": {"sequence_length": )" +
                                   std::to_string(length) + R"(}, "model": )" + model + "}",
                               "test");
  resolve_with_dataset(config, vocabulary, -1, -1);
  return config.model;
}

std::vector<ModelConfig> tiny_presets() {
  return {resolved_model(R"({"preset": "gpt2", "layers": 2, "channels": 9, "heads": 3, "hidden": 14})", 11, 12),
          resolved_model(R"({"preset": "llama", "layers": 2, "channels": 12, "heads": 3, "hidden": 13})", 11, 12),
          resolved_model(R"({"preset": "qwen3", "layers": 2, "channels": 10, "heads": 4, "kv_heads": 2,
                             "head_dim": 6, "hidden": 11})",
                         11, 12),
          resolved_model(R"({"preset": "qwen2", "layers": 2, "channels": 12, "heads": 3, "kv_heads": 1, "hidden": 9})",
                         11, 12),
          resolved_model(R"({"preset": "gpt_neox", "layers": 2, "channels": 14, "heads": 2, "rotary_dim": 4,
                             "hidden": 10})",
                         11, 12),
          resolved_model(R"({"preset": "gpt2", "layers": 2, "channels": 10, "heads": 2, "hidden": 9,
                             "attention": {"sink": "off_by_one"}})",
                         11, 12),
          resolved_model(R"({"preset": "llama", "layers": 2, "channels": 12, "heads": 6, "kv_heads": 2, "head_dim": 4,
                             "hidden": 11, "attention": {"sink": "learned"}})",
                         11, 12)};
}

ModelConfig random_model(Random& random) {
  const auto coin = [&] { return random.below(2) == 0; };
  ModelConfig config;
  config.layers = 1 + random.below(3);
  config.channels = 5 + random.below(20);
  config.kv_heads = 1 + random.below(2);
  config.heads = config.kv_heads * (1 + random.below(3));
  config.position = static_cast<PositionEncoding>(random.below(3));
  config.head_dim = 3 + random.below(6);
  if (config.position == PositionEncoding::rope) {
    if (coin()) config.rotary_dim = 2 * (1 + random.below(config.head_dim / 2));
    else config.head_dim += config.head_dim % 2;
  }
  config.hidden = 4 + random.below(30);
  config.vocab_size = 7 + random.below(20);
  config.max_sequence_length = 12;
  config.norm = coin() ? NormType::layernorm : NormType::rmsnorm;
  config.norm_eps = coin() ? 1e-5 : 1e-2;
  config.rope_theta = coin() ? 1e4 : 50.0;
  config.mlp = static_cast<MlpType>(random.below(3));
  config.bias = coin();
  config.qkv_bias = coin();
  config.parallel_block = coin();
  config.tied_embedding = coin();
  config.qk_norm = coin();
  config.attention.sink = static_cast<AttentionSink>(random.below(3));
  return config;
}

std::string describe(const ModelConfig& config) {
  std::string out = "L " + std::to_string(config.layers) + ", C " + std::to_string(config.channels) + ", H " +
                    std::to_string(config.heads) + ", G " + std::to_string(config.kv_heads) + ", D " +
                    std::to_string(config.head_dim) + ", F " + std::to_string(config.hidden) + ", V " +
                    std::to_string(config.vocab_size);
  for (const std::string_view name : {to_string(config.norm), to_string(config.position), to_string(config.mlp)})
    out += ", " + std::string(name);
  if (config.rotary_dim != 0) out += ", R " + std::to_string(config.rotary_dim);
  if (config.bias) out += ", bias";
  if (config.qkv_bias) out += ", qkv bias";
  if (config.parallel_block) out += ", parallel";
  if (config.tied_embedding) out += ", tied";
  if (config.qk_norm) out += ", qk-norm";
  if (config.attention.sink != AttentionSink::none) out += ", sink " + std::string(to_string(config.attention.sink));
  return out;
}

Values strong_parameters(const ParameterLayout& layout, std::uint64_t seed) {
  Values flat(static_cast<std::size_t>(layout.flat_size()));
  for (const ParameterSpec& spec : layout.specs()) {
    const std::uint64_t key = random_key(seed, spec.name + " strong");
    const bool embedding = spec.group == ParameterGroup::embedding;
    const double spread = spec.shape.size() == 1 ? 0.3
                          : embedding            ? 1.0
                                                 : 1.5 / std::sqrt(static_cast<double>(spec.shape[1]));
    for (std::int64_t i = 0; i < spec.size; ++i)
      flat[static_cast<std::size_t>(spec.offset + i)] =
          static_cast<float>(spec.init_value + spread * random_normal(key, static_cast<std::uint64_t>(i)));
  }
  return flat;
}

Batch Batch::part(std::int64_t begin, std::int64_t count) const {
  const auto cut = [&](const Tokens& tokens) {
    return Tokens(tokens.begin() + begin * length, tokens.begin() + (begin + count) * length);
  };
  return {count, length, cut(inputs), cut(targets)};
}

Batch random_batch(Random& random, const ModelConfig& config, std::int64_t sequences, std::int64_t length,
                   std::int64_t ignored_every) {
  const std::int64_t rows = sequences * length;
  Batch batch{sequences, length, random.tokens(rows, config.vocab_size), random.tokens(rows, config.vocab_size)};
  if (ignored_every > 0)
    for (auto& target : batch.targets)
      if (random.below(ignored_every) == 0) target = -1;
  return batch;
}

Decoder make_decoder(Ops& ops, const ModelConfig& config, const DecoderOptions& options, const Values& parameters) {
  Decoder decoder(ops, config, options);
  ops.copy_from_host(decoder.parameters(), parameters.data());
  return decoder;
}

Values to_host(Ops& ops, const Tensor& tensor) {
  Values out(static_cast<std::size_t>(tensor.size()));
  ops.copy_to_host(out.data(), tensor);
  return out;
}

Step run_step(Ops& ops, Decoder& decoder, const Batch& batch, float gradient_scale, ActivationObserver* observer) {
  Step step;
  step.losses.assign(batch.targets.size(), std::nanf(""));
  decoder.forward(batch.sequences, batch.length, batch.inputs.data(), observer);
  decoder.loss(batch.targets.data(), step.losses.data(), gradient_scale);
  if (gradient_scale > 0) {
    decoder.backward();
    step.gradients = to_host(ops, decoder.gradients());
  }
  step.sink_scores = decoder.sink_scores();
  step.residual_norms = decoder.residual_norms();
  return step;
}

bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

bool same_bits(const Step& a, const Step& b) {
  return same_bits(a.losses, b.losses) && same_bits(a.gradients, b.gradients) &&
         same_bits(a.sink_scores, b.sink_scores) && same_bits(a.residual_norms, b.residual_norms);
}

Doubles doubles(const Values& values) { return Doubles(values.begin(), values.end()); }

}  // namespace sinkscope::test
