// Every operation of kernels/ops.h once more, in double precision and plain loops after its formula:
// what the backends are compared with. Gradients are for a given dout; the tests check them against
// finite differences of the forward functions.
#pragma once

#include "tests/kernels/support.h"

namespace sinkscope::test {

Doubles embedding_forward(const Tokens& tokens, const Doubles& wte, const Doubles& wpe, std::int64_t length,
                          std::int64_t channels);
struct EmbeddingGradients {
  Doubles dwte, dwpe;
};
EmbeddingGradients embedding_backward(const Tokens& tokens, const Doubles& dout, std::int64_t vocabulary,
                                      std::int64_t positions, std::int64_t length, std::int64_t channels);

struct NormOut {
  Doubles out, mean, rstd, l2;
};
/// `bias` may be empty.
NormOut norm_forward(NormKind kind, const Doubles& x, const Doubles& weight, const Doubles& bias, double eps);
struct NormGradients {
  Doubles dx, dweight, dbias;
};
NormGradients norm_backward(NormKind kind, const Doubles& x, const Doubles& weight, const Doubles& dout, double eps);

/// out (N, O) = x (N, I) weight (O, I)^T + bias; `bias` may be empty.
Doubles linear_forward(const Doubles& x, const Doubles& weight, const Doubles& bias, std::int64_t inputs,
                       std::int64_t outputs);
struct LinearGradients {
  Doubles dx, dweight, dbias;
};
LinearGradients linear_backward(const Doubles& x, const Doubles& weight, const Doubles& dout, std::int64_t inputs,
                                std::int64_t outputs);

/// Extents of qkv (B, T, H+2G, D).
struct Heads {
  std::int64_t sequences = 1, length = 1, query_heads = 1, kv_heads = 1, head_dim = 1;
  std::int64_t row_heads() const { return query_heads + 2 * kv_heads; }
  std::int64_t normed_heads() const { return query_heads + kv_heads; }
  std::int64_t rows() const { return sequences * length; }
  std::int64_t size() const { return rows() * row_heads() * head_dim; }
  std::int64_t out_size() const { return rows() * query_heads * head_dim; }
  /// Offset of the vector of `head` (of H+2G) at position t of sequence b.
  std::int64_t at(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return ((b * length + t) * row_heads() + head) * head_dim;
  }
};

/// The first `width` channels of the first `rotated` heads.
Doubles rope(const Heads& heads, Doubles qkv, std::int64_t rotated, std::int64_t width, double theta, bool inverse,
             std::int64_t first_index = 0);

struct QkNormOut {
  Doubles out, rstd;
};
QkNormOut qk_norm_forward(const Heads& heads, const Doubles& in, const Doubles& q_weight, const Doubles& k_weight,
                          double eps);
struct QkNormGradients {
  Doubles din, dq_weight, dk_weight;
};
QkNormGradients qk_norm_backward(const Heads& heads, const Doubles& in, const Doubles& q_weight,
                                 const Doubles& k_weight, const Doubles& dout, double eps);

struct AttentionOut {
  Doubles out, lse;
  Doubles weights;  // A (B, H, T, T), 0 above the diagonal
};
/// The query at `isolated` attends to itself alone; -1: none does. `sink_logits` (H), or none.
AttentionOut attention_forward(const Heads& heads, const Doubles& qkv, std::int64_t isolated = -1,
                               const Doubles& sink_logits = {});
struct AttentionGradients {
  Doubles dqkv, dsink_logits;
};
AttentionGradients attention_backward(const Heads& heads, const Doubles& qkv, const Doubles& dout,
                                      const Doubles& sink_logits = {});
/// alpha_k (B, H, K) of the weights of attention_forward().
Doubles sink_scores(const Heads& heads, const Doubles& weights, std::int64_t watched);
struct AttentionSummary {
  Doubles first_mass, first_argmax, entropy, key_mass, cos_first, cos_rest;
};
AttentionSummary attention_statistics(const Heads& heads, const Doubles& qkv, const Doubles& weights);

Doubles gelu_forward(GeluKind kind, const Doubles& x);
Doubles gelu_backward(GeluKind kind, const Doubles& x, const Doubles& dout);
Doubles swiglu_forward(const Doubles& gate_up, std::int64_t hidden);
Doubles swiglu_backward(const Doubles& gate_up, const Doubles& dout, std::int64_t hidden);

Doubles cross_entropy_losses(const Doubles& logits, const Tokens& targets);
Doubles cross_entropy_gradient(const Doubles& logits, const Tokens& targets, double scale);

}  // namespace sinkscope::test
