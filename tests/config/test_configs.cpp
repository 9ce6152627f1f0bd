// The configurations that come with the project, and the schema that describes them.
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/config/load.h"
#include "tests/catch.h"
#include "tests/config/json_schema.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Json = nlohmann::ordered_json;

namespace {

std::string read_file(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  REQUIRE(stream);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::map<std::string, std::filesystem::path> shipped() {
  std::map<std::string, std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(SINKSCOPE_CONFIGS))
    if (entry.path().extension() == ".json" && entry.path().filename() != "schema.json")
      files[entry.path().stem().string()] = entry.path();
  return files;
}

}  // namespace

TEST_CASE("the schema in the repository is the one that the program generates") {
  CHECK(read_file(std::filesystem::path(SINKSCOPE_CONFIGS) / "schema.json") == config_schema().dump(2) + "\n");
}

TEST_CASE("the reference in the repository is the one that the program generates, and the README links it") {
  const std::filesystem::path configs = SINKSCOPE_CONFIGS;
  CHECK(read_file(configs / "REFERENCE.md") == config_reference());
  CHECK(read_file(configs.parent_path() / "README.md").find("](configs/REFERENCE.md)") != std::string::npos);
}

TEST_CASE("every shipped config loads and conforms to the schema") {
  const auto files = shipped();
  for (const char* name : {"quickstart", "gpt2-124m", "llama-1.3b", "llama-42m", "llama-42m-bos", "qwen3-0.6b",
                           "ablation-bos", "ablation-learning-rate", "ablation-weight-decay", "ablation-context",
                           "ablation-head-dim", "ablation-attention-sink"})
    CHECK(files.count(name) == 1);
  const Json schema = config_schema();
  for (const auto& [name, file] : files) {
    INFO(name);
    const Json json = Json::parse(read_file(file));
    CHECK(schema_violations(schema, json) == std::vector<std::string>{});
    const Config config = load_config(file);
    CHECK(config.name == name);
    CHECK(schema_violations(schema, to_json(config)) == std::vector<std::string>{});
    if (!config.ablation.empty()) CHECK(expand_ablation(config).size() >= 2);
  }
}

TEST_CASE("the README says how the dataset of every shipped config is made") {
  const std::string readme = read_file(std::filesystem::path(SINKSCOPE_CONFIGS).parent_path() / "README.md");
  for (const auto& [name, file] : shipped()) {
    INFO(name);
    std::string rest;
    std::istringstream lines(readme);
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with("| `configs/") && line.find("`configs/" + name + ".json`") != std::string::npos) rest = line;
    CHECK(rest.find("sinkscope tokenize TEXT --output " + load_config(file).data.path + " --") != std::string::npos);
  }
}

TEST_CASE("the shipped presets have the sizes that their names say") {
  const auto files = shipped();
  const Config gpt2 = load_config(files.at("gpt2-124m"));
  CHECK(gpt2.model.hidden == 3072);
  CHECK(gpt2.model.norm == NormType::layernorm);
  CHECK(gpt2.model.tied_embedding);
  const Config qwen3 = load_config(files.at("qwen3-0.6b"));
  CHECK(qwen3.model.qk_norm);
  CHECK(qwen3.model.rope_theta == 1e6);
  CHECK(qwen3.model.head_dim == 128);
  const Config bos = load_config(files.at("llama-42m-bos"));
  CHECK(bos.train.steps * bos.train.micro_batch * bos.train.sequence_length >= 300'000'000);
  CHECK(expand_ablation(bos).size() == 2);
  const Config quickstart = load_config(files.at("quickstart"));
  CHECK(quickstart.model.preset == ModelPreset::llama);
  CHECK(quickstart.train.steps == 900);
  CHECK(quickstart.train.optimizer.learning_rate == 3e-3);
  const auto arms = expand_ablation(quickstart);
  REQUIRE(arms.size() == 2);
  CHECK(arms[0].name == "quickstart/bos-sequence");
  CHECK(arms[1].name == "quickstart/bos-none");
  CHECK(arms[1].data.common_targets == std::vector<BosPolicy>{BosPolicy::sequence, BosPolicy::none});
}

TEST_CASE("the shipped grids vary one thing over three seeds, and see as many tokens in every arm") {
  const auto files = shipped();
  const auto arms_of = [&](const char* name, const char* factor, std::vector<std::string> keys) {
    INFO(name);
    const Config config = load_config(files.at(name));
    const std::vector<AblationFactor> factors = ablation_factors(config);
    REQUIRE(factors.size() == 2);
    CHECK(factors[0].name == factor);
    CHECK(factors[0].keys == keys);
    CHECK(factors[1].name == "train.seed");
    const std::vector<Config> arms = expand_ablation(config);
    REQUIRE(arms.size() == 9);
    for (const Config& arm : arms) {
      CHECK(arm.train.micro_batch * arm.train.sequence_length == 65536);
      CHECK(arm.model.heads * arm.model.head_dim == arm.model.channels);
    }
    for (std::size_t i = 0; i < 9; ++i) CHECK(arms[i].train.seed == static_cast<std::int64_t>(i % 3 + 1));
    return arms;
  };
  const auto bos = arms_of("ablation-bos", "data.bos", {"data.bos"});
  CHECK(bos[0].data.bos == BosPolicy::none);
  CHECK(bos[8].data.bos == BosPolicy::document);
  CHECK(arms_of("ablation-learning-rate", "train.optimizer.learning_rate", {"train.optimizer.learning_rate"})[0]
            .train.optimizer.learning_rate == 3e-4);
  CHECK(arms_of("ablation-weight-decay", "train.optimizer.weight_decay", {"train.optimizer.weight_decay"})[0]
            .train.optimizer.weight_decay == 0);
  const auto sink = arms_of("ablation-attention-sink", "model.attention.sink", {"model.attention.sink"});
  CHECK(sink[0].name == "ablation-attention-sink/sink-none,seed-1");
  CHECK(sink[0].model.attention.sink == AttentionSink::none);
  CHECK(sink[3].model.attention.sink == AttentionSink::off_by_one);
  CHECK(sink[8].model.attention.sink == AttentionSink::learned);
  const auto context = arms_of("ablation-context", "context", {"train.sequence_length", "train.micro_batch"});
  CHECK(context[0].name == "ablation-context/context-128,seed-1");
  CHECK(context[8].train.sequence_length == 2048);
  const auto heads = arms_of("ablation-head-dim", "head_dim", {"model.head_dim", "model.heads"});
  CHECK(heads[0].name == "ablation-head-dim/head_dim-32,seed-1");
  CHECK(heads[8].model.kv_heads == 4);
}

TEST_CASE("GPT-2's vocabulary is padded to a multiple of 128") {
  Config gpt2 = load_config(shipped().at("gpt2-124m"));
  resolve_with_dataset(gpt2, 50257, 50256, 50256);
  CHECK(gpt2.model.vocab_size == 50304);
  CHECK(gpt2.model.vocab_size % 128 == 0);
}

TEST_CASE("schema and parser refuse the same values") {
  const Json schema = config_schema();
  const auto accepted = [&](const std::string& text) {
    bool parses = true;
    try {
      parse_config(text, "test");
    } catch (const ConfigError&) {
      parses = false;
    }
    const bool conforms = schema_violations(schema, Json::parse(text)).empty();
    INFO(text);
    CHECK(parses == conforms);
    return parses;
  };
  for (const char* text :
       {R"({})", R"({"$schema": "x"})", R"({"name": "a/b-1"})", R"({"model": {"layers": 7}})",
        R"({"train": {"optimizer": {"beta1": 0.0}}})", R"({"train": {"recompute": "mlp"}})",
        R"({"model": {"attention": {"sink": "learned"}}})", R"({"model": {"attention": {}}})",
        R"({"data": {"common_targets": ["none"]}})", R"({"ablation": {"train.seed": [1, 2]}})",
        R"({"ablation": {"context": [{"train.sequence_length": 64, "train.micro_batch": 8}, {"train.seed": 2}]}})",
        R"({"ablation": {"model": [{"model.layers": 2}], "a.b+1": [{"threads": 1}]}})",
        R"({"probes": {"sink_threshold": 1}})"})
    CHECK(accepted(text));
  for (const char* text : {R"([])",
                           R"({"nam": "a"})",
                           R"({"name": ""})",
                           R"({"name": "/a"})",
                           R"({"name": "../a"})",
                           R"({"output": ""})",
                           R"({"model": {"layers": 0}})",
                           R"({"model": {"layers": 1025}})",
                           R"({"model": {"layers": "4"}})",
                           R"({"model": {"layers": 1.5}})",
                           R"({"model": {"norm": "batchnorm"}})",
                           R"({"model": 3})",
                           R"({"model": {"attention": "learned"}})",
                           R"({"model": {"attention": {"sink": true}}})",
                           R"({"model": {"attention": {"sinks": "none"}}})",
                           R"({"model": {"norm_eps": 0}})",
                           R"({"train": {"optimizer": {"beta1": 1}}})",
                           R"({"train": {"sequence_length": 1}})",
                           R"({"train": {"recompute": "all"}})",
                           R"({"train": {"recompute": true}})",
                           R"({"data": {"common_targets": []}})",
                           R"({"data": {"common_targets": ["none", "none"]}})",
                           R"({"data": {"train": [""]}})",
                           R"({"ablation": {"train.sed": [1]}})",
                           R"({"ablation": {"train.seed": []}})",
                           R"({"ablation": {"train.seed": [1, 1]}})",
                           R"({"ablation": {"train.seed": ["x"]}})",
                           R"({"ablation": {"name": ["a"]}})",
                           R"({"ablation": {"model": [{"layers": 2}]}})",
                           R"({"ablation": {"context": []}})",
                           R"({"ablation": {"context": [{}]}})",
                           R"({"ablation": {"context": [{"train.seed": 1}, 2]}})",
                           R"({"ablation": {"context": [{"train.seed": 1}, {"train.seed": 1}]}})",
                           R"({"ablation": {"a/b": [{"train.seed": 1}]}})",
                           R"({"ablation": {"context": [{"name": "b"}]}})",
                           R"({"ablation": {"context": [{"train.seed": "x"}]}})",
                           R"({"ablation": {"train.seed": [{"train.seed": 1}]}})",
                           R"({"log": {"tensorboard": 1}})",
                           R"({"probes": {"sink_threshold": 1.1}})"})
    CHECK_FALSE(accepted(text));
}
