#include "engine/model/decoder.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/model/decoder_state.h"

namespace sinkscope {

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

Decoder::Decoder(Ops& ops, const ModelConfig& config, const DecoderOptions& options)
    : state_(std::make_unique<State>(ops, config, options)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;

const ModelConfig& Decoder::config() const { return state_->config; }
const DecoderOptions& Decoder::options() const { return state_->options; }
const ParameterLayout& Decoder::layout() const { return state_->layout; }

Tensor Decoder::parameters() const {
  if (state_->options.parameters_by_section)
    throw std::logic_error("Decoder::parameters: the decoder has its parameters by section");
  return state_->memory.parameters.tensor(state_->memory.parameter_flat, {state_->layout.flat_size()});
}

Tensor Decoder::section_parameters(std::int64_t section) const { return state_->section_parameters(section); }

Tensor Decoder::gradients() const {
  if (!state_->options.training) throw std::logic_error("Decoder::gradients: the decoder is not for training");
  if (state_->options.gradients_by_section)
    throw std::logic_error("Decoder::gradients: the decoder has its gradients by section");
  return state_->memory.gradients.tensor(state_->memory.gradient_flat, {state_->layout.flat_size()});
}

Tensor Decoder::section_gradients(std::int64_t section) const {
  if (!state_->options.training) throw std::logic_error("Decoder::section_gradients: the decoder is not for training");
  return state_->section_gradients(section);
}

Tensor Decoder::gradient_memory() const {
  if (!state_->options.gradients_by_section) return gradients();
  Tensor largest = section_gradients(0);
  for (std::int64_t section = 1; section < std::ssize(state_->layout.sections()); ++section)
    if (const Tensor other = section_gradients(section); other.size() > largest.size()) largest = other;
  return largest;
}

Tensor Decoder::parameter(const ParameterSpec& spec) const { return shaped(state_->value_of(spec), spec); }

void Decoder::zero_gradients() { state_->ops.zero(gradients()); }

void Decoder::replace_gradients() {
  State& s = *state_;
  if (!s.options.training) throw std::logic_error("Decoder::replace_gradients: the decoder is not for training");
  s.replace = true;
  if (!s.options.gradients_by_section) s.zero_added(gradients(), {.begin = 0, .size = s.layout.flat_size()});
}

void Decoder::zero_added(std::int64_t section) {
  state_->zero_added(section_gradients(section), state_->layout.sections()[static_cast<std::size_t>(section)]);
}

/// Between the products of a part of the flat array, whose gradients these are.
void Decoder::State::zero_added(const Tensor& gradients, const Section& part) const {
  std::vector<Tensor> between;
  std::int64_t from = 0;  // of what is not among them yet
  const auto zero_to = [&](std::int64_t end) {
    if (end > from) between.push_back(gradients.rows(from, end - from));
  };
  for (const ParameterSpec& spec : layout.specs()) {
    if (spec.offset < part.begin || spec.offset >= part.begin + part.size || !is_product(spec)) continue;
    zero_to(spec.offset - part.begin);
    from = spec.offset - part.begin + spec.size;
  }
  zero_to(gradients.size());
  ops.zero_each(between);
}

/// Whether a pass gives the whole gradient by one product, before anything else is added to it.
bool Decoder::State::is_product(const ParameterSpec& spec) const {
  return spec.shape.size() == 2 &&
         (spec.group != ParameterGroup::embedding || (config.tied_embedding && spec.offset == 0));
}

void Decoder::set_parameter_source(ParameterSource& source) { state_->source = &source; }

void Decoder::for_each_parameter(const std::function<void(const ParameterSpec&, const Tensor&)>& visit) {
  State& s = *state_;
  const std::vector<ParameterSpec>& specs = s.layout.specs();
  auto spec = specs.begin();
  for (std::int64_t section = 0; section < std::ssize(s.layout.sections()); ++section) {
    s.need(section);
    for (; spec != specs.end() && s.layout.section_of(*spec) == section; ++spec) visit(*spec, parameter(*spec));
    s.expect(section + 1);
  }
  if (s.source != nullptr) s.source->end_forward();
}

void Decoder::State::need(std::int64_t section) const {
  if (source != nullptr) source->need(section);
}

void Decoder::State::expect(std::int64_t section) const {
  if (source != nullptr && section > 0 && section < std::ssize(layout.sections())) source->expect(section);
}

void Decoder::forward(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs,
                      ActivationObserver* observer, const ForwardEdits& edits) {
  State& s = *state_;
  s.check_batch(sequences, length, inputs);
  check_edits(edits, s.config, s.real, length);
  if (s.options.parameters_by_section && s.source == nullptr)
    throw std::logic_error("Decoder::forward: the decoder has its parameters by section, and no source of them");
  const StageRange range(s.ops, "forward");
  if (s.source != nullptr) s.source->begin_forward();
  s.B = sequences;
  s.T = length;
  s.head_gradient = false;
  s.edits = edits;
  s.ops.copy_from_host(s.memory.scratch.tensor(s.memory.tokens, {s.B, s.T}), inputs);
  if (observer != nullptr || edits.any())
    s.forward(observer);  // the host has a part in it
  else
    s.repeat(State::Pass::forward, 0, [&s] { s.forward(nullptr); });
}

/// From the tokens on.
void Decoder::State::forward(ActivationObserver* observer) {
  const std::int64_t C = config.channels, L = config.layers;
  auto embedding = std::make_optional<StageRange>(ops, "embedding");
  const Tensor tokens = memory.scratch.tensor(memory.tokens, {B, T});
  need(0);
  expect(1);
  need(1);
  const BlockBuffers& first = buffers(0);
  ops.embedding_forward({.out = residual(0),
                         .tokens = tokens,
                         .wte = weights.token_embedding.value,
                         .wpe = weights.position_embedding.value,
                         .norm = norm_of(weights.blocks[0].norm1, act(first.norm1, C),
                                         norm_statistics(first.mean1, first.rstd1), norm_row(0))});
  embedding.reset();
  if (observer != nullptr) observer->embedding(residual(0));

  const Tensor attention_delta = tmp(memory.attention_delta, C), mlp_delta = tmp(memory.mlp_delta, C);
  // Norms add the branch before them to the residual stream and measure it: h^(l-1) = m^(l-1) + mlp.
  const auto norm_of_residual = [&](std::int64_t layer, const NormParameters& parameters, const Tensor& out,
                                    const NormStatistics& statistics) {
    const Tensor h = residual(layer);
    norm_forward(parameters, act(buffers(layer - 1).middle, C), mlp_delta, h, out, statistics, norm_row(layer));
    if (transplant(layer - 1)) norm_forward(parameters, h, {}, {}, out, statistics, norm_row(layer));
    if (observer != nullptr) show_block(layer - 1, *observer);
  };
  for (std::int64_t layer = 0; layer < L; ++layer) {
    const BlockParameters& p = weights.blocks[static_cast<std::size_t>(layer)];
    const BlockBuffers& b = buffers(layer);
    if (layer > 0) {
      need(layer + 1);
      norm_of_residual(layer, p.norm1, act(b.norm1, C), norm_statistics(b.mean1, b.rstd1));
    }
    expect(layer + 2);  // now that the observer has seen the block before
    attention_forward(layer, sink_block(layer));
    const Tensor middle = act(b.middle, C), norm2 = act(b.norm2, C);
    const NormStatistics statistics2 = norm_statistics(b.mean2, b.rstd2);
    if (config.parallel_block) {
      ops.add(middle, residual(layer), attention_delta);
      norm_forward(p.norm2, residual(layer), {}, {}, norm2, statistics2, {});
    } else {
      norm_forward(p.norm2, residual(layer), attention_delta, middle, norm2, statistics2, {});
    }
    mlp_forward(layer);
  }
  need(L + 1);
  norm_of_residual(L, weights.final_norm, final_norm_output(), norm_statistics(memory.final_mean, memory.final_rstd));
  if (source != nullptr) source->end_forward();
}

void Decoder::loss(const std::int32_t* targets, float* losses, float gradient_scale) {
  loss_later(targets, losses, gradient_scale)();
}

std::function<void()> Decoder::loss_later(const std::int32_t* targets, float* losses, float gradient_scale) {
  State& s = *state_;
  if (s.B == 0) throw std::logic_error("Decoder::loss: no forward pass came before");
  if (gradient_scale > 0 && !s.options.training)
    throw std::logic_error("Decoder::loss: gradients asked of a decoder that is not for training");
  if (gradient_scale > 0 && s.edits.any())
    throw std::logic_error("Decoder::loss: gradients asked of a forward pass with edits");
  const std::int64_t N = s.rows(), V = s.config.vocab_size;
  for (std::int64_t i = 0; i < N; ++i)
    if (targets[i] < -1 || targets[i] >= V)
      throw std::invalid_argument("Decoder::loss: target " + std::to_string(targets[i]) + " at index " +
                                  std::to_string(i) + "; expected -1 or one of " + std::to_string(V) + " tokens");
  const StageRange range(s.ops, "loss");
  s.ops.copy_from_host(s.memory.scratch.tensor(s.memory.targets, {N}), targets);
  s.repeat(State::Pass::loss, gradient_scale, [&s, gradient_scale] { s.loss(gradient_scale); });
  s.head_gradient = gradient_scale > 0;
  return s.ops.copy_to_host_later(losses, s.memory.scratch.tensor(s.memory.losses, {N}));
}

/// Of the last forward pass, chunk by chunk of its logits.
void Decoder::State::loss(float gradient_scale) {
  const std::int64_t N = rows(), C = config.channels, V = config.vocab_size;
  const Tensor all_targets = memory.scratch.tensor(memory.targets, {N}),
               all_losses = memory.scratch.tensor(memory.losses, {N});
  const Tensor x = final_norm_output();
  for (std::int64_t begin = 0; begin < N; begin += memory.head_rows) {
    const std::int64_t count = std::min(memory.head_rows, N - begin);
    const Tensor logits = memory.scratch.tensor(memory.logits, {count, V});
    ops.linear_forward({.out = logits, .x = x.rows(begin, count), .weight = head().value, .bias = {}});
    ops.cross_entropy({.logits = logits,
                       .targets = all_targets.rows(begin, count),
                       .losses = all_losses.rows(begin, count),
                       .gradient = gradient_scale > 0,
                       .scale = gradient_scale});
    if (gradient_scale > 0)
      ops.linear_backward({.dout = logits,
                           .x = x.rows(begin, count),
                           .weight = head().value,
                           .dx = tmp(memory.d_final, C).rows(begin, count),
                           .dweight = head().gradient,
                           .dbias = {},
                           .replace = replace && begin == 0});
  }
}

void Decoder::State::backward(const BackwardHooks& hooks, bool sum_attention) {
  if (!head_gradient) throw std::logic_error("Decoder::backward: no loss with a gradient scale came before it");
  if (sum_attention) begin_attention_sums();
  head_gradient = false;
  const StageRange range(ops, "backward");
  if (hooks.open || hooks.close || sum_attention)
    backward_pass(hooks, sum_attention);
  else
    repeat(Pass::backward, 0, [this] { backward_pass({}, false); });
  replace = false;
}

void Decoder::State::repeat(Pass pass, float scale, const std::function<void()>& operations) {
  // Sampled text goes forward once at each of many lengths: those of whole sequences alone are worth keeping.
  const bool asks = source != nullptr && !source->has_all();
  if (!options.recorded || asks || T != options.max_length) return operations();
  std::unique_ptr<RepeatedWork>& work = repeated[{.pass = pass, .sequences = B, .length = T, .scale = scale,
                                                  .replace = replace && pass != Pass::forward, .fp8 = fp8.set()}];
  if (!work) work = ops.repeated_work();
  work->run(operations);
}

void Decoder::State::backward_pass(const BackwardHooks& hooks, bool sum_attention) {
  const std::int64_t C = config.channels, L = config.layers;
  const Tensor d_residual = tmp(memory.d_residual, C);
  const auto tell = [](const std::function<void(std::int64_t)>& hook, std::int64_t section) {
    if (hook) hook(section);
  };
  ops.zero(d_residual);
  tell(hooks.open, L);  // norms backward add to the bias gradients of the branch before them
  norm_backward(weights.final_norm, residual(L), tmp(memory.d_final, C),
                norm_statistics(memory.final_mean, memory.final_rstd), d_residual, stream_bias(L - 1, Branch::mlp));
  tell(hooks.close, L + 1);
  for (std::int64_t layer = L - 1; layer >= 0; --layer) {
    need(layer + 1);
    expect(layer);
    recompute(layer);
    if (sum_attention) add_attention_sums(layer);
    // In a parallel block both branches take the gradient of the block's output, before a norm adds to it.
    if (config.parallel_block) attention_output_backward(layer);
    mlp_backward(layer);
    if (!config.parallel_block) attention_output_backward(layer);
    if (layer > 0) tell(hooks.open, layer);  // the block before
    attention_backward(layer);
    tell(hooks.close, layer + 1);
  }
  const StageRange embedding(ops, "embedding backward");
  ops.embedding_backward({.dout = d_residual,
                          .tokens = memory.scratch.tensor(memory.tokens, {B, T}),
                          .dwte = weights.token_embedding.gradient,
                          .dwpe = weights.position_embedding.gradient});
  tell(hooks.close, 0);
}

void Decoder::backward(const BackwardHooks& hooks) { state_->backward(hooks, false); }

void Decoder::backward_with_attention_sums(const BackwardHooks& hooks) { state_->backward(hooks, true); }

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

void Decoder::set_fp8_scales(std::span<const float> scales) { state_->fp8.set(scales); }

void Decoder::zero_step_sums() {
  state_->step_statistics.zero();
  state_->fp8.zero_amax();
  state_->attention_sums.forget();
}

void Decoder::add_step_sums(double threshold) {
  State& s = *state_;
  if (s.B == 0) throw std::logic_error("Decoder::add_step_sums: no forward pass came before");
  if (s.options.sink_positions > 0)
    s.step_statistics.add(s.sinks(), s.options.residual_norms ? s.norms() : Tensor(), threshold);
}

StepSums Decoder::step_sums() const { return step_sums_later()(); }

std::function<StepSums()> Decoder::step_sums_later() const {
  return [step = state_->step_statistics.read(), attention = state_->attention_sums.read(),
          amax = state_->fp8.read_amax()] {
    StepSums sums = step();
    attention(sums);
    sums.amax = amax();
    return sums;
  };
}

}  // namespace sinkscope
