#include "engine/model/decoder_parameters.h"

namespace sinkscope {

Tensor shaped(const Tensor& elements, const ParameterSpec& spec) {
  return elements && spec.shape.size() == 2 ? elements.view({spec.shape[0], spec.shape[1]}) : elements;
}

DecoderParameters::DecoderParameters(const ModelConfig& config, const ParameterLayout& layout,
                                     const std::function<Tensor(const ParameterSpec&)>& value_of,
                                     const std::function<Tensor(const ParameterSpec&)>& gradient_of) {
  const auto bind = [&](const std::string& name) -> Parameter {
    if (!layout.contains(name)) return {};
    const ParameterSpec& spec = layout.find(name);
    return {shaped(value_of(spec), spec), shaped(gradient_of(spec), spec)};
  };
  const auto bind_norm = [&](const std::string& name) -> NormParameters {
    return {bind(name + ".weight"), bind(name + ".bias")};
  };
  const auto bind_linear = [&](const std::string& name) -> LinearParameters {
    return {bind(name + ".weight"), bind(name + ".bias")};
  };
  token_embedding = bind("embed.token.weight");
  position_embedding = bind("embed.position.weight");
  lm_head = bind("head.weight");
  final_norm = bind_norm("final_norm");
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer);
    blocks.push_back({.norm1 = bind_norm(block + ".norm1"),
                      .norm2 = bind_norm(block + ".norm2"),
                      .qkv = bind_linear(block + ".attention.qkv"),
                      .output = bind_linear(block + ".attention.output"),
                      .up = bind_linear(block + (config.mlp == MlpType::swiglu ? ".mlp.gate_up" : ".mlp.up")),
                      .down = bind_linear(block + ".mlp.down"),
                      .q_norm = bind(block + ".attention.q_norm.weight"),
                      .k_norm = bind(block + ".attention.k_norm.weight"),
                      .sink_logits = bind(block + ".attention.sink")});
  }
}

}  // namespace sinkscope
