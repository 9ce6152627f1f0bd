#include "engine/checkpoint/hugging_face.h"

#include <algorithm>
#include <stdexcept>

#include "engine/model/parameters.h"

namespace sinkscope {
namespace {

/// Collects places; shapes follow from the layout.
class Places {
 public:
  explicit Places(const ModelConfig& model) : layout_(model) {}

  void whole(const std::string& name, const std::string& parameter) {
    places_.push_back({name, layout_.find(parameter).shape, parameter});
  }
  /// Weight and, where there is one, bias of a norm or a linear layer.
  void layer(const std::string& name, const std::string& parameter) {
    whole(name + ".weight", parameter + ".weight");
    if (layout_.contains(parameter + ".bias")) whole(name + ".bias", parameter + ".bias");
  }
  /// Some rows of a linear layer.
  void rows(const std::string& name, const std::string& parameter, std::int64_t begin, std::int64_t count) {
    const std::int64_t columns = layout_.find(parameter + ".weight").shape[1];
    places_.push_back({name + ".weight", {count, columns}, parameter + ".weight", begin});
    if (layout_.contains(parameter + ".bias")) places_.push_back({name + ".bias", {count}, parameter + ".bias", begin});
  }
  /// A linear layer whose rows the file holds in another order.
  void reordered(const std::string& name, const std::string& parameter, const std::vector<std::int64_t>& order) {
    for (const char* part : {".weight", ".bias"}) {
      whole(name + part, parameter + part);
      places_.back().rows = order;
    }
  }
  /// GPT-2's Conv1D keeps its weight as (in, out).
  void conv1d(const std::string& name, const std::string& parameter) {
    const std::vector<std::int64_t>& shape = layout_.find(parameter + ".weight").shape;
    places_.push_back({name + ".weight", {shape[1], shape[0]}, parameter + ".weight", 0, true});
    whole(name + ".bias", parameter + ".bias");
  }
  std::vector<TensorPlace> take() { return std::move(places_); }

 private:
  ParameterLayout layout_;
  std::vector<TensorPlace> places_;
};

void add_gpt2(const ModelConfig& model, Places& places) {
  places.whole("transformer.wte.weight", "embed.token.weight");
  places.whole("transformer.wpe.weight", "embed.position.weight");
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string to = "transformer.h." + std::to_string(layer), from = "blocks." + std::to_string(layer);
    places.layer(to + ".ln_1", from + ".norm1");
    places.conv1d(to + ".attn.c_attn", from + ".attention.qkv");
    places.conv1d(to + ".attn.c_proj", from + ".attention.output");
    places.layer(to + ".ln_2", from + ".norm2");
    places.conv1d(to + ".mlp.c_fc", from + ".mlp.up");
    places.conv1d(to + ".mlp.c_proj", from + ".mlp.down");
  }
  places.layer("transformer.ln_f", "final_norm");
}

void add_llama_or_qwen(const ModelConfig& model, Places& places) {
  const std::int64_t query_rows = model.heads * model.head_dim, key_rows = model.kv_heads * model.head_dim;
  places.whole("model.embed_tokens.weight", "embed.token.weight");
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string to = "model.layers." + std::to_string(layer), from = "blocks." + std::to_string(layer);
    places.layer(to + ".input_layernorm", from + ".norm1");
    places.rows(to + ".self_attn.q_proj", from + ".attention.qkv", 0, query_rows);
    places.rows(to + ".self_attn.k_proj", from + ".attention.qkv", query_rows, key_rows);
    places.rows(to + ".self_attn.v_proj", from + ".attention.qkv", query_rows + key_rows, key_rows);
    if (model.qk_norm) {
      places.layer(to + ".self_attn.q_norm", from + ".attention.q_norm");
      places.layer(to + ".self_attn.k_norm", from + ".attention.k_norm");
    }
    places.layer(to + ".self_attn.o_proj", from + ".attention.output");
    places.layer(to + ".post_attention_layernorm", from + ".norm2");
    places.rows(to + ".mlp.gate_proj", from + ".mlp.gate_up", 0, model.hidden);
    places.rows(to + ".mlp.up_proj", from + ".mlp.gate_up", model.hidden, model.hidden);
    places.layer(to + ".mlp.down_proj", from + ".mlp.down");
  }
  places.layer("model.norm", "final_norm");
}

/// GPT-NeoX keeps query, key and value rows of a head together: (H, 3, D) rows, ours are (3, H, D).
std::vector<std::int64_t> neox_qkv_rows(const ModelConfig& model) {
  std::vector<std::int64_t> rows;
  for (std::int64_t head = 0; head < model.heads; ++head)
    for (std::int64_t part = 0; part < 3; ++part)
      for (std::int64_t d = 0; d < model.head_dim; ++d)
        rows.push_back((part * model.heads + head) * model.head_dim + d);
  return rows;
}

void add_gpt_neox(const ModelConfig& model, Places& places) {
  const std::vector<std::int64_t> qkv_rows = neox_qkv_rows(model);
  places.whole("gpt_neox.embed_in.weight", "embed.token.weight");
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string to = "gpt_neox.layers." + std::to_string(layer), from = "blocks." + std::to_string(layer);
    places.layer(to + ".input_layernorm", from + ".norm1");
    places.reordered(to + ".attention.query_key_value", from + ".attention.qkv", qkv_rows);
    places.layer(to + ".attention.dense", from + ".attention.output");
    places.layer(to + ".post_attention_layernorm", from + ".norm2");
    places.layer(to + ".mlp.dense_h_to_4h", from + ".mlp.up");
    places.layer(to + ".mlp.dense_4h_to_h", from + ".mlp.down");
  }
  places.layer("gpt_neox.final_layer_norm", "final_norm");
}

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && std::string_view(text).substr(text.size() - end.size()) == end;
}

}  // namespace

std::vector<TensorPlace> tensor_places(std::optional<Architecture> architecture, const ModelConfig& model) {
  Places places(model);
  if (!architecture) {
    const ParameterLayout layout(model);
    for (const ParameterSpec& spec : layout.specs()) places.whole(spec.name, spec.name);
    return places.take();
  }
  switch (*architecture) {
    case Architecture::gpt2: add_gpt2(model, places); break;
    case Architecture::llama:
    case Architecture::qwen2:
    case Architecture::qwen3: add_llama_or_qwen(model, places); break;
    case Architecture::gpt_neox: add_gpt_neox(model, places); break;
  }
  if (!model.tied_embedding) places.whole(head_name(*architecture), "head.weight");
  return places.take();
}

std::string head_name(Architecture architecture) {
  return architecture == Architecture::gpt_neox ? "embed_out.weight" : "lm_head.weight";
}

bool is_buffer(const std::string& tensor) {
  // The causal masks of GPT-2's and GPT-NeoX's early files, the frequencies of Llama's and GPT-NeoX's.
  return ends_with(tensor, ".attn.bias") || ends_with(tensor, ".attn.masked_bias") ||
         ends_with(tensor, ".attention.bias") || ends_with(tensor, ".attention.masked_bias") ||
         ends_with(tensor, ".rotary_emb.inv_freq");
}

std::string tokenizer_file_name(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  if (name == "encoder.json") return "vocab.json";
  if (name == "vocab.bpe") return "merges.txt";
  return file.extension() == ".model" ? "tokenizer.model" : name;
}

}  // namespace sinkscope
