// The decoder once more, in plain loops of double precision: the oracle of the model's and the
// probes' tests. Written from the equations of engine/model/decoder.h and kernels/ops.h, sharing no
// code with them but the parameter layout. For tiny models only: it keeps every attention matrix.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/parameters.h"

namespace sinkscope::reference {

/// What one block computed. Rows are (B, T).
struct Layer {
  std::vector<double> input;             // (B*T, C) h^(l-1)
  std::vector<double> qkv;               // (B, T, H+2G, D) after QK-norm and rotary embedding
  std::vector<double> attention;         // (B, H, T, T) A[t,k], zero for k > t
  std::vector<double> attention_output;  // (B*T, C) before it is added
  std::vector<double> middle;            // (B*T, C) m^l
  std::vector<double> mlp_output;        // (B*T, C) before it is added
  std::vector<double> output;            // (B*T, C) h^l
};

struct Activations {
  std::int64_t sequences = 0;     // B
  std::int64_t length = 0;        // T
  std::vector<double> embedding;  // (B*T, C) h^-1
  std::vector<Layer> layers;      // L
  std::vector<double> logits;     // (B*T, V)

  /// h^(row-1), (B*T, C): row 0 is the embedding output, row l+1 the output of block l.
  const std::vector<double>& residual(std::int64_t row) const;
};

/// alpha_k (L, B, H, K) of the run's attention, by the definition in kernels/ops.h.
std::vector<double> sink_scores(const ModelConfig& config, const Activations& run, std::int64_t watched);

/// Euclidean norms of the residual stream, (L+1, B, T).
std::vector<double> residual_norms(const ModelConfig& config, const Activations& run);

/// Cross-entropy over the targets that are not -1.
struct Loss {
  double sum = 0;                // nats
  std::int64_t count = 0;        // targets
  std::vector<double> per_target;  // (B*T), 0 where ignored

  double mean() const { return sum / static_cast<double>(count); }
};

/// What ForwardEdits of engine/model/decoder.h ask for; -1 and 0: nothing.
struct Edits {
  std::int64_t knocked_attention = -1, knocked_mlp = -1;  // layers whose contribution to knocked_position is zero
  std::int64_t knocked_position = 0;
  std::int64_t transplant_layer = -1, transplant_position = 0;
  std::vector<double> transplant{};                         // (C)
  std::int64_t isolated_position = 0, isolated_layers = 0;  // sees itself alone in the layers below
  std::int64_t first_rotary_index = 0;
};

/// `config` is resolved (no size is 0); `parameters` is the flat array of `layout` in double.
/// QK-norm uses config.norm_eps, as Qwen3 does. Throws std::invalid_argument when a size is wrong or a
/// token is outside the vocabulary, std::out_of_range naming a parameter the layout lacks.
Activations forward(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
                    std::int64_t sequences, std::int64_t length, std::span<const std::int32_t> inputs,
                    const Edits& edits = {});

/// `targets` (B*T), each -1 or in [0, V).
Loss loss(const ModelConfig& config, const Activations& activations, std::span<const std::int32_t> targets);

/// Both at once, for finite differences.
Loss loss(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
          std::int64_t sequences, std::int64_t length, std::span<const std::int32_t> inputs,
          std::span<const std::int32_t> targets);

}  // namespace sinkscope::reference
