// What the model's tests share: resolved models, batches, and one training step as plain arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/decoder.h"
#include "kernels/ops.h"
#include "tests/kernels/support.h"

namespace sinkscope::test {

using Values = std::vector<float>;

constexpr double kForward = 1e-5;  // relative error of fp32 through a whole model

/// A model section of a config, e.g. R"({"preset": "gpt2", "layers": 2})", read and resolved as a run
/// would, for a dataset of `vocabulary` tokens and sequences of `length`.
ModelConfig resolved_model(const std::string& model, std::int64_t vocabulary, std::int64_t length);

/// The presets gpt2, llama, qwen3, qwen2 and gpt_neox at tiny odd sizes, then gpt2 with fixed and llama with learned
/// sink logits: 2 layers, at most 12 positions.
std::vector<ModelConfig> tiny_presets();

/// A model of up to 3 layers with every switch and size drawn at random; at most 12 positions.
ModelConfig random_model(Random& random);

/// The model's switches in words, for failure messages.
std::string describe(const ModelConfig& config);

/// Values at which every part of the model matters: attention far from uniform, norms and biases
/// away from 1 and 0. Alignment gaps are zero.
Values strong_parameters(const ParameterLayout& layout, std::uint64_t seed);

struct Batch {
  std::int64_t sequences = 0, length = 0;
  Tokens inputs, targets;  // (B*T)

  /// Sequences [begin, begin + count).
  Batch part(std::int64_t begin, std::int64_t count) const;
};

/// Random tokens; about one target in `ignored_every` is -1 (0: none).
Batch random_batch(Random& random, const ModelConfig& config, std::int64_t sequences, std::int64_t length,
                   std::int64_t ignored_every = 0);

/// A decoder that holds `parameters`.
Decoder make_decoder(Ops& ops, const ModelConfig& config, const DecoderOptions& options, const Values& parameters);

Values to_host(Ops& ops, const Tensor& tensor);

/// What a step leaves behind; what the decoder's options leave out is empty.
struct Step {
  Values losses, gradients, sink_scores, residual_norms;
};

/// forward, loss and, with a scale, backward; gradients accumulate onto those the decoder holds.
Step run_step(Ops& ops, Decoder& decoder, const Batch& batch, float gradient_scale,
              ActivationObserver* observer = nullptr);

bool same_bits(const Values& a, const Values& b);
bool same_bits(const Step& a, const Step& b);

Doubles doubles(const Values& values);

inline std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

}  // namespace sinkscope::test
