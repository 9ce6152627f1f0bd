// What a Decoder keeps: weights, memory, the last batch, and its layers, forward and backward (decoder_layers.cpp).
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "engine/model/decoder.h"
#include "engine/model/decoder_memory.h"
#include "engine/model/decoder_parameters.h"
#include "engine/model/fp8_scales.h"

namespace sinkscope {

/// What a norm remembers for its backward pass.
struct NormStatistics {
  Tensor mean, rstd;
};

struct Decoder::State {
  State(Ops& ops_in, const ModelConfig& config_in, const DecoderOptions& options_in)
      : ops(ops_in),
        config(config_in),
        options(options_in),
        layout(config_in),
        real(ops_in.compute_dtype()),
        memory(config_in, options_in, ops_in.compute_dtype(), layout) {
    memory.parameters.allocate(ops);
    if (options.training) memory.gradients.allocate(ops);
    memory.activations.allocate(ops);
    memory.scratch.allocate(ops);
    weights = DecoderParameters(
        config, layout, [&](const ParameterSpec& spec) { return value_of(spec); },
        [&](const ParameterSpec& spec) { return options.training ? gradient_of(spec) : Tensor(); });
    if (config.attention.sink == AttentionSink::off_by_one)  // an arena begins as zeros
      zero_logits = memory.parameters.tensor(memory.zero_logits, {config.heads});
    if (const std::int64_t K = options.sink_positions; K > 0)
      step_statistics = StepStatistics(
          ops, memory.activations.tensor(memory.step_sums, {StepStatistics::elements(config.layers, config.heads, K)}),
          config.layers, config.heads, K);
    if (options.fp8)
      fp8 = Fp8Scales(ops, memory.activations.tensor(memory.fp8_scales, {Fp8Scales::elements(config.layers)}),
                      config.layers);
    if (options.training && options.attention_sums)
      attention_sums = AttentionSums(
          ops,
          memory.activations.tensor(memory.attention_sums,
                                    {AttentionSums::elements(config.layers, config.heads, options.max_length)}),
          config.layers, config.heads);
  }

  /// (size of the section) real, f32.
  Tensor section_parameters(std::int64_t section) const {
    const auto index = static_cast<std::size_t>(section);
    const auto [begin, size] = layout.sections().at(index);
    return options.parameters_by_section
               ? memory.parameters.tensor(memory.section_parameters[index], {size})
               : memory.parameters.tensor(memory.parameter_flat, {layout.flat_size()}).rows(begin, size);
  }
  Tensor section_gradients(std::int64_t section) const {
    const auto index = static_cast<std::size_t>(section);
    const auto [begin, size] = layout.sections().at(index);
    return options.gradients_by_section
               ? memory.gradients.tensor(memory.section_gradients[index], {size})
               : memory.gradients.tensor(memory.gradient_flat, {layout.flat_size()}).rows(begin, size);
  }
  Tensor value_of(const ParameterSpec& spec) const {
    const std::int64_t section = layout.section_of(spec);
    return section_parameters(section).rows(spec.offset - layout.sections()[static_cast<std::size_t>(section)].begin,
                                            spec.size);
  }
  Tensor gradient_of(const ParameterSpec& spec) const {
    const std::int64_t section = layout.section_of(spec);
    return section_gradients(section).rows(spec.offset - layout.sections()[static_cast<std::size_t>(section)].begin,
                                           spec.size);
  }

  // Views of the current batch.
  std::int64_t rows() const { return B * T; }
  Tensor act(std::size_t buffer, std::int64_t width) const {
    return memory.activations.tensor(buffer, {rows(), width});
  }
  Tensor tmp(std::size_t buffer, std::int64_t width) const { return memory.scratch.tensor(buffer, {rows(), width}); }
  Tensor row_statistic(std::size_t buffer) const { return memory.activations.tensor(buffer, {rows()}); }
  const BlockBuffers& buffers(std::int64_t layer) const {
    return memory.blocks[static_cast<std::size_t>(layer % memory.slots)];
  }
  NormStatistics norm_statistics(std::size_t mean, std::size_t rstd) const {
    return {config.norm == NormType::layernorm ? row_statistic(mean) : Tensor(), row_statistic(rstd)};
  }
  Tensor residual(std::int64_t layer) const {  // h^(layer-1), (N, C)
    return act(layer == config.layers ? memory.final_residual : buffers(layer).residual, config.channels);
  }
  Tensor qkv_heads(const Tensor& qkv) const {
    return qkv.view({B, T, config.heads + 2 * config.kv_heads, config.head_dim});
  }
  Tensor norms() const { return memory.activations.tensor(memory.residual_norms, {config.layers + 1, B, T}); }
  Tensor norm_row(std::int64_t index) const {  // residual norms of one layer, (N) of the (L+1, B, T)
    return options.residual_norms ? norms().rows(index, 1).view({rows()}) : Tensor();
  }
  Tensor sinks() const {
    return memory.activations.tensor(memory.sink, {config.layers, B, config.heads, options.sink_positions});
  }
  Tensor sink_block(std::int64_t layer) const {  // (B, H, K) of the (L, B, H, K)
    return options.sink_positions == 0 ? Tensor()
                                       : sinks().rows(layer, 1).view({B, config.heads, options.sink_positions});
  }
  /// Without a gradient where they are fixed; both absent where there are none.
  Parameter sink_logits(std::int64_t layer) const {
    return zero_logits ? Parameter{zero_logits, {}} : weights.blocks[static_cast<std::size_t>(layer)].sink_logits;
  }
  const Parameter& head() const { return config.tied_embedding ? weights.token_embedding : weights.lm_head; }
  Tensor final_norm_output() const { return act(memory.final_norm, config.channels); }
  /// Of query and key heads; absent without rotary embedding.
  std::optional<Rotation> head_rotation(std::int64_t first_index) const {
    if (config.position != PositionEncoding::rope) return {};
    return Rotation{.width = config.rotary_dim, .theta = config.rope_theta, .first_index = first_index};
  }
  NormKind norm_kind() const { return config.norm == NormType::layernorm ? NormKind::layernorm : NormKind::rmsnorm; }

  // Sections of parameters, where they come from a source.
  bool is_product(const ParameterSpec& spec) const;
  void zero_added(const Tensor& gradients, const Section& part) const;
  void need(std::int64_t section) const;
  void expect(std::int64_t section) const;
  void check_batch(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs) const;
  void knock_out(Branch branch, std::int64_t layer, const Tensor& delta);
  bool transplant(std::int64_t layer);
  NormForward norm_of(const NormParameters& parameters, const Tensor& out, const NormStatistics& statistics,
                      const Tensor& l2) const;
  void norm_forward(const NormParameters& parameters, const Tensor& x, const Tensor& delta, const Tensor& sum,
                    const Tensor& out, const NormStatistics& statistics, const Tensor& l2);
  void norm_backward(const NormParameters& parameters, const Tensor& x, const Tensor& dout,
                     const NormStatistics& statistics, const Tensor& dx, const Tensor& dx_sums);
  void linear_forward(const LinearParameters& parameters, const Fp8Linear& scales, const Tensor& x, const Tensor& out);
  Tensor stream_bias(std::int64_t layer, Branch branch) const;
  Tensor own_bias(const LinearParameters& branch) const {
    return config.parallel_block ? branch.bias.gradient : Tensor();
  }
  void linear_backward(const LinearParameters& parameters, const Fp8Linear& scales, const Tensor& x, const Tensor& dout,
                       const Tensor& dx, const Tensor& dbias);
  void attention_forward(std::int64_t layer, const Tensor& sink);
  void attention_output_backward(std::int64_t layer);
  void attention_backward(std::int64_t layer);
  void begin_attention_sums();
  void add_attention_sums(std::int64_t layer);
  void forward(ActivationObserver* observer);
  void loss(float gradient_scale);
  void backward(const BackwardHooks& hooks, bool sum_attention);
  void backward_pass(const BackwardHooks& hooks, bool sum_attention);
  Tensor mlp_input(std::int64_t layer) const {  // what norm2 normalises, (N, C)
    return config.parallel_block ? residual(layer) : act(buffers(layer).middle, config.channels);
  }
  GeluKind gelu_kind() const { return config.mlp == MlpType::gelu_erf ? GeluKind::erf : GeluKind::tanh; }
  void mlp_hidden(std::int64_t layer);
  void mlp_forward(std::int64_t layer);
  void mlp_backward(std::int64_t layer);
  void recompute(std::int64_t layer);
  void show_block(std::int64_t layer, ActivationObserver& observer) const;

  /// What tells passes apart that do other operations, or with other arguments.
  enum class Pass : std::uint8_t { forward, loss, backward };
  struct PassKey {
    Pass pass = Pass::forward;
    std::int64_t sequences = 0, length = 0;
    float scale = 0;       // of the loss's gradient
    bool replace = false, fp8 = false;
    auto operator<=>(const PassKey&) const = default;
  };
  /// Operations of a pass of the current batch, recorded where the options allow it.
  void repeat(Pass pass, float scale, const std::function<void()>& operations);

  Ops& ops;
  ModelConfig config;
  DecoderOptions options;
  ParameterLayout layout;
  DType real;
  DecoderMemory memory;

  DecoderParameters weights;
  ParameterSource* source = nullptr;
  Tensor zero_logits;  // (H) real, sink logits that are fixed; not given otherwise

  std::int64_t B = 0, T = 0;     // of the last forward
  bool replace = false;          // the next pass writes the gradients that are products
  bool head_gradient = false;    // d_final holds the gradient of the last forward's loss
  ForwardEdits edits;            // of the last forward
  StepStatistics step_statistics;
  AttentionSums attention_sums;
  Fp8Scales fp8;
  std::map<PassKey, std::unique_ptr<RepeatedWork>> repeated;
};

}  // namespace sinkscope
