#include "engine/checkpoint/hugging_face.h"

#include <algorithm>
#include <stdexcept>

#include "engine/model/parameters.h"

namespace sinkscope {
namespace {

/// Collects places; shapes follow from the layout.
class Places {
 public:
  explicit Places(const ModelConfig& model) : layout_(model), biased_(model.bias) {}

  void whole(const std::string& name, const std::string& parameter) {
    places_.push_back({name, layout_.find(parameter).shape, parameter, 0, false});
  }
  /// A norm's weight, and its bias where it has one.
  void norm(const std::string& name, const std::string& parameter) {
    whole(name + ".weight", parameter + ".weight");
    if (layout_.contains(parameter + ".bias")) whole(name + ".bias", parameter + ".bias");
  }
  /// Rows of a linear layer; `rows` 0: all.
  void linear(const std::string& name, const std::string& parameter, std::int64_t begin = 0, std::int64_t rows = 0) {
    const std::vector<std::int64_t>& shape = layout_.find(parameter + ".weight").shape;
    const std::int64_t count = rows == 0 ? shape[0] : rows;
    places_.push_back({name + ".weight", {count, shape[1]}, parameter + ".weight", begin, false});
    if (biased_) places_.push_back({name + ".bias", {count}, parameter + ".bias", begin, false});
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
  bool biased_;
  std::vector<TensorPlace> places_;
};

void add_gpt2(const ModelConfig& model, Places& places) {
  places.whole("transformer.wte.weight", "embed.token.weight");
  places.whole("transformer.wpe.weight", "embed.position.weight");
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string to = "transformer.h." + std::to_string(layer), from = "blocks." + std::to_string(layer);
    places.norm(to + ".ln_1", from + ".norm1");
    places.conv1d(to + ".attn.c_attn", from + ".attention.qkv");
    places.conv1d(to + ".attn.c_proj", from + ".attention.output");
    places.norm(to + ".ln_2", from + ".norm2");
    places.conv1d(to + ".mlp.c_fc", from + ".mlp.up");
    places.conv1d(to + ".mlp.c_proj", from + ".mlp.down");
  }
  places.norm("transformer.ln_f", "final_norm");
}

void add_llama_or_qwen3(const ModelConfig& model, Places& places) {
  const std::int64_t query_rows = model.heads * model.head_dim, key_rows = model.kv_heads * model.head_dim;
  places.whole("model.embed_tokens.weight", "embed.token.weight");
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string to = "model.layers." + std::to_string(layer), from = "blocks." + std::to_string(layer);
    places.norm(to + ".input_layernorm", from + ".norm1");
    places.linear(to + ".self_attn.q_proj", from + ".attention.qkv", 0, query_rows);
    places.linear(to + ".self_attn.k_proj", from + ".attention.qkv", query_rows, key_rows);
    places.linear(to + ".self_attn.v_proj", from + ".attention.qkv", query_rows + key_rows, key_rows);
    if (model.qk_norm) {
      places.norm(to + ".self_attn.q_norm", from + ".attention.q_norm");
      places.norm(to + ".self_attn.k_norm", from + ".attention.k_norm");
    }
    places.linear(to + ".self_attn.o_proj", from + ".attention.output");
    places.norm(to + ".post_attention_layernorm", from + ".norm2");
    places.linear(to + ".mlp.gate_proj", from + ".mlp.gate_up", 0, model.hidden);
    places.linear(to + ".mlp.up_proj", from + ".mlp.gate_up", model.hidden, model.hidden);
    places.linear(to + ".mlp.down_proj", from + ".mlp.down");
  }
  places.norm("model.norm", "final_norm");
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
  if (*architecture == Architecture::gpt2)
    add_gpt2(model, places);
  else
    add_llama_or_qwen3(model, places);
  if (!model.tied_embedding) places.whole("lm_head.weight", "head.weight");
  return places.take();
}

bool is_buffer(const std::string& tensor) {
  // The causal mask of GPT-2's early files and the frequencies of Llama's.
  return ends_with(tensor, ".attn.bias") || ends_with(tensor, ".attn.masked_bias") ||
         ends_with(tensor, ".rotary_emb.inv_freq");
}

std::string tokenizer_file_name(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  if (name == "encoder.json") return "vocab.json";
  if (name == "vocab.bpe") return "merges.txt";
  return file.extension() == ".model" ? "tokenizer.model" : name;
}

}  // namespace sinkscope
