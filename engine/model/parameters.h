// The parameters of a decoder: names, shapes, places in one flat array, initial values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

enum class ParameterGroup : std::uint8_t { embedding, attention, mlp, norm, head };

struct ParameterSpec {
  std::string name;                  // e.g. "blocks.3.attention.qkv.weight"
  std::vector<std::int64_t> shape;   // one or two extents, row-major
  std::int64_t offset = 0;           // elements from the start of the flat array, a multiple of 64
  std::int64_t size = 0;             // elements
  std::int64_t layer = -1;           // -1: not of a block
  ParameterGroup group = ParameterGroup::norm;
  bool decay = false;                // matrices only
  double init_std = 0;               // > 0: normal(0, std); otherwise init_value
  double init_value = 0;
};

/// Parameters that a pass comes to together.
struct Section {
  std::int64_t begin = 0, size = 0;  // elements of the flat array
};

/// Names and shapes (C channels, H heads, G kv heads, D head dim, F hidden, V vocabulary, P positions); linear layers
/// have a bias where the model's `bias` is true, that of queries, keys and values also where `qkv_bias` is:
///   embed.token.weight (V, C)                 embed.position.weight (P, C), learned positions only
///   blocks.l.norm1.weight, .bias (C)          .bias with layernorm only
///   blocks.l.attention.qkv.weight ((H+2G)D, C), .bias   rows: queries, keys, values
///   blocks.l.attention.q_norm.weight, k_norm.weight (D) QK-norm only
///   blocks.l.attention.sink (H)               learned sink logits only
///   blocks.l.attention.output.weight (C, HD), .bias (C)
///   blocks.l.norm2.weight, .bias (C)
///   blocks.l.mlp.up.weight (F, C), .bias      gelu, gelu_erf
///   blocks.l.mlp.gate_up.weight (2F, C), .bias  swiglu; rows: gate, up
///   blocks.l.mlp.down.weight (C, F), .bias (C)
///   final_norm.weight, .bias (C)              head.weight (V, C), untied only
class ParameterLayout {
 public:
  /// `config` must be resolved (vocab_size, kv_heads, head_dim, hidden > 0).
  explicit ParameterLayout(const ModelConfig& config);

  /// In the order of the forward pass; the reverse is the order in which a backward pass reaches them.
  const std::vector<ParameterSpec>& specs() const { return specs_; }
  /// Throws std::out_of_range naming the parameter.
  const ParameterSpec& find(const std::string& name) const;
  bool contains(const std::string& name) const;
  /// Elements of the flat array, alignment gaps included (gaps stay zero).
  std::int64_t flat_size() const { return flat_size_; }
  /// Elements of all parameters.
  std::int64_t parameter_count() const;
  /// L + 2 of them, one behind the other: the embeddings, each block, the final norm and an untied head. Block l is
  /// section l + 1.
  const std::vector<Section>& sections() const { return sections_; }
  std::int64_t section_of(const ParameterSpec& spec) const;
  /// One segment a parameter, in the order of specs().
  std::vector<Segment> segments() const;

 private:
  void add(ParameterSpec spec);
  std::vector<ParameterSpec> specs_;
  std::vector<Section> sections_;
  std::int64_t flat_size_ = 0;
};

/// Fills `flat` (flat_size() floats) with the initial values for `seed`. Every parameter has its own
/// counter-based stream, so values do not depend on which other parameters exist.
void initialize_parameters(const ParameterLayout& layout, std::uint64_t seed, std::span<float> flat);

/// FLOPs of one training step per token: 6 N_matmul + 6 L C' T with C' = H D (causal attention
/// counted at half), N_matmul the matrices that multiply activations, the LM head once.
double training_flops_per_token(const ModelConfig& config, std::int64_t sequence_length);

}  // namespace sinkscope
