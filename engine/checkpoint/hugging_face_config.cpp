#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/hugging_face.h"
#include "engine/config/json_text.h"
#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kArchitectures = {Architecture::gpt2, Architecture::llama, Architecture::qwen3};
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;  // of any extent, far above every real model

ModelPreset preset_of(Architecture architecture) {
  switch (architecture) {
    case Architecture::gpt2: return ModelPreset::gpt2;
    case Architecture::llama: return ModelPreset::llama;
    case Architecture::qwen3: return ModelPreset::qwen3;
  }
  return ModelPreset::llama;
}

template <class Enum>
std::string quoted(Enum value) {
  return in_quotes(to_string(value));
}

/// What keeps `architecture` from being `model`, one phrase a field.
std::vector<std::string> obstacles_of(Architecture architecture, const ModelConfig& model) {
  std::vector<std::string> obstacles;
  const auto need = [&](bool fits, const std::string& field, const std::string& found, const std::string& needed) {
    if (!fits) obstacles.push_back("model." + field + " is " + found + ", it needs " + needed);
  };
  const bool gpt2 = architecture == Architecture::gpt2, qwen3 = architecture == Architecture::qwen3;
  const NormType norm = gpt2 ? NormType::layernorm : NormType::rmsnorm;
  const PositionEncoding position = gpt2 ? PositionEncoding::learned : PositionEncoding::rope;
  const MlpType mlp = gpt2 ? MlpType::gelu : MlpType::swiglu;
  const auto truth = [](bool value) { return std::string(value ? "true" : "false"); };
  need(model.norm == norm, "norm", quoted(model.norm), quoted(norm));
  need(model.position == position, "position", quoted(model.position), quoted(position));
  need(model.mlp == mlp, "mlp", quoted(model.mlp), quoted(mlp));
  need(model.qk_norm == qwen3, "qk_norm", truth(model.qk_norm), truth(qwen3));
  if (gpt2) need(model.bias, "bias", "false", "true");
  if (qwen3) need(!model.bias, "bias", "true", "false");
  if (gpt2) {
    need(model.kv_heads == model.heads, "kv_heads", std::to_string(model.kv_heads),
         "model.heads (" + std::to_string(model.heads) + ")");
    need(model.head_dim * model.heads == model.channels, "head_dim", std::to_string(model.head_dim),
         "model.channels / model.heads (" + std::to_string(model.channels) + " / " + std::to_string(model.heads) + ")");
  }
  need(model.max_sequence_length > 0, "max_sequence_length", "0", "the longest sequence");
  return obstacles;
}

/// Reads config.json's keys; every error names the file and the key.
class ConfigReader {
 public:
  explicit ConfigReader(const std::filesystem::path& file)
      : file_(file.string()), json_(parse_strict(read_text_file(file), file_)) {
    if (!json_.is_object()) fail("expected an object, found " + describe_value(json_));
  }

  [[noreturn]] void fail(const std::string& problem) const { throw std::runtime_error(file_ + ": " + problem); }

  /// Absent and null are the same, as in transformers.
  bool has(const std::string& key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  const Json& at(const std::string& key) const {
    if (!has(key)) fail("missing key \"" + key + "\"");
    return json_.at(key);
  }

  std::int64_t integer(const std::string& key) const {
    const Json& value = at(key);
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1 || value.get<std::int64_t>() > kMaxSize)
      unsupported(key, value, "an integer from 1 to " + std::to_string(kMaxSize));
    return value.get<std::int64_t>();
  }
  std::int64_t integer(const std::string& key, std::int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  double number(const std::string& key, const Json& value) const {
    if (!value.is_number() || !(value.get<double>() > 0)) unsupported(key, value, "a number above 0");
    return value.get<double>();
  }
  double number(const std::string& key, double otherwise) const { return has(key) ? number(key, at(key)) : otherwise; }
  bool boolean(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!at(key).is_boolean()) unsupported(key, at(key), "true or false");
    return at(key).get<bool>();
  }
  /// The key must be absent or hold one of the values that mean what the decoder does.
  void expect(const std::string& key, const std::vector<Json>& values) const {
    if (!has(key) || std::find(values.begin(), values.end(), at(key)) != values.end()) return;
    unsupported(key, at(key), values.empty() ? "null" : values.front().dump());
  }
  [[noreturn]] void unsupported(const std::string& key, const Json& value, const std::string& expected) const {
    fail("\"" + key + "\": " + describe_value(value) + " is not supported, expected " + expected);
  }

 private:
  std::string file_;
  Json json_;
};

Architecture read_architecture(const ConfigReader& reader) {
  const Json& names = reader.at("architectures");
  if (names.is_array() && names.size() == 1)
    for (const Architecture architecture : kArchitectures)
      if (names[0] == class_name(architecture)) return architecture;
  const Json& shown = names.is_array() && names.size() == 1 ? names[0] : names;
  reader.unsupported("architectures", shown, "GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM");
}

/// Plain rotary embedding only; newer files hold the base in rope_parameters.
double read_rope_theta(const ConfigReader& reader) {
  double theta = reader.number("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!reader.has(key)) continue;
    const Json& value = reader.at(key);
    if (!value.is_object()) reader.unsupported(key, value, "an object");
    for (const auto& [name, item] : value.items()) {
      const std::string path = std::string(key) + "." + name;
      if (name == "rope_theta") {
        theta = reader.number(path, item);
      } else if ((name != "rope_type" && name != "type") || item != "default") {
        reader.unsupported(path, item, "plain rotary embedding (rope_type \"default\")");
      }
    }
  }
  return theta;
}

void read_gpt2(const ConfigReader& reader, ModelConfig& model) {
  model.channels = reader.integer("n_embd");
  model.layers = reader.integer("n_layer");
  model.heads = model.kv_heads = reader.integer("n_head");
  model.max_sequence_length = reader.integer("n_positions");
  model.hidden = reader.integer("n_inner", 4 * model.channels);
  model.norm = NormType::layernorm;
  model.norm_eps = reader.number("layer_norm_epsilon", 1e-5);
  model.position = PositionEncoding::learned;
  model.mlp = MlpType::gelu;
  model.bias = true;
  model.tied_embedding = reader.boolean("tie_word_embeddings", true);
  model.init = InitScheme::gpt2;
  reader.expect("activation_function", {"gelu_new", "gelu_pytorch_tanh"});
  reader.expect("scale_attn_weights", {true});
  reader.expect("scale_attn_by_inverse_layer_idx", {false});
  reader.expect("add_cross_attention", {false});
  if (model.channels % model.heads != 0)
    reader.fail("\"n_embd\" (" + std::to_string(model.channels) + ") must be divisible by \"n_head\" (" +
                std::to_string(model.heads) + ")");
  model.head_dim = model.channels / model.heads;
}

void read_llama_or_qwen3(const ConfigReader& reader, bool qwen3, ModelConfig& model) {
  model.channels = reader.integer("hidden_size");
  model.layers = reader.integer("num_hidden_layers");
  model.heads = reader.integer("num_attention_heads");
  model.kv_heads = reader.integer("num_key_value_heads", model.heads);
  model.hidden = reader.integer("intermediate_size");
  model.max_sequence_length = reader.integer("max_position_embeddings", qwen3 ? 32768 : 2048);
  model.norm = NormType::rmsnorm;
  model.norm_eps = reader.number("rms_norm_eps", 1e-6);
  model.position = PositionEncoding::rope;
  model.rope_theta = read_rope_theta(reader);
  model.mlp = MlpType::swiglu;
  model.tied_embedding = reader.boolean("tie_word_embeddings", false);
  model.qk_norm = qwen3;
  model.init = InitScheme::llama;
  reader.expect("hidden_act", {"silu", "swish"});
  reader.expect("partial_rotary_factor", {1.0});
  const bool attention_bias = reader.boolean("attention_bias", false);
  if (qwen3) {
    if (attention_bias) reader.unsupported("attention_bias", true, "false");
    reader.expect("use_sliding_window", {false});
    if (reader.has("layer_types"))
      for (const Json& type : reader.at("layer_types"))
        if (type != "full_attention") reader.unsupported("layer_types", type, "\"full_attention\"");
  } else {
    model.bias = reader.boolean("mlp_bias", false);
    if (attention_bias != model.bias)
      reader.unsupported("attention_bias", attention_bias,
                         std::string("the value of \"mlp_bias\", ") + (model.bias ? "true" : "false"));
  }
  if (model.heads % model.kv_heads != 0)
    reader.fail("\"num_attention_heads\" (" + std::to_string(model.heads) +
                ") must be divisible by \"num_key_value_heads\" (" + std::to_string(model.kv_heads) + ")");
  if (reader.has("head_dim")) {
    model.head_dim = reader.integer("head_dim");
  } else if (qwen3) {
    model.head_dim = 128;
  } else if (model.channels % model.heads == 0) {
    model.head_dim = model.channels / model.heads;
  } else {
    reader.fail("\"hidden_size\" (" + std::to_string(model.channels) +
                ") must be divisible by \"num_attention_heads\" (" + std::to_string(model.heads) +
                ") unless \"head_dim\" is given");
  }
  if (model.head_dim % 2 != 0) reader.fail("\"head_dim\" (" + std::to_string(model.head_dim) + ") must be even");
}

}  // namespace

std::string class_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::gpt2: return "GPT2LMHeadModel";
    case Architecture::llama: return "LlamaForCausalLM";
    case Architecture::qwen3: return "Qwen3ForCausalLM";
  }
  return "";
}

std::optional<Architecture> architecture_of(const ModelConfig& model, std::string* obstacles) {
  // The preset's own architecture first: it names the obstacles when several are equally near.
  std::array<Architecture, 3> order = kArchitectures;
  std::stable_partition(order.begin(), order.end(), [&](auto one) { return preset_of(one) == model.preset; });
  std::size_t fewest = 0;
  for (const Architecture architecture : order) {
    const std::vector<std::string> found = obstacles_of(architecture, model);
    if (found.empty()) return architecture;
    if (obstacles == nullptr || (fewest != 0 && found.size() >= fewest)) continue;
    fewest = found.size();
    *obstacles = "no Hugging Face architecture expresses this model; " + class_name(architecture) + " is nearest, but ";
    for (std::size_t i = 0; i < found.size(); ++i) *obstacles += (i == 0 ? "" : "; ") + found[i];
  }
  return std::nullopt;
}

std::string hugging_face_config_text(Architecture architecture, const ModelConfig& model, std::int32_t bos_id,
                                     std::int32_t eos_id) {
  const auto id = [](std::int32_t token) { return token < 0 ? Json(nullptr) : Json(token); };
  Json json;
  json["architectures"] = {class_name(architecture)};
  json["bos_token_id"] = id(bos_id);
  json["eos_token_id"] = id(eos_id);
  json["pad_token_id"] = nullptr;
  json["vocab_size"] = model.vocab_size;
  json["initializer_range"] = model.init_std;
  json["tie_word_embeddings"] = model.tied_embedding;
  json["torch_dtype"] = "float32";
  json["use_cache"] = true;
  if (architecture == Architecture::gpt2) {
    json["model_type"] = "gpt2";
    json["n_embd"] = model.channels;
    json["n_layer"] = model.layers;
    json["n_head"] = model.heads;
    json["n_positions"] = model.max_sequence_length;
    json["n_inner"] = model.hidden;
    json["activation_function"] = "gelu_new";
    json["layer_norm_epsilon"] = model.norm_eps;
    // The model was trained without dropout.
    for (const char* key : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) json[key] = 0.0;
    return json.dump(2) + "\n";
  }
  json["model_type"] = architecture == Architecture::qwen3 ? "qwen3" : "llama";
  json["hidden_size"] = model.channels;
  json["intermediate_size"] = model.hidden;
  json["num_hidden_layers"] = model.layers;
  json["num_attention_heads"] = model.heads;
  json["num_key_value_heads"] = model.kv_heads;
  json["head_dim"] = model.head_dim;
  json["max_position_embeddings"] = model.max_sequence_length;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = model.norm_eps;
  json["rope_theta"] = model.rope_theta;
  json["attention_bias"] = model.bias;
  if (architecture == Architecture::llama) json["mlp_bias"] = model.bias;
  json["attention_dropout"] = 0.0;
  return json.dump(2) + "\n";
}

ModelConfig model_config_from_hugging_face(const std::filesystem::path& folder) {
  const ConfigReader reader(folder / "config.json");
  const Architecture architecture = read_architecture(reader);
  reader.expect("quantization_config", {});
  ModelConfig model;
  model.preset = preset_of(architecture);
  model.vocab_size = reader.integer("vocab_size");
  model.init_std = reader.number("initializer_range", 0.02);
  if (architecture == Architecture::gpt2)
    read_gpt2(reader, model);
  else
    read_llama_or_qwen3(reader, architecture == Architecture::qwen3, model);
  return model;
}

}  // namespace sinkscope
