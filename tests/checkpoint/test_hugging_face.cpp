#include <algorithm>
#include <cstring>

#include "engine/checkpoint/safetensors.h"
#include "engine/model/random.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// A model of the family with sizes and switches drawn at random, all that the family can express.
ModelConfig random_model(ModelPreset preset, std::uint64_t seed) {
  std::uint64_t index = 0;
  const auto draw = [&](std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(random_bits(seed, index++) % static_cast<std::uint64_t>(most - least + 1));
  };
  ModelConfig model = small_model(preset);
  model.layers = draw(1, 3);
  model.kv_heads = draw(1, 3);
  model.heads = model.kv_heads * draw(1, 3);
  model.head_dim = 2 * draw(1, 4);
  model.channels = draw(1, 20);
  model.hidden = draw(1, 30);
  model.vocab_size = draw(2, 40);
  model.max_sequence_length = draw(1, 50);
  model.norm_eps = 1e-6 * static_cast<double>(draw(1, 9));
  model.tied_embedding = draw(0, 1) == 1;
  if (preset == ModelPreset::gpt2) {
    model.kv_heads = model.heads;
    model.channels = model.heads * model.head_dim;
  } else {
    model.rope_theta = 1000.0 * static_cast<double>(draw(1, 999));
  }
  if (preset == ModelPreset::llama) model.bias = draw(0, 1) == 1;
  return model;
}

std::vector<float> tensor_of(const std::filesystem::path& folder, const std::string& name, std::size_t size) {
  std::vector<float> values(size);
  SafetensorsFile(folder / "model.safetensors").read(name, values);
  return values;
}

/// Writes the model file again with one change.
template <class Change>
void rewrite(const std::filesystem::path& folder, Change&& change) {
  std::vector<SafetensorsEntry> entries;
  std::vector<std::vector<float>> values;
  {
    const SafetensorsFile file(folder / "model.safetensors");
    values.reserve(file.names().size() + 1);
    for (const std::string& name : file.names()) {
      std::size_t size = 1;
      for (const std::int64_t extent : file.shape(name)) size *= static_cast<std::size_t>(extent);
      values.emplace_back(size);
      file.read(name, values.back());
      entries.push_back({name, file.shape(name), values.back()});
    }
  }
  change(entries);
  write_safetensors(folder / "model.safetensors", entries, {});
}

struct Exported {
  explicit Exported(ModelPreset preset) : model(small_model(preset)), arrays(model), path(folder.path() / "model") {
    export_hugging_face(path, checkpoint_data(model, arrays, 1));
  }
  std::string load_problem() {
    std::vector<float> flat(arrays.parameters.size());
    return message_of(path, [&] { load_hugging_face(path, model, flat); });
  }
  std::string config_problem(const std::string& from, const std::string& to) {
    replace_in_file(path / "config.json", from, to);
    return message_of(path, [&] { model_config_from_hugging_face(path); });
  }
  TemporaryFolder folder;
  ModelConfig model;
  Arrays arrays;
  std::filesystem::path path;
};

}  // namespace

TEST_CASE("every model that a family expresses survives export and load") {
  const auto preset = GENERATE(ModelPreset::gpt2, ModelPreset::llama, ModelPreset::qwen3);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const TemporaryFolder folder;
    const ModelConfig model = random_model(preset, seed);
    const Arrays arrays(model, seed);
    export_hugging_face(folder.path() / "out", checkpoint_data(model, arrays, 1));
    const ModelConfig read = model_config_from_hugging_face(folder.path() / "out");
    INFO("preset " << to_string(preset) << ", seed " << seed);
    CHECK(read.preset == preset);
    CHECK(read.layers == model.layers);
    CHECK(read.channels == model.channels);
    CHECK(read.heads == model.heads);
    CHECK(read.kv_heads == model.kv_heads);
    CHECK(read.head_dim == model.head_dim);
    CHECK(read.hidden == model.hidden);
    CHECK(read.vocab_size == model.vocab_size);
    CHECK(read.max_sequence_length == model.max_sequence_length);
    CHECK(read.norm == model.norm);
    CHECK(read.norm_eps == model.norm_eps);
    CHECK(read.position == model.position);
    CHECK(read.rope_theta == model.rope_theta);
    CHECK(read.mlp == model.mlp);
    CHECK(read.bias == model.bias);
    CHECK(read.tied_embedding == model.tied_embedding);
    CHECK(read.qk_norm == model.qk_norm);
    std::vector<float> flat(arrays.parameters.size(), 9.0F);
    load_hugging_face(folder.path() / "out", read, flat);
    CHECK(flat == arrays.parameters);
    std::vector<std::string> tensors;
    for (const HuggingFaceTensor& tensor : hugging_face_tensors(model)) tensors.push_back(tensor.name);
    std::sort(tensors.begin(), tensors.end());
    CHECK(tensors == SafetensorsFile(folder.path() / "out/model.safetensors").names());
    CHECK(names_in(folder.path() / "out") ==
          std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors"});
  }
}

TEST_CASE("GPT-2's matrices are stored input first, Llama's packed rows apart") {
  const Exported gpt2(ModelPreset::gpt2);
  const ParameterLayout layout(gpt2.model);
  const float* qkv = gpt2.arrays.parameters.data() + layout.find("blocks.1.attention.qkv.weight").offset;
  const auto stored = tensor_of(gpt2.path, "transformer.h.1.attn.c_attn.weight", 12 * 36);
  for (std::size_t in = 0; in < 12; ++in)
    for (std::size_t out = 0; out < 36; ++out) REQUIRE(stored[in * 36 + out] == qkv[out * 12 + in]);

  const Exported llama(ModelPreset::llama);
  const ParameterLayout rows(llama.model);
  const float* packed = llama.arrays.parameters.data() + rows.find("blocks.0.attention.qkv.weight").offset;
  const auto value = tensor_of(llama.path, "model.layers.0.self_attn.v_proj.weight", 4 * 12);
  CHECK(std::equal(value.begin(), value.end(), packed + 16 * 12));
  const float* gate_up = llama.arrays.parameters.data() + rows.find("blocks.0.mlp.gate_up.weight").offset;
  const auto up = tensor_of(llama.path, "model.layers.0.mlp.up_proj.weight", 20 * 12);
  CHECK(std::equal(up.begin(), up.end(), gate_up + 20 * 12));
}

TEST_CASE("a model that no architecture expresses is refused with the field named") {
  const TemporaryFolder folder;
  const auto refusal = [&](const ModelConfig& model) {
    const Arrays arrays(model);
    return message_of(folder.path(), [&] { export_hugging_face(folder.path() / "x", checkpoint_data(model, arrays, 1)); });
  };
  const std::string start = "@/x: no Hugging Face architecture expresses this model; ";
  ModelConfig model = small_model(ModelPreset::llama);
  model.position = PositionEncoding::none;
  CHECK(refusal(model) == start + "LlamaForCausalLM is nearest, but model.position is \"none\", it needs \"rope\"");
  model = small_model(ModelPreset::qwen3);
  model.bias = true;
  CHECK(refusal(model) == start + "Qwen3ForCausalLM is nearest, but model.bias is true, it needs false");
  model = small_model(ModelPreset::gpt2);
  model.kv_heads = 1;
  CHECK(refusal(model) ==
        start + "GPT2LMHeadModel is nearest, but model.kv_heads is 1, it needs model.heads (3)");
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("a folder that is there is not written over, and a full disk leaves none") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  write_file(folder.path() / "mine", "text");
  CHECK(message_of(folder.path(), [&] { export_hugging_face(folder.path() / "mine", checkpoint_data(model, arrays, 1)); }) ==
        "@/mine: already exists");
  std::string message;
  {
    const FileSizeLimit full(1000);
    message = message_of(folder.path(), [&] { export_hugging_face(folder.path() / "new", checkpoint_data(model, arrays, 1)); });
  }
  CHECK(message == "@/.new.partial/model.safetensors: cannot write: File too large");
  CHECK(names_in(folder.path()) == std::vector<std::string>{"mine"});
}

TEST_CASE("tokenizer files take the names that transformers expects") {
  const TemporaryFolder folder;
  for (const char* name : {"encoder.json", "vocab.bpe", "tok.model"}) write_file(folder.path() / name, name);
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  CheckpointData data = checkpoint_data(model, arrays, 1);
  data.tokenizer_files = {folder.path() / "tok.model"};
  const auto saved = save_checkpoint(folder.path() / "checkpoints", data, 0);
  data.tokenizer_files = read_checkpoint_info(saved).tokenizer_files;
  export_hugging_face(folder.path() / "llama", data);
  CHECK(read_file(folder.path() / "llama" / "tokenizer.model") == "tok.model");
  CHECK(read_file(folder.path() / "llama" / "tokenizer_config.json").find("LlamaTokenizer") != std::string::npos);
  data.tokenizer_files = {folder.path() / "encoder.json", folder.path() / "vocab.bpe"};
  export_hugging_face(folder.path() / "gpt2", data);
  CHECK(read_file(folder.path() / "gpt2" / "vocab.json") == "encoder.json");
  CHECK(read_file(folder.path() / "gpt2" / "merges.txt") == "vocab.bpe");
}

TEST_CASE("tensors that are missing, unexpected or of another shape are named") {
  Exported exported(ModelPreset::llama);
  const std::vector<float> extra(12, 1.0F);
  SECTION("missing") {
    rewrite(exported.path, [](auto& entries) {
      std::erase_if(entries, [](const auto& entry) { return entry.name == "model.norm.weight"; });
    });
    CHECK(exported.load_problem() == "@/model.safetensors: tensor model.norm.weight is missing");
  }
  SECTION("unexpected") {
    rewrite(exported.path, [&](auto& entries) { entries.push_back({"model.extra", {12}, extra}); });
    CHECK(exported.load_problem() ==
          "@/model.safetensors: tensor model.extra is unexpected: LlamaForCausalLM as configured has none of this name");
  }
  SECTION("another shape") {
    rewrite(exported.path, [](auto& entries) {
      for (auto& entry : entries)
        if (entry.name == "model.norm.weight") entry.shape = {3, 4};
    });
    CHECK(exported.load_problem() == "@/model.safetensors: tensor model.norm.weight: shape (3, 4), expected (12)");
  }
  SECTION("buffers of old files are passed over") {
    rewrite(exported.path,
            [&](auto& entries) { entries.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {12}, extra}); });
    CHECK(exported.load_problem().empty());
  }
  SECTION("no file") {
    std::filesystem::remove(exported.path / "model.safetensors");
    CHECK(exported.load_problem() == "@: neither model.safetensors nor model.safetensors.index.json is there");
  }
}

TEST_CASE("a tied model's repeated head must be the embedding, and the hub's short GPT-2 names are known") {
  Exported exported(ModelPreset::gpt2);
  std::vector<float> head = tensor_of(exported.path, "transformer.wte.weight", 17 * 12);
  rewrite(exported.path, [&](auto& entries) {
    for (auto& entry : entries) entry.name = entry.name.substr(std::strlen("transformer."));
    entries.push_back({"lm_head.weight", {17, 12}, head});
  });
  CHECK(exported.load_problem().empty());
  head[5] += 1.0F;
  rewrite(exported.path, [&](auto& entries) {
    for (auto& entry : entries)
      if (entry.name == "lm_head.weight") entry.data = head;
  });
  CHECK(exported.load_problem() == "@/model.safetensors: tensor lm_head.weight differs from the token embedding, "
                                   "which the model ties it to");
}

TEST_CASE("shards are read through their index") {
  Exported exported(ModelPreset::qwen3);
  std::string map;
  {
    const SafetensorsFile file(exported.path / "model.safetensors");
    std::vector<SafetensorsEntry> shards[2];
    std::vector<std::vector<float>> values;
    values.reserve(file.names().size());
    for (const std::string& name : file.names()) {
      const std::size_t shard = values.size() % 2;
      std::size_t size = 1;
      for (const std::int64_t extent : file.shape(name)) size *= static_cast<std::size_t>(extent);
      values.emplace_back(size);
      file.read(name, values.back());
      shards[shard].push_back({name, file.shape(name), values.back()});
      map.append(map.empty() ? "" : ",").append("\"").append(name).append(shard == 0 ? "\":\"a\"" : "\":\"b\"");
    }
    write_safetensors(exported.path / "a", shards[0], {});
    write_safetensors(exported.path / "b", shards[1], {});
  }
  const auto index = exported.path / "model.safetensors.index.json";
  std::filesystem::remove(exported.path / "model.safetensors");
  write_file(index, "{\"weight_map\":{" + map + "}}");
  std::vector<float> flat(exported.arrays.parameters.size());
  load_hugging_face(exported.path, exported.model, flat);
  CHECK(flat == exported.arrays.parameters);

  replace_in_file(index, "\"model.norm.weight\":\"a\"", "\"model.norm.weight\":\"../a\"");
  CHECK(exported.load_problem() == "@/model.safetensors.index.json: weight_map.model.norm.weight: expected a file "
                                   "name, found the string \"../a\"");
  replace_in_file(index, "\"model.norm.weight\":\"../a\"", "\"model.norm.weight\":\"b\"");
  CHECK(exported.load_problem() == "@/b: tensor model.norm.weight is missing, but model.safetensors.index.json "
                                   "places it there");
  write_file(index, "{\"weight_map\":" + std::string(100000, '['));
  CHECK(exported.load_problem() == "@/model.safetensors.index.json: nested deeper than 32 levels");
}

TEST_CASE("a config.json that says what the decoder cannot do is refused with the key") {
  Exported exported(ModelPreset::llama);
  const auto& problem = [&](const std::string& from, const std::string& to) {
    const std::string message = exported.config_problem(from, to);
    replace_in_file(exported.path / "config.json", to, from);
    return message;
  };
  CHECK(problem("\"hidden_size\"", "\"hidden\"") == "@/config.json: missing key \"hidden_size\"");
  CHECK(problem("\"silu\"", "\"relu\"") ==
        "@/config.json: \"hidden_act\": the string \"relu\" is not supported, expected \"silu\"");
  CHECK(problem("\"use_cache\": true", "\"rope_scaling\": {\"rope_type\": \"llama3\"}") ==
        "@/config.json: \"rope_scaling.rope_type\": the string \"llama3\" is not supported, expected plain rotary "
        "embedding (rope_type \"default\")");
  CHECK(problem("\"mlp_bias\": false", "\"mlp_bias\": true") ==
        "@/config.json: \"attention_bias\": false is not supported, expected the value of \"mlp_bias\", true");
  CHECK(problem("\"vocab_size\": 17", "\"vocab_size\": -1") ==
        "@/config.json: \"vocab_size\": the integer -1 is not supported, expected an integer from 1 to 16777216");
  CHECK(problem("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2") ==
        "@/config.json: \"num_attention_heads\" (3) must be divisible by \"num_key_value_heads\" (2)");
  CHECK(problem("LlamaForCausalLM", "MistralForCausalLM") ==
        "@/config.json: \"architectures\": the string \"MistralForCausalLM\" is not supported, expected "
        "GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM");
  std::filesystem::remove(exported.path / "config.json");
  CHECK(message_of(exported.path, [&] { model_config_from_hugging_face(exported.path); }) ==
        "@/config.json: cannot open: No such file or directory");
}
