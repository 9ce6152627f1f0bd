// Checkpoints: a folder in Hugging Face layout (model.safetensors, config.json, tokenizer files)
// with the optimizer and loop state beside it, written atomically and verified by hash.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/parameters.h"

namespace sinkscope {

/// What a training run saves. Arrays are flat in the layout's order, on the host.
struct CheckpointData {
  ModelConfig model;
  std::int64_t step = 0;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  std::span<const float> parameters;
  std::span<const float> first_moment;    // AdamW m; may be empty (export only)
  std::span<const float> second_moment;   // AdamW v
  std::string state = "{}";               // JSON text of the loop's state
  std::vector<std::filesystem::path> tokenizer_files;
};

/// Writes `checkpoints/step_XXXXXXXX` (8 digits or more): a temporary folder beside it, every file
/// and the folder fsynced, manifest.json with the XXH3-128 and size of every file written last,
/// then renamed. Then removes the oldest ones beyond `keep` (0: none); those that cannot be removed
/// are told in `left` as "folder: reason". Returns the folder. Throws std::runtime_error naming the
/// file; no checkpoint that existed before is touched in that case. A folder of the same step is
/// replaced in one step. What killed processes left is removed first: one process saves at a time.
/// Throws std::invalid_argument for arrays that are not of the layout's flat size and for a state
/// that is no JSON.
/// A model that no Hugging Face architecture expresses is saved too, under the engine's own names.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, const CheckpointData& data,
                                      std::int64_t keep, std::vector<std::string>* left = nullptr);

/// The newest folder whose manifest verifies, or nothing. Folders that do not verify are reported
/// in `rejected` as "folder: reason".
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints,
                                                       std::vector<std::string>* rejected = nullptr);

/// Throws std::runtime_error naming the file that is missing, truncated or differs in hash.
void verify_checkpoint(const std::filesystem::path& checkpoint);

/// What a checkpoint says of itself, without its arrays.
struct CheckpointInfo {
  ModelConfig model;
  std::int64_t step = 0;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  std::vector<std::filesystem::path> tokenizer_files;  // inside the checkpoint
};

/// Throws std::runtime_error naming checkpoint.json and the key at fault.
CheckpointInfo read_checkpoint_info(const std::filesystem::path& checkpoint);

/// Reads parameters and, when the spans are not empty, the optimizer's moments back. Throws
/// std::runtime_error naming file and tensor for anything missing, unexpected or of another shape,
/// and for a checkpoint whose model computes another function than `model`. Does not check hashes:
/// verify_checkpoint and newest_checkpoint do. Returns the state JSON text.
std::string load_checkpoint(const std::filesystem::path& checkpoint, const ModelConfig& model,
                            std::span<float> parameters, std::span<float> first_moment,
                            std::span<float> second_moment);

/// Only model.safetensors, config.json, generation_config.json (and tokenizer files): what
/// `sinkscope export` writes. `folder` must not exist, or be empty; it appears whole or not at all.
/// `config.json` is that of GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM or
/// GPTNeoXForCausalLM; a model that none of them can express is refused with the field that stands in
/// the way named.
void export_hugging_face(const std::filesystem::path& folder, const CheckpointData& data);

/// A tensor of such a folder, and the parameter of ParameterLayout that it holds or holds rows of.
struct HuggingFaceTensor {
  std::string name;
  std::string parameter;
};
/// Every tensor of an export of `model`. Throws std::runtime_error for a model that export refuses.
std::vector<HuggingFaceTensor> hugging_face_tensors(const ModelConfig& model);

/// The ModelConfig of a Hugging Face folder: of the architectures above, or MistralForCausalLM without
/// sliding windows, which is a Llama. Throws std::runtime_error naming config.json and the unsupported
/// or missing key.
ModelConfig model_config_from_hugging_face(const std::filesystem::path& folder);

/// Parameters of a Hugging Face folder (model.safetensors, f32/bf16/f16; sharded with an index too)
/// in the flat layout of `model`.
void load_hugging_face(const std::filesystem::path& folder, const ModelConfig& model, std::span<float> parameters);

}  // namespace sinkscope
