// A trained model from disk: one of our checkpoints, the newest of a run, or a folder in Hugging Face layout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "engine/config/config.h"
#include "engine/data/tokenizer.h"
#include "engine/model/decoder.h"
#include "kernels/ops.h"

namespace sinkscope {

struct ModelSource {
  std::filesystem::path folder;                 // of the weights
  bool checkpoint = false;                      // ours; otherwise Hugging Face layout
  ModelConfig model;
  std::optional<std::int64_t> step;             // of a checkpoint
  std::int32_t bos_id = -1, eos_id = -1;        // -1: none, or several
  std::optional<std::filesystem::path> run;     // the run directory that the checkpoint lies in

  /// Fills the flat array of the model's ParameterLayout. Throws naming file and tensor, also where one is not finite.
  void load(std::span<float> parameters) const;
};

/// Throws std::runtime_error naming what is missing or unsupported; the hashes of a checkpoint are verified.
ModelSource open_model_source(const std::filesystem::path& source);

/// Puts fp32 values into the decoder's parameters, in its compute dtype.
void load_parameters(Ops& ops, const Decoder& decoder, std::span<const float> values);

/// The tokenizer that lies beside the weights: tokenizer.model, or a GPT-2's vocab.json and merges.txt. Null when there
/// is none that we read. Throws when one cannot be read.
std::unique_ptr<Tokenizer> open_tokenizer_of(const ModelSource& source);

}  // namespace sinkscope
