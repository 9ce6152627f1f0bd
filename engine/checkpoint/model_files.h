// The files of a model folder that transformers reads. Internal to this folder.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/hugging_face.h"
#include "engine/files/digest.h"

namespace sinkscope {

using FileDigests = std::map<std::string, FileDigest>;

/// Writes model.safetensors, config.json and the tokenizer's files into an existing folder. Without
/// an architecture the tensors keep the engine's names and config.json says that only this program
/// reads them.
FileDigests write_model_files(const std::filesystem::path& folder, const CheckpointData& data,
                              std::optional<Architecture> architecture);

/// Fills the flat array from model.safetensors or the shards of model.safetensors.index.json.
void load_model_file(const std::filesystem::path& folder, const ModelConfig& model,
                     std::optional<Architecture> architecture, std::span<float> parameters);

/// Throws std::invalid_argument unless `size` is the layout's flat size.
void check_flat_size(const ModelConfig& model, std::size_t size, const std::string& what);

}  // namespace sinkscope
