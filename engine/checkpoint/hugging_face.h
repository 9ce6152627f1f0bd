// How the decoder maps to architectures of the transformers library: config.json and tensor names.
// Internal to this folder. Sources: transformers' modeling_*.py of gpt2, llama, mistral, qwen2, qwen3 and
// gpt_neox (names and layouts), configuration_*.py (keys and their defaults).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

/// What is written. MistralForCausalLM is read as the Llama that it is without a sliding window.
enum class Architecture : std::uint8_t { gpt2, llama, qwen2, qwen3, gpt_neox };

/// "GPT2LMHeadModel", "LlamaForCausalLM", ...
std::string class_name(Architecture architecture);

/// The architecture that expresses `model` exactly, or nothing; then `obstacles`, when given, says
/// which fields stand in the way of the nearest one.
std::optional<Architecture> architecture_of(const ModelConfig& model, std::string* obstacles = nullptr);

/// The text of config.json. `bos_id` and `eos_id` below 0 become null.
std::string hugging_face_config_text(Architecture architecture, const ModelConfig& model, std::int32_t bos_id,
                                     std::int32_t eos_id);

/// One tensor of a file: a whole parameter or rows [begin_row, begin_row + rows) of one.
struct TensorPlace {
  std::string name;                 // in the file
  std::vector<std::int64_t> shape;  // in the file
  std::string parameter;            // in ParameterLayout
  std::int64_t begin_row = 0;
  bool transposed = false;          // the file holds (in, out), as GPT-2's Conv1D does
  std::vector<std::int64_t> rows{}; // row i of the file is row begin_row + rows[i] of the parameter; empty: i
};

/// Every tensor of a model file, in a fixed order; without an architecture the parameters
/// themselves, under their own names.
std::vector<TensorPlace> tensor_places(std::optional<Architecture> architecture, const ModelConfig& model);

/// The output projection's name in the file; a tied model's file may hold it too.
std::string head_name(Architecture architecture);

/// Tensors that such files may hold besides and that say nothing new: buffers of old versions.
bool is_buffer(const std::string& tensor);

/// A tokenizer file's name as transformers expects it, e.g. vocab.bpe -> merges.txt.
std::string tokenizer_file_name(const std::filesystem::path& file);

}  // namespace sinkscope
