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

constexpr std::array kArchitectures = {Architecture::gpt2, Architecture::llama, Architecture::qwen2,
                                       Architecture::qwen3, Architecture::gpt_neox};
constexpr const char* kMistral = "MistralForCausalLM";
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;  // of any extent, far above every real model

ModelPreset preset_of(Architecture architecture) {
  switch (architecture) {
    case Architecture::gpt2: return ModelPreset::gpt2;
    case Architecture::llama: return ModelPreset::llama;
    case Architecture::qwen2: return ModelPreset::qwen2;
    case Architecture::qwen3: return ModelPreset::qwen3;
    case Architecture::gpt_neox: return ModelPreset::gpt_neox;
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
  const auto truth = [](bool value) { return std::string(value ? "true" : "false"); };
  const auto number = [](std::int64_t value) { return std::to_string(value); };
  const bool gpt2 = architecture == Architecture::gpt2, neox = architecture == Architecture::gpt_neox;
  const bool qwen2 = architecture == Architecture::qwen2, qwen3 = architecture == Architecture::qwen3;
  const bool gpt = gpt2 || neox;
  const NormType norm = gpt ? NormType::layernorm : NormType::rmsnorm;
  const PositionEncoding position = gpt2 ? PositionEncoding::learned : PositionEncoding::rope;
  need(model.norm == norm, "norm", quoted(model.norm), quoted(norm));
  need(model.position == position, "position", quoted(model.position), quoted(position));
  need((model.mlp == MlpType::swiglu) == !gpt, "mlp", quoted(model.mlp),
       gpt ? quoted(MlpType::gelu) + " or " + quoted(MlpType::gelu_erf) : quoted(MlpType::swiglu));
  need(model.attention.sink == AttentionSink::none, "attention.sink", quoted(model.attention.sink),
       quoted(AttentionSink::none));
  need(model.qk_norm == qwen3, "qk_norm", truth(model.qk_norm), truth(qwen3));
  if (gpt) need(model.bias, "bias", "false", "true");
  if (qwen2 || qwen3) need(!model.bias, "bias", "true", "false");
  if (!gpt && !model.bias) need(model.qkv_bias == qwen2, "qkv_bias", truth(model.qkv_bias), truth(qwen2));
  if (!neox) need(!model.parallel_block, "parallel_block", "true", "false");
  if (!neox && position == PositionEncoding::rope)
    need(model.rotary_dim == 0 || model.rotary_dim == model.head_dim, "rotary_dim", number(model.rotary_dim),
         "model.head_dim (" + number(model.head_dim) + ")");
  if (gpt) {
    need(model.kv_heads == model.heads, "kv_heads", number(model.kv_heads),
         "model.heads (" + number(model.heads) + ")");
    need(model.head_dim * model.heads == model.channels, "head_dim", number(model.head_dim),
         "model.channels / model.heads (" + number(model.channels) + " / " + number(model.heads) + ")");
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
  /// For the keys where they are not: null takes away what an absent key leaves at its default.
  bool is_null(const std::string& key) const { return json_.contains(key) && json_.at(key).is_null(); }
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
  /// Of a key or, as "object.key", one of an object in it; a number above 0, where it is given.
  std::optional<double> find_number(const std::string& path) const {
    const std::size_t dot = path.find('.');
    const std::string key = path.substr(0, dot);
    if (!has(key)) return std::nullopt;
    if (dot == std::string::npos) return number(key, at(key));
    const std::string inner = path.substr(dot + 1);
    if (!at(key).is_object() || !at(key).contains(inner) || at(key).at(inner).is_null()) return std::nullopt;
    return number(path, at(key).at(inner));
  }
  /// The number that is given under one of several names; they may not contradict each other.
  struct Named {
    std::string key;
    double value = 0;
  };
  Named agreed(const std::vector<std::string>& paths, double otherwise) const {
    Named found{paths.front(), otherwise};
    bool given = false;
    for (const std::string& path : paths) {
      const std::optional<double> value = find_number(path);
      if (!value) continue;
      if (given && *value != found.value)
        fail("\"" + found.key + "\" (" + Json(found.value).dump() + ") and \"" + path + "\" (" + Json(*value).dump() +
             ") differ");
      found = {path, *value};
      given = true;
    }
    return found;
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
    std::string expected = values.empty() ? "null" : "";
    for (std::size_t i = 0; i < values.size(); ++i)
      expected += (i == 0 ? "" : i + 1 < values.size() ? ", " : " or ") + values[i].dump();
    unsupported(key, at(key), expected);
  }
  [[noreturn]] void unsupported(const std::string& key, const Json& value, const std::string& expected) const {
    fail("\"" + key + "\": " + describe_value(value) + " is not supported, expected " + expected);
  }

 private:
  std::string file_;
  Json json_;
};

/// What config.json says that the model is.
struct ReadClass {
  std::string name;
  Architecture architecture = Architecture::llama;
};

ReadClass read_class(const ConfigReader& reader) {
  const Json& names = reader.at("architectures");
  const Json& shown = names.is_array() && names.size() == 1 ? names[0] : names;
  std::vector<std::string> known;
  for (const Architecture architecture : kArchitectures) {
    if (shown == class_name(architecture)) return {class_name(architecture), architecture};
    known.push_back(class_name(architecture));
  }
  if (shown == kMistral) return {kMistral, Architecture::llama};
  known.emplace_back(kMistral);
  std::sort(known.begin(), known.end());
  std::string list;
  for (std::size_t i = 0; i < known.size(); ++i)
    list += (i == 0 ? "" : i + 1 < known.size() ? ", " : " or ") + known[i];
  reader.unsupported("architectures", shown, list);
}

/// Plain rotary embedding only. Newer files hold its base, and the part of a head that it rotates, in
/// rope_parameters.
void check_plain_rope(const ConfigReader& reader) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!reader.has(key)) continue;
    const Json& value = reader.at(key);
    if (!value.is_object()) reader.unsupported(key, value, "an object");
    for (const auto& [name, item] : value.items()) {
      if (name == "rope_theta" || name == "partial_rotary_factor" || item.is_null()) continue;
      if ((name == "rope_type" || name == "type") && item == "default") continue;
      reader.unsupported(std::string(key) + "." + name, item, "plain rotary embedding (rope_type \"default\")");
    }
  }
}

double read_rope_theta(const ConfigReader& reader, std::vector<std::string> paths) {
  check_plain_rope(reader);
  paths.insert(paths.end(), {"rope_scaling.rope_theta", "rope_parameters.rope_theta"});
  return reader.agreed(paths, 10000.0).value;
}

/// Channels of a head that are rotated; 0 for all.
std::int64_t read_rotary_dim(const ConfigReader& reader, double otherwise, std::int64_t head_dim) {
  const auto [key, fraction] =
      reader.agreed({"partial_rotary_factor", "rotary_pct", "rope_scaling.partial_rotary_factor",
                     "rope_parameters.partial_rotary_factor"},
                    otherwise);
  const auto width = static_cast<std::int64_t>(static_cast<double>(head_dim) * std::min(fraction, 2.0));
  if (width < 2 || width > head_dim || width % 2 != 0)
    reader.fail("\"" + key + "\" (" + Json(fraction).dump() + ") rotates " + std::to_string(width) + " of the " +
                std::to_string(head_dim) + " channels of a head, expected an even number from 2 to that");
  return width == head_dim ? 0 : width;
}

MlpType read_gelu(const ConfigReader& reader, const std::string& key, const std::string& otherwise) {
  const std::vector<Json> exact = {"gelu", "gelu_python"}, approximate = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"};
  const Json value = reader.has(key) ? reader.at(key) : Json(otherwise);
  if (std::find(exact.begin(), exact.end(), value) != exact.end()) return MlpType::gelu_erf;
  if (std::find(approximate.begin(), approximate.end(), value) != approximate.end()) return MlpType::gelu;
  reader.unsupported(key, value, R"("gelu", "gelu_new", "gelu_fast" or "gelu_pytorch_tanh")");
}

/// Channels of a head where all heads together are as wide as the residual stream.
std::int64_t divided_head_dim(const ConfigReader& reader, const ModelConfig& model, const std::string& channels,
                              const std::string& heads, const std::string& unless = "") {
  if (model.channels % model.heads != 0)
    reader.fail("\"" + channels + "\" (" + std::to_string(model.channels) + ") must be divisible by \"" + heads +
                "\" (" + std::to_string(model.heads) + ")" + unless);
  return model.channels / model.heads;
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
  model.mlp = read_gelu(reader, "activation_function", "gelu_new");
  model.bias = true;
  model.tied_embedding = reader.boolean("tie_word_embeddings", true);
  model.init = InitScheme::gpt2;
  reader.expect("scale_attn_weights", {true});
  reader.expect("scale_attn_by_inverse_layer_idx", {false});
  reader.expect("add_cross_attention", {false});
  model.head_dim = divided_head_dim(reader, model, "n_embd", "n_head");
}

void read_gpt_neox(const ConfigReader& reader, ModelConfig& model) {
  model.channels = reader.integer("hidden_size");
  model.layers = reader.integer("num_hidden_layers");
  model.heads = model.kv_heads = reader.integer("num_attention_heads");
  model.hidden = reader.integer("intermediate_size");
  model.max_sequence_length = reader.integer("max_position_embeddings", 2048);
  model.norm = NormType::layernorm;
  model.norm_eps = reader.number("layer_norm_eps", 1e-5);
  model.position = PositionEncoding::rope;
  model.rope_theta = read_rope_theta(reader, {"rotary_emb_base", "rope_theta"});
  model.head_dim = divided_head_dim(reader, model, "hidden_size", "num_attention_heads");
  model.rotary_dim = read_rotary_dim(reader, 0.25, model.head_dim);
  model.mlp = read_gelu(reader, "hidden_act", "gelu");
  model.bias = true;
  model.parallel_block = reader.boolean("use_parallel_residual", true);
  model.tied_embedding = reader.boolean("tie_word_embeddings", false);
  model.init = InitScheme::llama;
  reader.expect("attention_bias", {true});
  reader.expect("head_dim", {model.head_dim});
}

/// The window must never cut a sequence.
void check_sliding_window(const ConfigReader& reader, std::int64_t longest) {
  if (reader.is_null("sliding_window")) return;
  const std::int64_t window = reader.integer("sliding_window", 4096);
  if (window < longest)
    reader.fail(std::string("\"sliding_window\"") + (reader.has("sliding_window") ? "" : ", absent, so") + " (" +
                std::to_string(window) + ") is not supported, expected null or at least \"max_position_embeddings\" (" +
                std::to_string(longest) + ")");
}

void check_full_attention(const ConfigReader& reader) {
  if (!reader.has("layer_types")) return;
  for (const Json& type : reader.at("layer_types"))
    if (type != "full_attention") reader.unsupported("layer_types", type, "\"full_attention\"");
}

/// What the classes without a key of their own for it say by default.
struct RmsnormDefaults {
  std::int64_t kv_heads = 0;  // 0: as many as heads
  std::int64_t max_positions = 0;
  std::int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
};

RmsnormDefaults rmsnorm_defaults(const ReadClass& read) {
  if (read.name == kMistral) return {.kv_heads = 8, .max_positions = 131072};
  if (read.architecture == Architecture::qwen2) return {.kv_heads = 32, .max_positions = 32768};
  if (read.architecture == Architecture::qwen3) return {.kv_heads = 32, .max_positions = 32768, .head_dim = 128};
  return {.max_positions = 2048};
}

/// Llama, Mistral, Qwen2 and Qwen3.
void read_rmsnorm_family(const ConfigReader& reader, const ReadClass& read, ModelConfig& model) {
  const bool mistral = read.name == kMistral;
  const bool qwen2 = read.architecture == Architecture::qwen2, qwen3 = read.architecture == Architecture::qwen3;
  const RmsnormDefaults defaults = rmsnorm_defaults(read);
  model.channels = reader.integer("hidden_size");
  model.layers = reader.integer("num_hidden_layers");
  model.heads = reader.integer("num_attention_heads");
  const bool as_heads = defaults.kv_heads == 0 || reader.is_null("num_key_value_heads");
  model.kv_heads = reader.integer("num_key_value_heads", as_heads ? model.heads : defaults.kv_heads);
  model.hidden = reader.integer("intermediate_size");
  model.max_sequence_length = reader.integer("max_position_embeddings", defaults.max_positions);
  model.norm = NormType::rmsnorm;
  model.norm_eps = reader.number("rms_norm_eps", 1e-6);
  model.position = PositionEncoding::rope;
  model.rope_theta = read_rope_theta(reader, {"rope_theta"});
  model.mlp = MlpType::swiglu;
  model.tied_embedding = reader.boolean("tie_word_embeddings", false);
  model.qk_norm = qwen3;
  model.init = InitScheme::llama;
  reader.expect("hidden_act", {"silu", "swish"});
  if (qwen2 || qwen3) reader.expect("use_sliding_window", {false});
  check_full_attention(reader);
  const bool attention_bias = reader.boolean("attention_bias", false);
  if (qwen3 && attention_bias) reader.unsupported("attention_bias", true, "false");
  if (qwen2) model.qkv_bias = true;  // whatever other keys say
  if (mistral) check_sliding_window(reader, model.max_sequence_length);
  if (read.architecture == Architecture::llama && !mistral) {
    model.bias = reader.boolean("mlp_bias", false);
    if (attention_bias != model.bias)
      reader.unsupported("attention_bias", attention_bias,
                         std::string("the value of \"mlp_bias\", ") + (model.bias ? "true" : "false") +
                             ": the decoder has biases in the output projection and the MLP or in neither");
  }
  if (model.heads % model.kv_heads != 0)
    reader.fail("\"num_attention_heads\" (" + std::to_string(model.heads) +
                ") must be divisible by \"num_key_value_heads\" (" + std::to_string(model.kv_heads) + ")");
  if (reader.has("head_dim") || defaults.head_dim != 0)
    model.head_dim = reader.integer("head_dim", defaults.head_dim);
  else
    model.head_dim =
        divided_head_dim(reader, model, "hidden_size", "num_attention_heads", " unless \"head_dim\" is given");
  if (model.head_dim % 2 != 0) reader.fail("\"head_dim\" (" + std::to_string(model.head_dim) + ") must be even");
  const auto [key, fraction] = reader.agreed(
      {"partial_rotary_factor", "rope_scaling.partial_rotary_factor", "rope_parameters.partial_rotary_factor"}, 1.0);
  if (fraction != 1.0) reader.unsupported(key, fraction, "1.0");
}

}  // namespace

std::string class_name(Architecture architecture) {
  switch (architecture) {
    case Architecture::gpt2: return "GPT2LMHeadModel";
    case Architecture::llama: return "LlamaForCausalLM";
    case Architecture::qwen2: return "Qwen2ForCausalLM";
    case Architecture::qwen3: return "Qwen3ForCausalLM";
    case Architecture::gpt_neox: return "GPTNeoXForCausalLM";
  }
  return "";
}

std::optional<Architecture> architecture_of(const ModelConfig& model, std::string* obstacles) {
  // The preset's own architecture first: it names the obstacles when several are equally near.
  auto order = kArchitectures;
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

namespace {

/// The part of a head that is rotated, so that its product with head_dim, cut to an integer, is the width.
double rotary_fraction(const ModelConfig& model) {
  const auto width = static_cast<double>(model.rotary_dim == 0 ? model.head_dim : model.rotary_dim);
  const auto head_dim = static_cast<double>(model.head_dim);
  double fraction = width / head_dim;
  while (std::floor(head_dim * fraction) < width) fraction = std::nextafter(fraction, 2.0);
  return fraction;
}

}  // namespace

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
  const char* gelu = model.mlp == MlpType::gelu_erf ? "gelu" : "gelu_new";
  if (architecture == Architecture::gpt2) {
    json["model_type"] = "gpt2";
    json["n_embd"] = model.channels;
    json["n_layer"] = model.layers;
    json["n_head"] = model.heads;
    json["n_positions"] = model.max_sequence_length;
    json["n_inner"] = model.hidden;
    json["activation_function"] = gelu;
    json["layer_norm_epsilon"] = model.norm_eps;
    // The model was trained without dropout.
    for (const char* key : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) json[key] = 0.0;
    return json.dump(2) + "\n";
  }
  json["hidden_size"] = model.channels;
  json["intermediate_size"] = model.hidden;
  json["num_hidden_layers"] = model.layers;
  json["num_attention_heads"] = model.heads;
  json["max_position_embeddings"] = model.max_sequence_length;
  json["attention_dropout"] = 0.0;
  if (architecture == Architecture::gpt_neox) {
    json["model_type"] = "gpt_neox";
    json["hidden_act"] = gelu;
    json["hidden_dropout"] = 0.0;
    json["layer_norm_eps"] = model.norm_eps;
    json["rotary_pct"] = rotary_fraction(model);
    json["rotary_emb_base"] = model.rope_theta;
    json["use_parallel_residual"] = model.parallel_block;
    json["attention_bias"] = true;
    return json.dump(2) + "\n";
  }
  const bool qwen2 = architecture == Architecture::qwen2;
  json["model_type"] = qwen2 ? "qwen2" : architecture == Architecture::qwen3 ? "qwen3" : "llama";
  json["num_key_value_heads"] = model.kv_heads;
  json["head_dim"] = model.head_dim;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = model.norm_eps;
  json["rope_theta"] = model.rope_theta;
  if (!qwen2) json["attention_bias"] = model.bias;
  if (architecture == Architecture::llama) json["mlp_bias"] = model.bias;
  if (qwen2) json["use_sliding_window"] = false;
  return json.dump(2) + "\n";
}

ModelConfig model_config_from_hugging_face(const std::filesystem::path& folder) {
  const ConfigReader reader(folder / "config.json");
  const ReadClass read = read_class(reader);
  reader.expect("quantization_config", {});
  ModelConfig model;
  model.preset = preset_of(read.architecture);
  model.vocab_size = reader.integer("vocab_size");
  model.init_std = reader.number("initializer_range", 0.02);
  switch (read.architecture) {
    case Architecture::gpt2: read_gpt2(reader, model); break;
    case Architecture::llama:
    case Architecture::qwen2:
    case Architecture::qwen3: read_rmsnorm_family(reader, read, model); break;
    case Architecture::gpt_neox: read_gpt_neox(reader, model); break;
  }
  return model;
}

}  // namespace sinkscope
