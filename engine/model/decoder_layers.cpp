// The layers of a decoder, forward and backward side by side.
#include <stdexcept>
#include <string>

#include "engine/model/decoder_state.h"

namespace sinkscope {

/// A norm without the rows that it is of.
NormForward Decoder::State::norm_of(const NormParameters& parameters, const Tensor& out,
                                    const NormStatistics& statistics, const Tensor& l2) const {
  return {.kind = norm_kind(),
          .weight = parameters.weight.value,
          .bias = parameters.bias.value,
          .eps = static_cast<float>(config.norm_eps),
          .out = out,
          .mean = statistics.mean,
          .rstd = statistics.rstd,
          .l2 = l2};
}

void Decoder::State::norm_forward(const NormParameters& parameters, const Tensor& x, const Tensor& delta,
                                  const Tensor& sum, const Tensor& out, const NormStatistics& statistics,
                                  const Tensor& l2) {
  NormForward norm = norm_of(parameters, out, statistics, l2);
  norm.x = x;
  norm.delta = delta;
  norm.sum = sum;
  ops.norm_forward(norm);
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

/// The gradient of the bias that a branch of a block adds to the residual stream: column sums of d_residual as the
/// backward pass of the norm behind it leaves it. In a parallel block, whose branches share d_residual, it is left to
/// the branch.
Tensor Decoder::State::stream_bias(std::int64_t layer, Branch branch) const {
  if (layer < 0 || config.parallel_block) return {};
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  return (branch == Branch::mlp ? p.down : p.output).bias.gradient;
}

void Decoder::State::linear_forward(const LinearParameters& parameters, const Fp8Linear& scales, const Tensor& x,
                                    const Tensor& out) {
  ops.linear_forward(
      {.out = out, .x = x, .weight = parameters.weight.value, .bias = parameters.bias.value, .fp8 = scales});
}

void Decoder::State::linear_backward(const LinearParameters& parameters, const Fp8Linear& scales, const Tensor& x,
                                     const Tensor& dout, const Tensor& dx, const Tensor& dbias) {
  ops.linear_backward({.dout = dout,
                       .x = x,
                       .weight = parameters.weight.value,
                       .dx = dx,
                       .dweight = parameters.weight.gradient,
                       .dbias = dbias,
                       .replace = replace,
                       .fp8 = scales});
}

/// delta = W_o attention(rope(qk_norm(W_qkv norm1))), from norm1 (N, C) into attention_delta (N, C); the sink
/// scores into `sink` (B, H, K), unless it is not given.
void Decoder::State::attention_forward(std::int64_t layer, const Tensor& sink) {
  const StageRange range(ops, "attention", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t H = config.heads, G = config.kv_heads, D = config.head_dim;
  const Tensor qkv = act(b.qkv, (H + 2 * G) * D);
  const std::optional<Rotation> rotation = head_rotation(edits.first_rotary_index);
  if (config.qk_norm) {
    const Tensor raw = act(b.qkv_raw, (H + 2 * G) * D);
    linear_forward(p.qkv, fp8.of(layer, BlockMap::qkv), act(b.norm1, config.channels), raw);
    ops.qk_norm_forward({.in = qkv_heads(raw),
                         .out = qkv_heads(qkv),
                         .query_heads = static_cast<int>(H),
                         .kv_heads = static_cast<int>(G),
                         .q_weight = p.q_norm.value,
                         .k_weight = p.k_norm.value,
                         .eps = static_cast<float>(config.norm_eps),
                         .rstd = act(b.qk_rstd, H + G),
                         .rotation = rotation});
  } else {
    linear_forward(p.qkv, fp8.of(layer, BlockMap::qkv), act(b.norm1, config.channels), qkv);
    if (rotation)
      ops.rope({.qkv = qkv_heads(qkv),
                .heads = static_cast<int>(H + G),
                .width = rotation->width,
                .theta = rotation->theta,
                .inverse = false,
                .first_index = rotation->first_index});
  }
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
  linear_forward(p.output, fp8.of(layer, BlockMap::output), act(b.attention, H * D),
                 tmp(memory.attention_delta, config.channels));
  knock_out(Branch::attention, layer, tmp(memory.attention_delta, config.channels));
}

/// d_attention (N, HD) from d_residual (N, C), the gradient of the branch's output: that of m^l, in a parallel
/// block that of h^l.
void Decoder::State::attention_output_backward(std::int64_t layer) {
  const StageRange range(ops, "attention output backward", layer);
  const std::int64_t width = config.heads * config.head_dim;
  const LinearParameters& output = weights.blocks[static_cast<std::size_t>(layer)].output;
  linear_backward(output, fp8.of(layer, BlockMap::output), act(buffers(layer).attention, width),
                  tmp(memory.d_residual, config.channels), tmp(memory.d_attention, width), own_bias(output));
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
  const std::optional<Rotation> rotation = head_rotation(0);
  const bool normed = config.qk_norm;  // else d_qkv is the gradient of what the linear map gave

  ops.attention_backward({.qkv = qkv,
                          .query_heads = static_cast<int>(H),
                          .kv_heads = static_cast<int>(G),
                          .out = act(b.attention, H * D).view({B, T, H, D}),
                          .dout = d_attention.view({B, T, H, D}),
                          .lse = memory.activations.tensor(b.lse, {B, H, T}),
                          .dqkv = qkv_heads(d_qkv),
                          .sink_logits = sink_logits(layer).value,
                          .dsink_logits = sink_logits(layer).gradient,
                          .dqkv_sums = normed ? Tensor() : p.qkv.bias.gradient,
                          .rotation = normed ? std::nullopt : rotation});
  if (normed)
    ops.qk_norm_backward({.in = qkv_heads(act(b.qkv_raw, (H + 2 * G) * D)),
                          .dqkv = qkv_heads(d_qkv),
                          .query_heads = static_cast<int>(H),
                          .kv_heads = static_cast<int>(G),
                          .q_weight = p.q_norm.value,
                          .k_weight = p.k_norm.value,
                          .rstd = act(b.qk_rstd, H + G),
                          .dq_weight = p.q_norm.gradient,
                          .dk_weight = p.k_norm.gradient,
                          .rotation = rotation});
  linear_backward(p.qkv, fp8.of(layer, BlockMap::qkv), act(b.norm1, C), d_qkv, d_norm,
                  normed ? p.qkv.bias.gradient : Tensor());
  norm_backward(p.norm1, residual(layer), d_norm, norm_statistics(b.mean1, b.rstd1), d_residual,
                stream_bias(layer - 1, Branch::mlp));
}

void Decoder::State::begin_attention_sums() {
  if (!options.attention_sums)
    throw std::logic_error("Decoder::backward_with_attention_sums: the decoder's options ask for no attention sums");
  if (T < 2 || B > options.max_sequences)
    throw std::invalid_argument("Decoder::backward_with_attention_sums: a batch of " + std::to_string(B) + " x " +
                                std::to_string(T) + " tokens; expected at most " +
                                std::to_string(options.max_sequences) + " sequences of at least 2");
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
  const bool gated = config.mlp == MlpType::swiglu;
  ops.linear_forward({.out = act(b.up, gated ? 2 * F : F),
                      .x = norm2,
                      .weight = p.up.weight.value,
                      .bias = p.up.bias.value,
                      .gelu = gated ? Tensor() : act_out,
                      .gelu_kind = gelu_kind(),
                      .swiglu = gated ? act_out : Tensor(),
                      .fp8 = fp8.of(layer, BlockMap::up)});
}

/// delta = W_down act(W_up norm2), from norm2 (N, C) into mlp_delta (N, C).
void Decoder::State::mlp_forward(std::int64_t layer) {
  const StageRange range(ops, "mlp", layer);
  mlp_hidden(layer);
  linear_forward(weights.blocks[static_cast<std::size_t>(layer)].down, fp8.of(layer, BlockMap::down),
                 act(buffers(layer).act, config.hidden), tmp(memory.mlp_delta, config.channels));
  knock_out(Branch::mlp, layer, tmp(memory.mlp_delta, config.channels));
}

/// From d_residual (N, C), the gradient of h^l, adds what flows through the MLP branch to it.
void Decoder::State::mlp_backward(std::int64_t layer) {
  const StageRange range(ops, "mlp backward", layer);
  const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
  const BlockBuffers& b = buffers(layer);
  const std::int64_t F = config.hidden, C = config.channels;
  const Tensor d_residual = tmp(memory.d_residual, C), d_norm = tmp(memory.d_norm, C);
  const bool gated = config.mlp == MlpType::swiglu;
  const std::int64_t up_width = gated ? 2 * F : F;
  const Tensor up = act(b.up, up_width), d_up = tmp(memory.d_up, up_width);

  ops.linear_backward({.dout = d_residual,
                       .x = act(b.act, F),
                       .weight = p.down.weight.value,
                       .dx = gated ? tmp(memory.d_act, F) : d_up,
                       .dweight = p.down.weight.gradient,
                       .dbias = own_bias(p.down),
                       .gelu_input = gated ? Tensor() : up,
                       .gelu_kind = gelu_kind(),
                       .dx_sums = gated ? Tensor() : p.up.bias.gradient,
                       .swiglu_input = gated ? up : Tensor(),
                       .dswiglu_input = gated ? d_up : Tensor(),
                       .replace = replace,
                       .fp8 = fp8.of(layer, BlockMap::down)});
  linear_backward(p.up, fp8.of(layer, BlockMap::up), act(b.norm2, C), d_up, d_norm,
                  gated ? p.up.bias.gradient : Tensor());
  norm_backward(p.norm2, mlp_input(layer), d_norm, norm_statistics(b.mean2, b.rstd2), d_residual,
                stream_bias(layer, Branch::attention));
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
  if (edits.knock_out.layer == layer && edits.knock_out.branch == branch)
    set_position(ops, delta, B, edits.knock_out.position, {});
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

}  // namespace sinkscope
