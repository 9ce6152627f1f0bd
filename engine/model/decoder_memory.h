// The decoder's memory, planned before it is taken. Symbols as in kernels/ops.h; N = B*T rows.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/arena.h"
#include "engine/model/decoder.h"
#include "engine/model/parameters.h"

namespace sinkscope {

/// Buffers of one block that the backward pass reads; indices into the activations arena. What is recomputed
/// before that is one buffer for all blocks.
struct BlockBuffers {
  std::size_t residual = 0;            // (N, C)        h^(l-1)
  std::size_t norm1 = 0, mean1 = 0, rstd1 = 0;  // (N, C), (N), (N)
  std::size_t qkv_raw = 0;             // (N, (H+2G)D)  before QK-norm; QK-norm only
  std::size_t qk_rstd = 0;             // (N, H+G)      QK-norm only
  std::size_t qkv = 0;                 // (N, (H+2G)D)
  std::size_t attention = 0;           // (N, HD)
  std::size_t lse = 0;                 // (B, H, T)
  std::size_t middle = 0;              // (N, C)        m^l; in a parallel block only forward reads it
  std::size_t norm2 = 0, mean2 = 0, rstd2 = 0;  // (N, C), (N), (N)
  std::size_t up = 0;                  // (N, F), swiglu (N, 2F)
  std::size_t act = 0;                 // (N, F)
};

/// Numbers of a head that AttentionStatistics gives, the sink score of one position among them.
constexpr std::int64_t kHeadStatistics = 6;

/// All arenas of a decoder and the places in them. Requests everything, allocates nothing.
struct DecoderMemory {
  DecoderMemory(const ModelConfig& config, const DecoderOptions& options, DType real, const ParameterLayout& layout);

  std::int64_t rows = 0;         // N, the capacity
  std::int64_t head_rows = 0;    // rows of one chunk of logits
  std::int64_t slots = 0;        // blocks kept apart: L in training, 2 without

  Arena parameters{"parameters"}, gradients{"gradients"}, activations{"activations"}, scratch{"scratch"};
  std::size_t parameter_flat = 0, gradient_flat = 0;
  std::vector<std::size_t> section_parameters, section_gradients;  // instead, of each section; blocks have two in turns
  std::size_t zero_logits = 0;   // (H) real, sink logits that are fixed

  std::vector<BlockBuffers> blocks;  // slots of them
  std::size_t final_residual = 0, final_norm = 0, final_mean = 0, final_rstd = 0;
  std::size_t sink = 0;              // L times (B, H, K), B*K <= N
  std::size_t residual_norms = 0;    // (L+1, N)
  std::size_t step_sums = 0;         // f64, as StepStatistics lays them out
  std::size_t attention_sums = 0;    // f64, as AttentionSums lays them out
  std::size_t fp8_scales = 0;        // f32, as Fp8Scales lays them out

  std::size_t tokens = 0, targets = 0, losses = 0, logits = 0;
  std::size_t logits_f32 = 0;        // (V), where `real` is not f32
  std::size_t attention_delta = 0, mlp_delta = 0;  // (N, C): what a sub-block adds
  // Backward only.
  std::size_t d_residual = 0, d_norm = 0;  // (N, C)
  std::size_t d_final = 0;                 // (N, C)
  std::size_t d_act = 0, d_up = 0;         // (N, F); swiglu (N, 2F)
  std::size_t d_attention = 0, d_qkv = 0;
  std::size_t head_statistics = 0;         // (kHeadStatistics, B, H) f32, B <= max_sequences; attention sums only
  std::size_t key_mass = 0;                // (B, H, T) f32; attention sums only
};

}  // namespace sinkscope
