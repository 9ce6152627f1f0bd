// The parameters of a decoder where they lie in the flat arrays. Internal to this folder.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/parameters.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// A parameter and the place of its gradient; both absent when the model does not have it.
struct Parameter {
  Tensor value;
  Tensor gradient;
};

struct NormParameters {
  Parameter weight, bias;
};

struct LinearParameters {
  Parameter weight, bias;
};

struct BlockParameters {
  NormParameters norm1, norm2;
  LinearParameters qkv, output, up, down;
  Parameter q_norm, k_norm;
  Parameter sink_logits;
};

struct DecoderParameters {
  DecoderParameters() = default;
  /// Of a parameter, in one dimension: `value_of` it, real, and `gradient_of` it, f32 or not given.
  DecoderParameters(const ModelConfig& config, const ParameterLayout& layout,
                    const std::function<Tensor(const ParameterSpec&)>& value_of,
                    const std::function<Tensor(const ParameterSpec&)>& gradient_of);

  Parameter token_embedding, position_embedding, lm_head;
  NormParameters final_norm;
  std::vector<BlockParameters> blocks;
};

/// A parameter's elements in its own shape.
Tensor shaped(const Tensor& elements, const ParameterSpec& spec);

}  // namespace sinkscope
