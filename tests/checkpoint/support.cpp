#include "support.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "engine/model/random.h"

namespace sinkscope::test {

void replace_in_file(const std::filesystem::path& path, const std::string& from, const std::string& to) {
  std::string content = read_file(path);
  const std::size_t at = content.find(from);
  if (at == std::string::npos) throw std::runtime_error(path.string() + " does not hold " + from);
  write_file(path, content.replace(at, from.size(), to));
}

void write_raw_safetensors(const std::filesystem::path& path, const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, 8);
  write_file(path, prefix + header + data);
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string message_of(const std::filesystem::path& folder, const std::function<void()>& action) {
  std::string message;
  try {
    action();
  } catch (const std::exception& error) {
    message = error.what();
  }
  const std::string prefix = folder.string(), shown = "@";
  for (std::size_t at = message.find(prefix); at != std::string::npos; at = message.find(prefix))
    message.replace(at, prefix.size(), shown);
  return message;
}

ModelConfig small_model(ModelPreset preset) {
  ModelConfig model;
  model.preset = preset;
  model.layers = 2;
  model.channels = 12;
  model.heads = 3;
  const bool gpt2 = preset == ModelPreset::gpt2, neox = preset == ModelPreset::gpt_neox;
  model.kv_heads = gpt2 || neox ? 3 : 1;
  model.head_dim = preset == ModelPreset::qwen3 ? 6 : 4;
  model.hidden = 20;
  model.vocab_size = 17;
  model.max_sequence_length = 9;
  if (gpt2 || neox) {
    model.norm = NormType::layernorm;
    model.bias = true;
  }
  if (gpt2) {
    model.position = PositionEncoding::learned;
    model.mlp = MlpType::gelu;
    model.tied_embedding = true;
    model.init = InitScheme::gpt2;
  }
  if (neox) {
    model.mlp = MlpType::gelu_erf;
    model.parallel_block = true;
    model.rotary_dim = 2;
  }
  model.qk_norm = preset == ModelPreset::qwen3;
  model.qkv_bias = preset == ModelPreset::qwen2;
  return model;
}

Arrays::Arrays(const ModelConfig& model, std::uint64_t seed) {
  const ParameterLayout layout(model);
  std::uint64_t key = seed * 1000;
  for (std::vector<float>* flat : {&parameters, &first, &second}) {
    ++key;
    flat->resize(static_cast<std::size_t>(layout.flat_size()));
    for (const ParameterSpec& spec : layout.specs())
      for (std::int64_t i = spec.offset; i < spec.offset + spec.size; ++i)
        (*flat)[static_cast<std::size_t>(i)] = static_cast<float>(random_normal(key, static_cast<std::uint64_t>(i)));
  }
}

CheckpointData checkpoint_data(const ModelConfig& model, const Arrays& arrays, std::int64_t step) {
  CheckpointData data;
  data.model = model;
  data.step = step;
  data.bos_id = 1;
  data.eos_id = 2;
  data.parameters = arrays.parameters;
  data.first_moment = arrays.first;
  data.second_moment = arrays.second;
  data.state = "{\"step\": " + std::to_string(step) + "}";
  return data;
}

}  // namespace sinkscope::test
