#include "tools/model_source.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/json_text.h"
#include "engine/files/input_file.h"
#include "engine/model/parameters.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

/// Checkpoints and run directories have a config.json too.
bool is_hugging_face_folder(const fs::path& folder) {
  return fs::exists(folder / "config.json") && !fs::exists(folder / "manifest.json") &&
         !fs::exists(folder / "checkpoints") && !fs::exists(folder / "metrics.jsonl");
}

/// A token id of config.json; absent, null or a list of them (several tokens end a text): none.
std::int32_t token_id(const nlohmann::ordered_json& json, const fs::path& file, const char* key,
                      std::int64_t vocab_size) {
  if (!json.contains(key) || json.at(key).is_null() || json.at(key).is_array()) return -1;
  const auto& value = json.at(key);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() >= vocab_size)
    throw std::runtime_error(file.string() + ": \"" + key + "\": " + describe_value(value) +
                             ", expected null or one of " + std::to_string(vocab_size) + " tokens");
  return static_cast<std::int32_t>(value.get<std::int64_t>());
}

void expect_finite(const fs::path& folder, const ModelConfig& model, std::span<const float> parameters) {
  const ParameterLayout layout(model);
  for (const ParameterSpec& spec : layout.specs()) {
    const auto values = parameters.subspan(static_cast<std::size_t>(spec.offset), static_cast<std::size_t>(spec.size));
    const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
    if (bad != values.end())
      throw std::runtime_error(folder.string() + ": the weights are damaged: parameter " + spec.name + " is " +
                               (std::isnan(*bad) ? "NaN" : "infinite") + " at element " +
                               std::to_string(bad - values.begin()));
  }
}

}  // namespace

void ModelSource::load(std::span<float> parameters) const {
  if (checkpoint)
    load_checkpoint(folder, model, parameters, {}, {});
  else
    load_hugging_face(folder, model, parameters);
  expect_finite(folder, model, parameters);
}

ModelSource open_model_source(const fs::path& source) {
  ModelSource opened;
  if (is_hugging_face_folder(source)) {
    opened.folder = source;
    opened.model = model_config_from_hugging_face(source);
    const fs::path file = source / "config.json";
    const auto json = parse_strict(read_text_file(file), file.string());
    opened.bos_id = token_id(json, file, "bos_token_id", opened.model.vocab_size);
    opened.eos_id = token_id(json, file, "eos_token_id", opened.model.vocab_size);
    return opened;
  }
  opened.checkpoint = true;
  opened.folder = find_checkpoint(source, ", nor a folder in Hugging Face layout (config.json)");
  const CheckpointInfo info = read_checkpoint_info(opened.folder);
  opened.model = info.model;
  opened.step = info.step;
  opened.bos_id = info.bos_id;
  opened.eos_id = info.eos_id;
  const fs::path run = fs::absolute(opened.folder).lexically_normal().parent_path().parent_path();
  if (fs::exists(run / "config.json") && fs::exists(run / "checkpoints")) opened.run = run;
  return opened;
}

void load_parameters(Ops& ops, const Decoder& decoder, std::span<const float> values) {
  const Tensor to = decoder.parameters();
  if (to.dtype == DType::f32) {
    ops.copy_from_host(to, values.data());
    return;
  }
  // In pieces: a model may take most of the device.
  const std::int64_t piece = std::min<std::int64_t>(to.size(), std::int64_t{1} << 24);
  const Buffer buffer = ops.allocate(static_cast<std::size_t>(piece) * sizeof(float));
  for (std::int64_t begin = 0; begin < to.size(); begin += piece) {
    const std::int64_t count = std::min(piece, to.size() - begin);
    const Tensor from(buffer.get(), DType::f32, {count});
    ops.copy_from_host(from, values.data() + begin);
    ops.convert(to.rows(begin, count), from);
    ops.synchronize();
  }
}

std::unique_ptr<Tokenizer> open_tokenizer_of(const ModelSource& source) {
  if (fs::exists(source.folder / "tokenizer.model")) return open_tokenizer(source.folder / "tokenizer.model");
  // Other families' vocab.json and merges.txt go with another way of splitting text.
  if (source.model.preset == ModelPreset::gpt2 && fs::exists(source.folder / "vocab.json") &&
      fs::exists(source.folder / "merges.txt"))
    return make_gpt2_tokenizer(source.folder / "vocab.json", source.folder / "merges.txt");
  return nullptr;
}

}  // namespace sinkscope
