// A pre-norm decoder with explicit forward and backward passes, switched by its ModelConfig:
//   h^-1 = wte[token] (+ wpe[t])
//   m^l  = h^(l-1) + W_o attention(rope(qk_norm(W_qkv norm1(h^(l-1)))), sink logits)
//   h^l  = m^l + W_down act(W_up norm2(m^l))    in a parallel block norm2(h^(l-1))
//   logits = W_head final_norm(h^(L-1))
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/arena.h"
#include "engine/model/forward_edits.h"
#include "engine/model/parameter_source.h"
#include "engine/model/parameters.h"
#include "engine/model/step_statistics.h"
#include "kernels/ops.h"

namespace sinkscope {

/// What a block computed, alive during ActivationObserver::block only. Rows are (B, T).
struct BlockActivations {
  std::int64_t layer = 0;
  Tensor input;             // (B*T, C)  h^(l-1)
  Tensor qkv;               // (B, T, H+2G, D) after QK-norm and rotary embedding
  Tensor lse;               // (B, H, T) f32
  Tensor sink_logits;       // (H) real; not given when the model has none
  Tensor attention_output;  // (B*T, C)  the attention sub-block's contribution
  Tensor middle;            // (B*T, C)  m^l
  Tensor mlp_output;        // (B*T, C)  the MLP's contribution
  Tensor output;            // (B*T, C)  h^l
};

/// Looks at a forward pass; must not change anything it is shown.
class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  virtual void embedding(const Tensor& h) = 0;  // (B*T, C) h^-1
  virtual void block(const BlockActivations& activations) = 0;
};

struct DecoderOptions {
  std::int64_t max_sequences = 0;   // B
  std::int64_t max_length = 0;      // T; any batch with B*T <= max_sequences * max_length, T <= max_length fits
  std::int64_t sink_positions = 0;  // K of the per-step sink scores; 0: none
  bool residual_norms = false;      // per-step norms of the residual stream
  bool attention_sums = false;      // backward can add to the attention sums; in training
  bool training = true;             // false: no gradients, no backward
  bool gradients_by_section = false;   // blocks take turns in two places, as BackwardHooks tell
  bool parameters_by_section = false;  // the same, as a ParameterSource brings them
  Recompute recompute = Recompute::none;              // in training
  bool fp8 = false;                    // FP8 products in the blocks, once scales are set
  bool recorded = false;               // passes of max_length may be recorded as CUDA graphs, which changes no result
  std::int64_t logits_bytes = std::int64_t{8} << 20;  // of the chunks that logits come in, 32 rows at least
};

/// The memory a decoder will take, before it takes it.
struct MemoryLine {
  std::string arena;   // "parameters", "gradients", "activations", "scratch", ...
  std::string buffer;
  std::size_t bytes = 0;
};

/// What a backward pass tells of the sections of the parameters' layout.
struct BackwardHooks {
  std::function<void(std::int64_t section)> open{};   // of a block: operations will add to its gradients from now on
  std::function<void(std::int64_t section)> close{};  // none will add to them any more
};

class Decoder {
 public:
  Decoder(Ops& ops, const ModelConfig& config, const DecoderOptions& options);
  ~Decoder();
  Decoder(Decoder&&) noexcept;

  static std::vector<MemoryLine> memory_plan(const ModelConfig& config, const DecoderOptions& options,
                                             DType compute_dtype);

  const ModelConfig& config() const;
  const DecoderOptions& options() const;
  const ParameterLayout& layout() const;
  Tensor parameters() const;                                 // (flat_size) real; not by section
  Tensor section_parameters(std::int64_t section) const;     // (its size) real
  Tensor gradients() const;                                  // (flat_size) f32; in training, not by section
  Tensor section_gradients(std::int64_t section) const;      // (its size) f32; in training
  Tensor gradient_memory() const;                            // the largest f32 array of gradients; in training
  Tensor parameter(const ParameterSpec& spec) const;         // in its own shape; by section while it is there
  void zero_gradients();
  /// The gradients of the next loss() and backward() take the place of what is there, instead of being added to it;
  /// cheaper than zeros before. By section the caller does zero_added(): of the first and last section before loss(),
  /// of blocks in `open`.
  void replace_gradients();
  /// Zeros where every pass adds to a section's gradients: all but the matrices that a product gives.
  void zero_added(std::int64_t section);
  /// Before the first pass; must outlive all passes.
  void set_parameter_source(ParameterSource& source);
  /// Each parameter in the order of specs(); by section all of them are asked for, as in a forward pass.
  void for_each_parameter(const std::function<void(const ParameterSpec&, const Tensor&)>& visit);

  /// Runs the blocks on inputs (B, T) given on the host. Throws std::invalid_argument when the
  /// batch does not fit, a token is outside the vocabulary or an edit names no layer or position of the
  /// batch. After a pass with edits loss() gives no gradients: backward would be that of the unedited model.
  void forward(std::int64_t sequences, std::int64_t length, const std::int32_t* inputs,
               ActivationObserver* observer = nullptr, const ForwardEdits& edits = {});

  /// LM head and cross-entropy of the last forward, in chunks of rows. `targets` (B*T) on the host,
  /// -1 ignored. Losses per target are written to `losses` (B*T, host). With `gradient_scale` > 0
  /// also the head's backward, each target's gradient times gradient_scale.
  void loss(const std::int32_t* targets, float* losses, float gradient_scale = 0.0F);
  /// The same without waiting: what it returns waits for the losses alone and writes them, and is called once.
  [[nodiscard]] std::function<void()> loss_later(const std::int32_t* targets, float* losses,
                                                 float gradient_scale = 0.0F);

  /// Backward through the blocks, after loss() with a gradient scale; gradients accumulate. By section a block's are in
  /// its place from open() to close() alone, and `open` is to bring them there or zero it; loss() adds to those of the
  /// embeddings and behind the blocks, or writes them, already.
  void backward(const BackwardHooks& hooks = {});
  /// The same, and adds the attention entropy and key mass of the batch's sequences to the step sums. Throws
  /// std::invalid_argument unless these are at most max_sequences of at least 2 positions, as many as in the batches
  /// of the step before it.
  void backward_with_attention_sums(const BackwardHooks& hooks = {});

  /// Logits of one row of the last forward, (V) on the host: for sampling and checks.
  void logits(std::int64_t row, float* out);

  // Per-step statistics of the last forward (as DecoderOptions asked), copied to the host.
  std::vector<float> sink_scores() const;     // (L, B, H, K)
  std::vector<float> residual_norms() const;  // (L+1, B, T), index 0 the embedding output

  /// Of FP8 products, as Fp8History gives them; until the first ones products are as without.
  void set_fp8_scales(std::span<const float> scales);

  // The same summed over sequences on the device, so that nothing waits for it. Without sink positions there
  // are no sums but those of attention. `threshold` is the eps of the sink rate, compared strictly for each sequence.
  void zero_step_sums();
  void add_step_sums(double threshold);  // of the last forward
  StepSums step_sums() const;            // waits for the device
  /// Of the sums as they are now; what it returns waits for them alone, and is called once.
  [[nodiscard]] std::function<StepSums()> step_sums_later() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sinkscope
