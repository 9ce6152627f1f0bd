#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

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
    model.mlp = draw(0, 1) == 1 ? MlpType::gelu : MlpType::gelu_erf;
  } else {
    model.rope_theta = 1000.0 * static_cast<double>(draw(1, 999));
  }
  if (preset == ModelPreset::llama) model.bias = draw(0, 1) == 1;
  if (preset == ModelPreset::gpt_neox) {
    model.kv_heads = model.heads;
    model.head_dim = draw(2, 60);
    model.channels = model.heads * model.head_dim;
    model.mlp = draw(0, 1) == 1 ? MlpType::gelu : MlpType::gelu_erf;
    model.parallel_block = draw(0, 1) == 1;
    model.rotary_dim = 2 * draw(1, model.head_dim / 2);
    if (model.rotary_dim == model.head_dim) model.rotary_dim = 0;  // the same in fewer words
  }
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

std::uint16_t bfloat16_bits(float value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U);
}

/// Of a value that is zero or a normal half exactly.
std::uint16_t half_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value == 0.0F) return static_cast<std::uint16_t>(bits >> 16U);
  return static_cast<std::uint16_t>((bits >> 16U & 0x8000U) | (((bits >> 23U & 0xffU) - 112U) << 10U) |
                                    (bits >> 13U & 0x3ffU));
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
  const auto preset = GENERATE(ModelPreset::gpt2, ModelPreset::llama, ModelPreset::qwen2, ModelPreset::qwen3,
                               ModelPreset::gpt_neox);
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
    CHECK(read.rotary_dim == model.rotary_dim);
    CHECK(read.mlp == model.mlp);
    CHECK(read.qkv_bias == model.qkv_bias);
    CHECK(read.parallel_block == model.parallel_block);
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

TEST_CASE("Qwen2 has biases of queries, keys and values and no other") {
  const Exported qwen2(ModelPreset::qwen2);
  const ParameterLayout layout(qwen2.model);
  const float* bias = qwen2.arrays.parameters.data() + layout.find("blocks.1.attention.qkv.bias").offset;
  const auto key = tensor_of(qwen2.path, "model.layers.1.self_attn.k_proj.bias", 4);
  CHECK(std::equal(key.begin(), key.end(), bias + 12));
  std::size_t biases = 0;
  for (const std::string& name : SafetensorsFile(qwen2.path / "model.safetensors").names())
    if (name.ends_with(".bias")) ++biases;
  CHECK(biases == 2 * 3);
}

TEST_CASE("GPT-NeoX's queries, keys and values lie together head by head") {
  const Exported neox(ModelPreset::gpt_neox);
  const ParameterLayout layout(neox.model);
  const std::size_t H = 3, D = 4, C = 12;
  const float* qkv = neox.arrays.parameters.data() + layout.find("blocks.1.attention.qkv.weight").offset;
  const float* bias = neox.arrays.parameters.data() + layout.find("blocks.1.attention.qkv.bias").offset;
  const auto stored = tensor_of(neox.path, "gpt_neox.layers.1.attention.query_key_value.weight", 3 * H * D * C);
  const auto stored_bias = tensor_of(neox.path, "gpt_neox.layers.1.attention.query_key_value.bias", 3 * H * D);
  for (std::size_t head = 0; head < H; ++head)
    for (std::size_t part = 0; part < 3; ++part)
      for (std::size_t d = 0; d < D; ++d) {
        const std::size_t there = (head * 3 + part) * D + d, here = (part * H + head) * D + d;
        CHECK(stored_bias[there] == bias[here]);
        for (std::size_t c = 0; c < C; ++c) REQUIRE(stored[there * C + c] == qkv[here * C + c]);
      }
}

TEST_CASE("a model that no architecture expresses is refused with the field named") {
  const TemporaryFolder folder;
  const auto refusal = [&](const ModelConfig& model) {
    const Arrays arrays(model);
    return message_of(folder.path(),
                      [&] { export_hugging_face(folder.path() / "x", checkpoint_data(model, arrays, 1)); });
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
  model = small_model(ModelPreset::qwen2);
  model.rotary_dim = 2;
  CHECK(refusal(model) ==
        start + "Qwen2ForCausalLM is nearest, but model.rotary_dim is 2, it needs model.head_dim (4)");
  model = small_model(ModelPreset::llama);
  model.parallel_block = true;
  CHECK(refusal(model) == start + "LlamaForCausalLM is nearest, but model.parallel_block is true, it needs false");
  model = small_model(ModelPreset::gpt_neox);
  model.bias = false;
  CHECK(refusal(model) == start + "GPTNeoXForCausalLM is nearest, but model.bias is false, it needs true");
  model = small_model(ModelPreset::gpt_neox);
  model.mlp = MlpType::swiglu;
  CHECK(refusal(model) ==
        start + "GPTNeoXForCausalLM is nearest, but model.mlp is \"swiglu\", it needs \"gelu\" or \"gelu_erf\"");
  for (const auto& [preset, architecture] :
       {std::pair{ModelPreset::gpt2, "GPT2LMHeadModel"}, {ModelPreset::llama, "LlamaForCausalLM"},
        {ModelPreset::qwen2, "Qwen2ForCausalLM"}, {ModelPreset::qwen3, "Qwen3ForCausalLM"},
        {ModelPreset::gpt_neox, "GPTNeoXForCausalLM"}})
    for (const AttentionSink sink : {AttentionSink::off_by_one, AttentionSink::learned}) {
      model = small_model(preset);
      model.attention.sink = sink;
      CHECK(refusal(model) == start + architecture + " is nearest, but model.attention.sink is \"" +
                                  std::string(to_string(sink)) + "\", it needs \"none\"");
    }
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("a folder that is there is not written over, and a full disk leaves none") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  write_file(folder.path() / "mine", "text");
  CHECK(message_of(folder.path(), [&] {
          export_hugging_face(folder.path() / "mine", checkpoint_data(model, arrays, 1));
        }) == "@/mine: already exists");
  std::string message;
  {
    const FileSizeLimit full(1000);
    message = message_of(folder.path(),
                         [&] { export_hugging_face(folder.path() / "new", checkpoint_data(model, arrays, 1)); });
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
    CHECK(
        exported.load_problem() ==
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
  SECTION("GPT-NeoX's too, which are no numbers that the model has") {
    Exported neox(ModelPreset::gpt_neox);
    rewrite(neox.path, [&](auto& entries) {
      for (const char* buffer : {"attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"})
        entries.push_back({std::string("gpt_neox.layers.1.") + buffer, {12}, extra});
    });
    CHECK(neox.load_problem().empty());
    rewrite(neox.path, [&](auto& entries) { entries.push_back({"gpt_neox.layers.1.attention.scale", {12}, extra}); });
    CHECK(neox.load_problem() == "@/model.safetensors: tensor gpt_neox.layers.1.attention.scale is unexpected: "
                                 "GPTNeoXForCausalLM as configured has none of this name");
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

TEST_CASE("a tied GPT-NeoX's head has a name of its own") {
  const TemporaryFolder folder;
  ModelConfig model = small_model(ModelPreset::gpt_neox);
  model.tied_embedding = true;
  const Arrays arrays(model);
  const auto path = folder.path() / "model";
  export_hugging_face(path, checkpoint_data(model, arrays, 1));
  std::vector<float> head = tensor_of(path, "gpt_neox.embed_in.weight", 17 * 12), flat(arrays.parameters.size());
  const auto problem = [&] { return message_of(path, [&] { load_hugging_face(path, model, flat); }); };
  rewrite(path, [&](auto& entries) { entries.push_back({"embed_out.weight", {17, 12}, head}); });
  CHECK(problem().empty());
  CHECK(flat == arrays.parameters);
  head[7] += 1.0F;
  rewrite(path, [&](auto& entries) {
    for (auto& entry : entries)
      if (entry.name == "embed_out.weight") entry.data = head;
  });
  CHECK(problem() ==
        "@/model.safetensors: tensor embed_out.weight differs from the token embedding, which the model ties it to");
}

TEST_CASE("half precision loads too, reordered, transposed and split tensors included") {
  const auto preset = GENERATE(ModelPreset::gpt2, ModelPreset::llama, ModelPreset::qwen2, ModelPreset::qwen3,
                               ModelPreset::gpt_neox);
  const auto [dtype, convert] = GENERATE(std::pair<std::string, std::uint16_t (*)(float)>{"BF16", bfloat16_bits},
                                         std::pair<std::string, std::uint16_t (*)(float)>{"F16", half_bits});
  INFO(to_string(preset) << ", " << dtype);
  Exported exported(preset);
  // Values that both formats hold exactly: small integers.
  const ParameterLayout layout(exported.model);
  for (const ParameterSpec& spec : layout.specs())
    for (std::int64_t i = spec.offset; i < spec.offset + spec.size; ++i)
      exported.arrays.parameters[static_cast<std::size_t>(i)] = static_cast<float>(i % 251 - 125);
  std::filesystem::remove_all(exported.path);
  export_hugging_face(exported.path, checkpoint_data(exported.model, exported.arrays, 1));
  std::string header, data;
  {
    const SafetensorsFile file(exported.path / "model.safetensors");
    for (const std::string& name : file.names()) {
      std::size_t size = 1;
      std::string shape;
      for (const std::int64_t extent : file.shape(name)) {
        size *= static_cast<std::size_t>(extent);
        shape.append(shape.empty() ? "" : ",").append(std::to_string(extent));
      }
      const std::string begin = std::to_string(data.size());
      for (const float value : tensor_of(exported.path, name, size)) {
        const std::uint16_t bits = convert(value);
        data.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
      }
      header.append(header.empty() ? "{\"" : ",\"").append(name).append("\":{\"dtype\":\"").append(dtype);
      header.append("\",\"shape\":[").append(shape).append("],\"data_offsets\":[").append(begin).append(",");
      header.append(std::to_string(data.size())).append("]}");
    }
  }
  write_raw_safetensors(exported.path / "model.safetensors", header + "}", data);
  std::vector<float> flat(exported.arrays.parameters.size());
  load_hugging_face(exported.path, exported.model, flat);
  CHECK(flat == exported.arrays.parameters);
}

TEST_CASE("shards are read through their index") {
  Exported exported(GENERATE(ModelPreset::qwen3, ModelPreset::qwen2, ModelPreset::gpt_neox));
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

  const std::string norm =
      exported.model.preset == ModelPreset::gpt_neox ? "gpt_neox.final_layer_norm.weight" : "model.norm.weight";
  const bool first = map.find("\"" + norm + "\":\"a\"") != std::string::npos;
  const std::string held = "\"" + norm + (first ? "\":\"a\"" : "\":\"b\""), other = first ? "b" : "a";
  replace_in_file(index, held, "\"" + norm + "\":\"../a\"");
  CHECK(exported.load_problem() == "@/model.safetensors.index.json: weight_map." + norm + ": expected a file "
                                   "name, found the string \"../a\"");
  replace_in_file(index, "\"" + norm + "\":\"../a\"", "\"" + norm + "\":\"" + other + "\"");
  CHECK(exported.load_problem() == "@/" + other + ": tensor " + norm + " is missing, but model.safetensors.index.json "
                                   "places it there");
  write_file(index, "{\"weight_map\":" + std::string(100000, '['));
  CHECK(exported.load_problem() == "@/model.safetensors.index.json: nested deeper than 32 levels");
}

TEST_CASE("a config.json that says what the decoder cannot do is refused with the key") {
  // Refuses one change of an export's config.json at a time.
  const auto problems = [](Exported& exported) {
    return [&exported](const std::string& from, const std::string& to) {
      const std::string message = exported.config_problem(from, to);
      replace_in_file(exported.path / "config.json", to, from);
      return message;
    };
  };
  const std::string plain = " is not supported, expected plain rotary embedding (rope_type \"default\")";
  SECTION("Llama") {
    Exported exported(ModelPreset::llama);
    const auto problem = problems(exported);
    CHECK(problem("\"hidden_size\"", "\"hidden\"") == "@/config.json: missing key \"hidden_size\"");
    CHECK(problem("\"silu\"", "\"relu\"") ==
          "@/config.json: \"hidden_act\": the string \"relu\" is not supported, expected \"silu\" or \"swish\"");
    CHECK(problem("\"use_cache\": true", "\"rope_scaling\": {\"rope_type\": \"llama3\"}") ==
          "@/config.json: \"rope_scaling.rope_type\": the string \"llama3\"" + plain);
    CHECK(problem("\"use_cache\": true", "\"rope_scaling\": {\"factor\": 2.0, \"type\": \"linear\"}") ==
          "@/config.json: \"rope_scaling.factor\": the number 2.0" + plain);
    CHECK(problem("\"use_cache\": true", "\"rope_parameters\": {\"rope_theta\": 500.0}") ==
          "@/config.json: \"rope_theta\" (10000.0) and \"rope_parameters.rope_theta\" (500.0) differ");
    CHECK(problem("\"use_cache\": true", "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}") ==
          "@/config.json: \"rope_parameters.partial_rotary_factor\": the number 0.5 is not supported, expected 1.0");
    CHECK(problem("\"use_cache\": true",
                  "\"rope_scaling\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}") ==
          "@/config.json: \"rope_scaling.partial_rotary_factor\": the number 0.5 is not supported, expected 1.0");
    CHECK(problem("\"use_cache\": true", "\"quantization_config\": {\"bits\": 4}") ==
          "@/config.json: \"quantization_config\": an object is not supported, expected null");
    const std::string biases = ": the decoder has biases in the output projection and the MLP or in neither";
    CHECK(problem("\"mlp_bias\": false", "\"mlp_bias\": true") ==
          "@/config.json: \"attention_bias\": false is not supported, expected the value of \"mlp_bias\", true" +
              biases);
    CHECK(problem("\"attention_bias\": false", "\"attention_bias\": true") ==
          "@/config.json: \"attention_bias\": true is not supported, expected the value of \"mlp_bias\", false" +
              biases);
    CHECK(problem("\"vocab_size\": 17", "\"vocab_size\": -1") ==
          "@/config.json: \"vocab_size\": the integer -1 is not supported, expected an integer from 1 to 16777216");
    CHECK(problem("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2") ==
          "@/config.json: \"num_attention_heads\" (3) must be divisible by \"num_key_value_heads\" (2)");
    for (const char* unknown : {"MixtralForCausalLM", "Qwen3MoeForCausalLM", "LlamaForSequenceClassification"})
      CHECK(problem("LlamaForCausalLM", unknown) == std::string("@/config.json: \"architectures\": the string \"") +
                                                        unknown +
                                                        "\" is not supported, expected GPT2LMHeadModel, "
                                                        "GPTNeoXForCausalLM, LlamaForCausalLM, MistralForCausalLM, "
                                                        "Qwen2ForCausalLM or Qwen3ForCausalLM");
    std::filesystem::remove(exported.path / "config.json");
    CHECK(message_of(exported.path, [&] { model_config_from_hugging_face(exported.path); }) ==
          "@/config.json: cannot open: No such file or directory");
  }
  SECTION("Qwen") {
    for (const ModelPreset preset : {ModelPreset::qwen2, ModelPreset::qwen3}) {
      Exported exported(preset);
      const auto problem = problems(exported);
      replace_in_file(exported.path / "config.json", "\"use_cache\": true", "\"layer_types\": [\"full_attention\"]");
      CHECK(problem("\"full_attention\"", "\"sliding_attention\"") ==
            "@/config.json: \"layer_types\": the string \"sliding_attention\" is not supported, expected "
            "\"full_attention\"");
      const std::string off = "\"use_sliding_window\": false", on = "\"use_sliding_window\": true";
      CHECK((preset == ModelPreset::qwen2 ? problem(off, on) : problem("\"hidden_act\"", on + ", \"hidden_act\"")) ==
            "@/config.json: \"use_sliding_window\": true is not supported, expected false");
      CHECK(problem("\"num_key_value_heads\": 1", "\"x\": 1") ==
            "@/config.json: \"num_attention_heads\" (3) must be divisible by \"num_key_value_heads\" (32)");
      CHECK(problem("\"num_key_value_heads\": 1", "\"num_key_value_heads\": null").empty());
    }
    Exported qwen3(ModelPreset::qwen3);
    CHECK(qwen3.config_problem("\"attention_bias\": false", "\"attention_bias\": true") ==
          "@/config.json: \"attention_bias\": true is not supported, expected false");
  }
  SECTION("GPT-NeoX") {
    Exported exported(ModelPreset::gpt_neox);
    const auto problem = problems(exported);
    CHECK(problem("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"relu\"") ==
          "@/config.json: \"hidden_act\": the string \"relu\" is not supported, expected \"gelu\", \"gelu_new\", "
          "\"gelu_fast\" or \"gelu_pytorch_tanh\"");
    CHECK(problem("\"attention_bias\": true", "\"attention_bias\": false") ==
          "@/config.json: \"attention_bias\": false is not supported, expected true");
    CHECK(problem("\"rotary_pct\": 0.5", "\"rotary_pct\": 0.25") ==
          "@/config.json: \"rotary_pct\" (0.25) rotates 1 of the 4 channels of a head, expected an even number from 2 "
          "to that");
    CHECK(problem("\"rotary_pct\": 0.5", "\"rotary_pct\": 1.5") ==
          "@/config.json: \"rotary_pct\" (1.5) rotates 6 of the 4 channels of a head, expected an even number from 2 "
          "to that");
    CHECK(problem("\"use_cache\": true", "\"rope_parameters\": {\"partial_rotary_factor\": 1.0}") ==
          "@/config.json: \"rotary_pct\" (0.5) and \"rope_parameters.partial_rotary_factor\" (1.0) differ");
    CHECK(problem("\"use_cache\": true", "\"rope_theta\": 500.0") ==
          "@/config.json: \"rotary_emb_base\" (10000.0) and \"rope_theta\" (500.0) differ");
    CHECK(problem("\"use_cache\": true", "\"rope_scaling\": {\"rope_type\": \"yarn\"}") ==
          "@/config.json: \"rope_scaling.rope_type\": the string \"yarn\"" + plain);
    CHECK(problem("\"use_cache\": true", "\"head_dim\": 6") ==
          "@/config.json: \"head_dim\": the integer 6 is not supported, expected 4");
    CHECK(problem("\"num_attention_heads\": 3", "\"num_attention_heads\": 5") ==
          "@/config.json: \"hidden_size\" (12) must be divisible by \"num_attention_heads\" (5)");
  }
}

TEST_CASE("a Mistral without a sliding window is a Llama") {
  Exported exported(ModelPreset::llama);
  const auto config = exported.path / "config.json";
  replace_in_file(config, "LlamaForCausalLM", "MistralForCausalLM");
  replace_in_file(config, "\"use_cache\": true", "\"sliding_window\": null");
  const auto problem = [&] {
    return message_of(exported.path, [&] { model_config_from_hugging_face(exported.path); });
  };
  CHECK(problem().empty());
  const ModelConfig read = model_config_from_hugging_face(exported.path);
  CHECK(read.preset == ModelPreset::llama);
  CHECK(!read.bias);
  CHECK(!read.qkv_bias);
  std::vector<float> flat(exported.arrays.parameters.size());
  load_hugging_face(exported.path, read, flat);
  CHECK(flat == exported.arrays.parameters);

  const std::string longest = " is not supported, expected null or at least \"max_position_embeddings\" (9)";
  replace_in_file(config, "\"sliding_window\": null", "\"sliding_window\": 8");
  CHECK(problem() == "@/config.json: \"sliding_window\" (8)" + longest);
  replace_in_file(config, "\"sliding_window\": 8", "\"sliding_window\": 9");
  CHECK(problem().empty());
  // Left out it is 4096, and the number of key and value heads 8.
  replace_in_file(config, "\"sliding_window\": 9", "\"x\": 0");
  CHECK(problem().empty());
  replace_in_file(config, "\"max_position_embeddings\": 9", "\"max_position_embeddings\": 4097");
  CHECK(problem() == "@/config.json: \"sliding_window\", absent, so (4096) is not supported, expected null or at least "
                     "\"max_position_embeddings\" (4097)");
  replace_in_file(config, "\"max_position_embeddings\": 4097", "\"max_position_embeddings\": 4096");
  replace_in_file(config, "\"num_key_value_heads\": 1", "\"y\": 0");
  CHECK(problem() == "@/config.json: \"num_attention_heads\" (3) must be divisible by \"num_key_value_heads\" (8)");
}

TEST_CASE("GPT-NeoX's rotary keys are read under their old and new names") {
  Exported exported(ModelPreset::gpt_neox);
  const auto config = exported.path / "config.json";
  const auto read = [&] { return model_config_from_hugging_face(exported.path); };
  CHECK(read().rotary_dim == 2);
  replace_in_file(config, "\"rotary_pct\": 0.5", "\"x\": 0");
  replace_in_file(
      config, "\"rotary_emb_base\": 10000.0",
      "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500.0, \"partial_rotary_factor\": 1.0}");
  CHECK(read().rotary_dim == 0);
  CHECK(read().rope_theta == 500.0);
  replace_in_file(config, "\"rope_parameters\"", "\"y\"");
  CHECK(exported.config_problem("\"x\": 0", "\"partial_rotary_factor\": 0.5").empty());
  CHECK(read().rotary_dim == 2);
  CHECK(read().rope_theta == 10000.0);
  replace_in_file(config, "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"gelu_fast\"");
  CHECK(read().mlp == MlpType::gelu);
  replace_in_file(config, "\"use_parallel_residual\": true", "\"use_parallel_residual\": false");
  CHECK(!read().parallel_block);
}
