#include "engine/model/decoder.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/model/decoder_memory.h"
#include "engine/model/decoder_parameters.h"

namespace sinkscope {
namespace {

/// What a norm remembers for its backward pass.
struct NormStatistics {
  Tensor mean, rstd;
};

}  // namespace

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
    const std::int64_t size = layout.flat_size();
    weights = DecoderParameters(config, layout, memory.parameters.tensor(memory.parameter_flat, {size}),
                                options.training ? memory.gradients.tensor(memory.gradient_flat, {size}) : Tensor());
    if (config.attention.sink == AttentionSink::off_by_one)  // an arena begins as zeros
      zero_logits = memory.parameters.tensor(memory.zero_logits, {config.heads});
    if (const std::int64_t K = options.sink_positions; K > 0)
      step_statistics = StepStatistics(
          ops, memory.activations.tensor(memory.step_sums, {StepStatistics::elements(config.layers, config.heads, K)}),
          config.layers, config.heads, K);
    if (options.training && options.attention_sums)
      attention_sums = AttentionSums(
          ops, memory.activations.tensor(memory.attention_sums, {AttentionSums::elements(config.layers, config.heads, options.max_length)}),
          config.layers, config.heads);
  }

  // Views of the current batch.
  std::int64_t rows() const { return B * T; }
  Tensor act(std::size_t buffer, std::int64_t width) const { return memory.activations.tensor(buffer, {rows(), width}); }
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
  NormKind norm_kind() const { return config.norm == NormType::layernorm ? NormKind::layernorm : NormKind::rmsnorm; }

  void check_batch(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs) const;
  void knock_out(Branch branch, std::int64_t layer, const Tensor& delta);
  bool transplant(std::int64_t layer);
  void norm_forward(const NormParameters& parameters, const Tensor& x, const Tensor& delta, const Tensor& sum,
                    const Tensor& out, const NormStatistics& statistics, const Tensor& l2);
  void norm_backward(const NormParameters& parameters, const Tensor& x, const Tensor& dout,
                     const NormStatistics& statistics, const Tensor& dx, const Tensor& dx_sums);
  void linear_forward(const LinearParameters& parameters, const Tensor& x, const Tensor& out);
  Tensor stream_bias(std::int64_t layer, Branch branch) const;
  Tensor own_bias(const LinearParameters& branch) const { return config.parallel_block ? branch.bias.gradient : Tensor(); }
  void linear_backward(const LinearParameters& parameters, const Tensor& x, const Tensor& dout, const Tensor& dx, const Tensor& dbias);
  void attention_forward(std::int64_t layer, const Tensor& sink);
  void attention_output_backward(std::int64_t layer);
  void attention_backward(std::int64_t layer);
  void begin_attention_sums();
  void add_attention_sums(std::int64_t layer);
  void backward(const GradientsReady& ready, bool sum_attention);
  Tensor mlp_input(std::int64_t layer) const {  // what norm2 normalises, (N, C)
    return config.parallel_block ? residual(layer) : act(buffers(layer).middle, config.channels);
  }
  GeluKind gelu_kind() const { return config.mlp == MlpType::gelu_erf ? GeluKind::erf : GeluKind::tanh; }
  void mlp_hidden(std::int64_t layer);
  void mlp_forward(std::int64_t layer);
  void mlp_backward(std::int64_t layer);
  void recompute(std::int64_t layer);
  void show_block(std::int64_t layer, ActivationObserver& observer) const;

  Ops& ops;
  ModelConfig config;
  DecoderOptions options;
  ParameterLayout layout;
  DType real;
  DecoderMemory memory;

  DecoderParameters weights;
  Tensor zero_logits;  // (H) real, sink logits that are fixed; not given otherwise

  std::int64_t B = 0, T = 0;     // of the last forward
  bool head_gradient = false;    // d_final holds the gradient of the last forward's loss
  ForwardEdits edits;            // of the last forward
  StepStatistics step_statistics;
  AttentionSums attention_sums;
};

// ---- layers, forward and backward side by side ---------------------------------------------------

void Decoder::State::norm_forward(const NormParameters& parameters, const Tensor& x, const Tensor& delta,
                                  const Tensor& sum, const Tensor& out, const NormStatistics& statistics,
                                  const Tensor& l2) {
  ops.norm_forward({.kind = norm_kind(),
                    .x = x,
                    .delta = delta,
                    .sum = sum,
                    .weight = parameters.weight.value,
                    .bias = parameters.bias.value,
                    .eps = static_cast<float>(config.norm_eps),
                    .out = out,
                    .mean = statistics.mean,
                    .rstd = statistics.rstd,
                    .l2 = l2});
}

void Decoder::State::norm_backward(const NormParameters& parameters, const Tensor& x, const Tensor& dout,
                                   const NormStatistics& statistics, const Tensor& dx, const Tensor& dx_sums) {
  ops.norm_backward({.kind = norm_kind(),
                     .x = x,
                     .dout = dout,
                     .weight = parameters.weight.value,
                     .mean = statistics.mean,
                     .rstd = statistics.rstd,
                     .dx = dx,
                     .dweight = parameters.weight.gradient,
                     .dbias = parameters.bias.gradient,
                     .dx_sums = dx_sums});
}

/// The gradient of the bias that a branch of a block adds to the residual stream: column sums of d_residual as the backward
/// pass of the norm behind it leaves it. In a parallel block, whose branches share d_residual, it is left to the branch.
Tensor Decoder::State::stream_bias(std::int64_t layer, Branch branch) const {
  if (layer < 0 || config.parallel_block) return {};
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  return (branch == Branch::mlp ? p.down : p.output).bias.gradient;
}

void Decoder::State::linear_forward(const LinearParameters& parameters, const Tensor& x, const Tensor& out) {
  ops.linear_forward({.out = out, .x = x, .weight = parameters.weight.value, .bias = parameters.bias.value});
}

void Decoder::State::linear_backward(const LinearParameters& parameters, const Tensor& x, const Tensor& dout,
                                     const Tensor& dx, const Tensor& dbias) {
  ops.linear_backward({.dout = dout,
                       .x = x,
                       .weight = parameters.weight.value,
                       .dx = dx,
                       .dweight = parameters.weight.gradient,
                       .dbias = dbias});
}

/// delta = W_o attention(rope(qk_norm(W_qkv norm1))), from norm1 (N, C) into attention_delta (N, C); the sink
/// scores into `sink` (B, H, K), unless it is not given.
void Decoder::State::attention_forward(std::int64_t layer, const Tensor& sink) {
  const StageRange range(ops, "attention", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t H = config.heads, G = config.kv_heads, D = config.head_dim;
  const Tensor qkv = act(b.qkv, (H + 2 * G) * D);
  if (config.qk_norm) {
    const Tensor raw = act(b.qkv_raw, (H + 2 * G) * D);
    linear_forward(p.qkv, act(b.norm1, config.channels), raw);
    ops.qk_norm_forward({.in = qkv_heads(raw),
                         .out = qkv_heads(qkv),
                         .query_heads = static_cast<int>(H),
                         .kv_heads = static_cast<int>(G),
                         .q_weight = p.q_norm.value,
                         .k_weight = p.k_norm.value,
                         .eps = static_cast<float>(config.norm_eps),
                         .rstd = act(b.qk_rstd, H + G)});
  } else {
    linear_forward(p.qkv, act(b.norm1, config.channels), qkv);
  }
  if (config.position == PositionEncoding::rope)
    ops.rope({.qkv = qkv_heads(qkv),
              .heads = static_cast<int>(H + G),
              .width = config.rotary_dim,
              .theta = config.rope_theta,
              .inverse = false,
              .first_index = edits.first_rotary_index});
  ops.attention_forward({.qkv = qkv_heads(qkv),
                         .query_heads = static_cast<int>(H),
                         .kv_heads = static_cast<int>(G),
                         .out = act(b.attention, H * D).view({B, T, H, D}),
                         .lse = memory.activations.tensor(b.lse, {B, H, T}),
                         .sink = sink,
                         .sink_logits = sink_logits(layer).value});
  if (layer < edits.isolation.layers)
    ops.isolate_query({.qkv = qkv_heads(qkv),
                       .query_heads = static_cast<int>(H),
                       .kv_heads = static_cast<int>(G),
                       .position = edits.isolation.position,
                       .out = act(b.attention, H * D).view({B, T, H, D}),
                       .lse = memory.activations.tensor(b.lse, {B, H, T}),
                       .sink = sink,
                       .sink_logits = sink_logits(layer).value});
  linear_forward(p.output, act(b.attention, H * D), tmp(memory.attention_delta, config.channels));
  knock_out(Branch::attention, layer, tmp(memory.attention_delta, config.channels));
}

/// d_attention (N, HD) from d_residual (N, C), the gradient of the branch's output: that of m^l, in a parallel
/// block that of h^l.
void Decoder::State::attention_output_backward(std::int64_t layer) {
  const StageRange range(ops, "attention output backward", layer);
  const std::int64_t width = config.heads * config.head_dim;
  const LinearParameters& output = weights.blocks[static_cast<std::size_t>(layer)].output;
  linear_backward(output, act(buffers(layer).attention, width), tmp(memory.d_residual, config.channels),
                  tmp(memory.d_attention, width), own_bias(output));
}

/// From d_attention (N, HD), adds what flows through the attention branch to d_residual (N, C).
void Decoder::State::attention_backward(std::int64_t layer) {
  const StageRange range(ops, "attention backward", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t H = config.heads, G = config.kv_heads, D = config.head_dim, C = config.channels;
  const Tensor qkv = qkv_heads(act(b.qkv, (H + 2 * G) * D));
  const Tensor d_qkv = tmp(memory.d_qkv, (H + 2 * G) * D);
  const Tensor d_attention = tmp(memory.d_attention, H * D);
  const Tensor d_residual = tmp(memory.d_residual, C), d_norm = tmp(memory.d_norm, C);

  ops.attention_backward({.qkv = qkv,
                          .query_heads = static_cast<int>(H),
                          .kv_heads = static_cast<int>(G),
                          .out = act(b.attention, H * D).view({B, T, H, D}),
                          .dout = d_attention.view({B, T, H, D}),
                          .lse = memory.activations.tensor(b.lse, {B, H, T}),
                          .dqkv = qkv_heads(d_qkv),
                          .sink_logits = sink_logits(layer).value,
                          .dsink_logits = sink_logits(layer).gradient});
  if (config.position == PositionEncoding::rope)
    ops.rope({.qkv = qkv_heads(d_qkv),
              .heads = static_cast<int>(H + G),
              .width = config.rotary_dim,
              .theta = config.rope_theta,
              .inverse = true});
  if (config.qk_norm)
    ops.qk_norm_backward({.in = qkv_heads(act(b.qkv_raw, (H + 2 * G) * D)),
                          .dqkv = qkv_heads(d_qkv),
                          .query_heads = static_cast<int>(H),
                          .kv_heads = static_cast<int>(G),
                          .q_weight = p.q_norm.value,
                          .k_weight = p.k_norm.value,
                          .rstd = act(b.qk_rstd, H + G),
                          .dq_weight = p.q_norm.gradient,
                          .dk_weight = p.k_norm.gradient});
  linear_backward(p.qkv, act(b.norm1, C), d_qkv, d_norm, p.qkv.bias.gradient);
  norm_backward(p.norm1, residual(layer), d_norm, norm_statistics(b.mean1, b.rstd1), d_residual, stream_bias(layer - 1, Branch::mlp));
}

void Decoder::State::begin_attention_sums() {
  if (!options.attention_sums)
    throw std::logic_error("Decoder::backward_with_attention_sums: the decoder's options ask for no attention sums");
  if (T < 2 || B > options.max_sequences)
    throw std::invalid_argument("Decoder::backward_with_attention_sums: a batch of " + std::to_string(B) + " x " +
                                std::to_string(T) + " tokens; expected at most " + std::to_string(options.max_sequences) +
                                " sequences of at least 2");
  attention_sums.begin(B, T);
}

/// Of the block's A, from qkv and lse.
void Decoder::State::add_attention_sums(std::int64_t layer) {
  const StageRange range(ops, "attention statistics", layer);
  const BlockBuffers& b = buffers(layer);
  const std::int64_t H = config.heads, G = config.kv_heads;
  const Tensor heads = memory.scratch.tensor(memory.head_statistics, {kHeadStatistics, B, H});
  const auto of_heads = [&](std::int64_t index) { return heads.rows(index, 1).view({B, H}); };
  const Tensor entropy = of_heads(0), key_mass = memory.scratch.tensor(memory.key_mass, {B, H, T});
  ops.attention_statistics({.qkv = qkv_heads(act(b.qkv, (H + 2 * G) * config.head_dim)),
                            .query_heads = static_cast<int>(H),
                            .kv_heads = static_cast<int>(G),
                            .lse = memory.activations.tensor(b.lse, {B, H, T}),
                            .sink = of_heads(1).view({B, H, 1}),
                            .first_mass = of_heads(2),
                            .first_argmax = of_heads(3),
                            .entropy = entropy,
                            .key_mass = key_mass,
                            .cos_first = of_heads(4),
                            .cos_rest = of_heads(5)});
  attention_sums.add(layer, entropy, key_mass);
}

/// act(W_up norm2), from norm2 (N, C).
void Decoder::State::mlp_hidden(std::int64_t layer) {
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t F = config.hidden;
  const Tensor act_out = act(b.act, F), norm2 = act(b.norm2, config.channels);
  if (config.mlp == MlpType::swiglu) {
    const Tensor gate_up = act(b.up, 2 * F);
    linear_forward(p.up, norm2, gate_up);
    ops.swiglu_forward({.gate_up = gate_up, .out = act_out});
  } else {
    ops.linear_forward({.out = act(b.up, F),
                        .x = norm2,
                        .weight = p.up.weight.value,
                        .bias = p.up.bias.value,
                        .gelu = act_out,
                        .gelu_kind = gelu_kind()});
  }
}

/// delta = W_down act(W_up norm2), from norm2 (N, C) into mlp_delta (N, C).
void Decoder::State::mlp_forward(std::int64_t layer) {
  const StageRange range(ops, "mlp", layer);
  mlp_hidden(layer);
  linear_forward(weights.blocks[static_cast<std::size_t>(layer)].down, act(buffers(layer).act, config.hidden),
                 tmp(memory.mlp_delta, config.channels));
  knock_out(Branch::mlp, layer, tmp(memory.mlp_delta, config.channels));
}

/// From d_residual (N, C), the gradient of h^l, adds what flows through the MLP branch to it.
void Decoder::State::mlp_backward(std::int64_t layer) {
  const StageRange range(ops, "mlp backward", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t F = config.hidden, C = config.channels;
  const Tensor d_residual = tmp(memory.d_residual, C), d_norm = tmp(memory.d_norm, C);
  const std::int64_t up_width = config.mlp == MlpType::swiglu ? 2 * F : F;
  const Tensor up = act(b.up, up_width), d_up = tmp(memory.d_up, up_width);

  if (config.mlp == MlpType::swiglu) {
    const Tensor d_act = tmp(memory.d_act, F);
    linear_backward(p.down, act(b.act, F), d_residual, d_act, own_bias(p.down));
    ops.swiglu_backward({.gate_up = up, .dout = d_act, .dgate_up = d_up});
  } else {
    ops.linear_backward({.dout = d_residual,
                         .x = act(b.act, F),
                         .weight = p.down.weight.value,
                         .dx = d_up,
                         .dweight = p.down.weight.gradient,
                         .dbias = own_bias(p.down),
                         .gelu_input = up,
                         .gelu_kind = gelu_kind()});
  }
  linear_backward(p.up, act(b.norm2, C), d_up, d_norm, p.up.bias.gradient);
  norm_backward(p.norm2, mlp_input(layer), d_norm, norm_statistics(b.mean2, b.rstd2), d_residual, stream_bias(layer, Branch::attention));
}

/// Fills the buffers that backward reads of this block and that later blocks have used since: by the same
/// operations on the same values as in forward, so with the same bits.
void Decoder::State::recompute(std::int64_t layer) {
  if (options.recompute == Recompute::none || layer == config.layers - 1) return;  // the last block's are still there
  const StageRange range(ops, "recompute", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t C = config.channels;
  const Tensor norm2 = act(b.norm2, C);
  const NormStatistics statistics = norm_statistics(b.mean2, b.rstd2);
  if (options.recompute == Recompute::block) {
    norm_forward(p.norm1, residual(layer), {}, {}, act(b.norm1, C), norm_statistics(b.mean1, b.rstd1), {});
    attention_forward(layer, {});
  }
  if (options.recompute == Recompute::block && !config.parallel_block)
    norm_forward(p.norm2, residual(layer), tmp(memory.attention_delta, C), act(b.middle, C), norm2, statistics, {});
  else
    norm_forward(p.norm2, mlp_input(layer), {}, {}, norm2, statistics, {});
  mlp_hidden(layer);
}

void Decoder::State::knock_out(Branch branch, std::int64_t layer, const Tensor& delta) {
  if (edits.knock_out.layer == layer && edits.knock_out.branch == branch) set_position(ops, delta, B, edits.knock_out.position, {});
}

/// Whether h^layer (N, C) was changed.
bool Decoder::State::transplant(std::int64_t layer) {
  if (edits.transplant.layer != layer) return false;
  set_position(ops, residual(layer + 1), B, edits.transplant.position, edits.transplant.vector);
  return true;
}

void Decoder::State::show_block(std::int64_t layer, ActivationObserver& observer) const {
  const BlockBuffers& b = buffers(layer);
  observer.block({.layer = layer,
                  .input = residual(layer),
                  .qkv = qkv_heads(act(b.qkv, (config.heads + 2 * config.kv_heads) * config.head_dim)),
                  .lse = memory.activations.tensor(b.lse, {B, config.heads, T}),
                  .sink_logits = sink_logits(layer).value,
                  .attention_output = tmp(memory.attention_delta, config.channels),
                  .middle = act(b.middle, config.channels),
                  .mlp_output = tmp(memory.mlp_delta, config.channels),
                  .output = residual(layer + 1)});
}

void Decoder::State::check_batch(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs) const {
  const auto fail = [&](const std::string& message) {
    throw std::invalid_argument("Decoder::forward: a batch of " + std::to_string(sequences) + " x " +
                                std::to_string(length) + " tokens " + message);
  };
  if (sequences < 1 || length < 1) fail("is empty");
  if (length > options.max_length)
    fail("is longer than the " + std::to_string(options.max_length) + " positions planned for");
  if (sequences > memory.rows / length)
    fail("does not fit into the " + std::to_string(memory.rows) + " rows planned for");
  if (config.position == PositionEncoding::learned && length > config.max_sequence_length)
    fail("is longer than the " + std::to_string(config.max_sequence_length) + " learned positions");
  if (length < options.sink_positions)
    fail("is shorter than the " + std::to_string(options.sink_positions) + " sink positions that are watched");
  for (std::int64_t i = 0; i < sequences * length; ++i)
    if (inputs[i] < 0 || inputs[i] >= config.vocab_size)
      fail("holds token " + std::to_string(inputs[i]) + " at index " + std::to_string(i) +
           "; the vocabulary has " + std::to_string(config.vocab_size));
}

// ---- the public interface ------------------------------------------------------------------------

Decoder::Decoder(Ops& ops, const ModelConfig& config, const DecoderOptions& options)
    : state_(std::make_unique<State>(ops, config, options)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

const ModelConfig& Decoder::config() const { return state_->config; }
const DecoderOptions& Decoder::options() const { return state_->options; }
const ParameterLayout& Decoder::layout() const { return state_->layout; }

Tensor Decoder::parameters() const {
  return state_->memory.parameters.tensor(state_->memory.parameter_flat, {state_->layout.flat_size()});
}

Tensor Decoder::gradients() const {
  if (!state_->options.training) throw std::logic_error("Decoder::gradients: the decoder is not for training");
  return state_->memory.gradients.tensor(state_->memory.gradient_flat, {state_->layout.flat_size()});
}

Tensor Decoder::parameter(const ParameterSpec& spec) const { return parameter_view(parameters(), spec); }

void Decoder::zero_gradients() { state_->ops.zero(gradients()); }

void Decoder::forward(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs,
                      ActivationObserver* observer, const ForwardEdits& edits) {
  State& s = *state_;
  s.check_batch(sequences, length, inputs);
  check_edits(edits, s.config, s.real, length);
  const StageRange range(s.ops, "forward");
  s.B = sequences;
  s.T = length;
  s.head_gradient = false;
  s.edits = edits;
  const std::int64_t C = s.config.channels, L = s.config.layers;
  auto embedding = std::make_optional<StageRange>(s.ops, "embedding");
  const Tensor tokens = s.memory.scratch.tensor(s.memory.tokens, {s.B, s.T});
  s.ops.copy_from_host(tokens, inputs);
  s.ops.embedding_forward({.out = s.residual(0),
                           .tokens = tokens,
                           .wte = s.weights.token_embedding.value,
                           .wpe = s.weights.position_embedding.value});
  embedding.reset();
  if (observer != nullptr) observer->embedding(s.residual(0));

  const Tensor attention_delta = s.tmp(s.memory.attention_delta, C), mlp_delta = s.tmp(s.memory.mlp_delta, C);
  // Norms add the branch before them to the residual stream and measure it: h^(l-1) = m^(l-1) + mlp.
  const auto norm_of_residual = [&](std::int64_t layer, const NormParameters& parameters, const Tensor& out,
                                    const NormStatistics& statistics) {
    const Tensor h = s.residual(layer);
    if (layer == 0) {
      s.norm_forward(parameters, h, {}, {}, out, statistics, s.norm_row(0));
      return;
    }
    s.norm_forward(parameters, s.act(s.buffers(layer - 1).middle, C), mlp_delta, h, out, statistics,
                   s.norm_row(layer));
    if (s.transplant(layer - 1)) s.norm_forward(parameters, h, {}, {}, out, statistics, s.norm_row(layer));
    if (observer != nullptr) s.show_block(layer - 1, *observer);
  };
  for (std::int64_t layer = 0; layer < L; ++layer) {
    const BlockParameters& p = s.weights.blocks[static_cast<std::size_t>(layer)];
    const BlockBuffers& b = s.buffers(layer);
    norm_of_residual(layer, p.norm1, s.act(b.norm1, C), s.norm_statistics(b.mean1, b.rstd1));
    s.attention_forward(layer, s.sink_block(layer));
    const Tensor middle = s.act(b.middle, C), norm2 = s.act(b.norm2, C);
    const NormStatistics statistics2 = s.norm_statistics(b.mean2, b.rstd2);
    if (s.config.parallel_block) {
      s.ops.add(middle, s.residual(layer), attention_delta);
      s.norm_forward(p.norm2, s.residual(layer), {}, {}, norm2, statistics2, {});
    } else {
      s.norm_forward(p.norm2, s.residual(layer), attention_delta, middle, norm2, statistics2, {});
    }
    s.mlp_forward(layer);
  }
  norm_of_residual(L, s.weights.final_norm, s.final_norm_output(),
                   s.norm_statistics(s.memory.final_mean, s.memory.final_rstd));
}

void Decoder::loss(const std::int32_t* targets, float* losses, float gradient_scale) {
  State& s = *state_;
  if (s.B == 0) throw std::logic_error("Decoder::loss: no forward pass came before");
  if (gradient_scale > 0 && !s.options.training)
    throw std::logic_error("Decoder::loss: gradients asked of a decoder that is not for training");
  if (gradient_scale > 0 && s.edits.any())
    throw std::logic_error("Decoder::loss: gradients asked of a forward pass with edits");
  const std::int64_t N = s.rows(), C = s.config.channels, V = s.config.vocab_size;
  for (std::int64_t i = 0; i < N; ++i)
    if (targets[i] < -1 || targets[i] >= V)
      throw std::invalid_argument("Decoder::loss: target " + std::to_string(targets[i]) + " at index " +
                                  std::to_string(i) + "; expected -1 or one of " + std::to_string(V) + " tokens");
  const StageRange range(s.ops, "loss");
  const Tensor all_targets = s.memory.scratch.tensor(s.memory.targets, {N});
  const Tensor all_losses = s.memory.scratch.tensor(s.memory.losses, {N});
  s.ops.copy_from_host(all_targets, targets);
  const Tensor x = s.final_norm_output();
  for (std::int64_t begin = 0; begin < N; begin += s.memory.head_rows) {
    const std::int64_t count = std::min(s.memory.head_rows, N - begin);
    const Tensor logits = s.memory.scratch.tensor(s.memory.logits, {count, V});
    s.ops.linear_forward({.out = logits, .x = x.rows(begin, count), .weight = s.head().value, .bias = {}});
    s.ops.cross_entropy({.logits = logits,
                         .targets = all_targets.rows(begin, count),
                         .losses = all_losses.rows(begin, count),
                         .gradient = gradient_scale > 0,
                         .scale = gradient_scale});
    if (gradient_scale > 0)
      s.ops.linear_backward({.dout = logits,
                             .x = x.rows(begin, count),
                             .weight = s.head().value,
                             .dx = s.tmp(s.memory.d_final, C).rows(begin, count),
                             .dweight = s.head().gradient,
                             .dbias = {}});
  }
  s.head_gradient = gradient_scale > 0;
  s.ops.copy_to_host(losses, all_losses);
}

void Decoder::State::backward(const GradientsReady& ready, bool sum_attention) {
  if (!head_gradient) throw std::logic_error("Decoder::backward: no loss with a gradient scale came before it");
  if (sum_attention) begin_attention_sums();
  head_gradient = false;
  const StageRange range(ops, "backward");
  const std::int64_t C = config.channels, L = config.layers;
  const Tensor d_residual = tmp(memory.d_residual, C);
  ops.zero(d_residual);
  norm_backward(weights.final_norm, residual(L), tmp(memory.d_final, C),
                norm_statistics(memory.final_mean, memory.final_rstd), d_residual, stream_bias(L - 1, Branch::mlp));
  if (ready) ready(layout.find("final_norm.weight").offset);
  for (std::int64_t layer = L - 1; layer >= 0; --layer) {
    recompute(layer);
    if (sum_attention) add_attention_sums(layer);
    // In a parallel block both branches take the gradient of the block's output, before a norm adds to it.
    if (config.parallel_block) attention_output_backward(layer);
    mlp_backward(layer);
    if (!config.parallel_block) attention_output_backward(layer);
    attention_backward(layer);
    if (ready) ready(layout.block_begin(layer));
  }
  const StageRange embedding(ops, "embedding backward");
  ops.embedding_backward({.dout = d_residual,
                          .tokens = memory.scratch.tensor(memory.tokens, {B, T}),
                          .dwte = weights.token_embedding.gradient,
                          .dwpe = weights.position_embedding.gradient});
  if (ready) ready(0);
}

void Decoder::backward(const GradientsReady& ready) { state_->backward(ready, false); }

void Decoder::backward_with_attention_sums(const GradientsReady& ready) { state_->backward(ready, true); }

void Decoder::logits(std::int64_t row, float* out) {
  State& s = *state_;
  if (s.B == 0) throw std::logic_error("Decoder::logits: no forward pass came before");
  const Tensor logits = s.memory.scratch.tensor(s.memory.logits, {1, s.config.vocab_size});
  s.ops.linear_forward({.out = logits, .x = s.final_norm_output().rows(row, 1), .weight = s.head().value, .bias = {}});
  if (s.real == DType::f32) {
    s.ops.copy_to_host(out, logits);
    return;
  }
  const Tensor wide = s.memory.scratch.tensor(s.memory.logits_f32, {1, s.config.vocab_size});
  s.ops.convert(wide, logits);
  s.ops.copy_to_host(out, wide);
}

std::vector<float> Decoder::sink_scores() const {
  const State& s = *state_;
  if (s.options.sink_positions == 0 || s.B == 0) return {};
  const Tensor scores = s.sinks();
  std::vector<float> out(static_cast<std::size_t>(scores.size()));
  s.ops.copy_to_host(out.data(), scores);
  return out;
}

std::vector<float> Decoder::residual_norms() const {
  const State& s = *state_;
  if (!s.options.residual_norms || s.B == 0) return {};
  const Tensor norms = s.norms();
  std::vector<float> out(static_cast<std::size_t>(norms.size()));
  s.ops.copy_to_host(out.data(), norms);
  return out;
}

void Decoder::zero_step_sums() {
  state_->step_statistics.zero();
  state_->attention_sums.forget();
}

void Decoder::add_step_sums(double threshold) {
  State& s = *state_;
  if (s.B == 0) throw std::logic_error("Decoder::add_step_sums: no forward pass came before");
  if (s.options.sink_positions > 0) s.step_statistics.add(s.sinks(), s.options.residual_norms ? s.norms() : Tensor(), threshold);
}

StepSums Decoder::step_sums() const {
  StepSums sums = state_->step_statistics.read();
  state_->attention_sums.read(sums);
  return sums;
}

}  // namespace sinkscope
