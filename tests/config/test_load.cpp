// What a configuration may say, and what it is told when it says something else.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "tests/catch.h"
#include "tests/files.h"

using namespace sinkscope;
using sinkscope::test::TemporaryFolder;

namespace {

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "test.json", overrides);
}

}  // namespace

TEST_CASE("an unknown key is named with the one that may be meant, or those known there") {
  CHECK_THROWS_WITH(parse(R"({"modle": {}})"), R"(test.json: unknown key "modle"; did you mean "model"?)");
  CHECK_THROWS_WITH(parse(R"({"model": {"layer": 3}})"),
                    R"(test.json: unknown key "model.layer"; did you mean "model.layers"?)");
  CHECK_THROWS_WITH(parse(R"({"model": {"sequence_length": 3}})"),
                    R"(test.json: unknown key "model.sequence_length"; did you mean "train.sequence_length"?)");
  CHECK_THROWS_WITH(parse(R"({"train": {"learning_rate": 3}})"),
                    R"(test.json: unknown key "train.learning_rate"; did you mean "train.optimizer.learning_rate"?)");
  CHECK_THROWS_WITH(parse(R"({"log": {"qqqqqqqqqq": 3}})"),
                    R"(test.json: unknown key "log.qqqqqqqqqq"; known here are every, )"
                    "console_every, tensorboard, heatmap_every");
  CHECK_THROWS_WITH(parse(R"({"train": {"optimizer": {"lr": 1}}})"),
                    R"(test.json: unknown key "train.optimizer.lr"; did you mean "train.optimizer.learning_rate"?)");
  CHECK_THROWS_WITH(
      parse(R"({"foo": 1})"),
      Catch::Matchers::StartsWith(R"(test.json: unknown key "foo"; known here are name, output, device, )"));
  CHECK_THROWS_WITH(parse(R"({"ablation": {"foo": [1]}})"),
                    Catch::Matchers::StartsWith(R"(test.json: ablation: unknown key "foo"; known here are name, )"));
  CHECK_THROWS_WITH(parse(R"({"ablation": {"train.foo": [1]}})"),
                    R"(test.json: ablation: unknown key "train.foo"; known here are steps, micro_batch, )"
                    "gradient_accumulation, sequence_length, recompute, cuda_graph, seed, optimizer, schedule");
  CHECK_THROWS_WITH(
      parse("{}", {"foo.bar=1"}),
      Catch::Matchers::StartsWith(R"(--set foo.bar=1: unknown key "foo.bar"; known without a dot are name, )"));
  const std::string long_key(100000, 'x');
  CHECK(sinkscope::test::contains(sinkscope::test::message_of([&] { parse("{\"" + long_key + "\": 1}"); }),
                                  "; known here are "));
  CHECK_THROWS_WITH(parse(R"({"model.layers": 3})"),
                    R"(test.json: "model.layers" must be nested, one object for each part before a dot)");
}

TEST_CASE("an abbreviation or a mistyped section leads to the field that is meant, never to a section") {
  const std::vector<std::pair<std::string, std::string>> meant = {
      {"lr", "train.optimizer.learning_rate"},
      {"wd", "train.optimizer.weight_decay"},
      {"train.lr", "train.optimizer.learning_rate"},
      {"optimizer.lr", "train.optimizer.learning_rate"},
      {"optimiser.lr", "train.optimizer.learning_rate"},
      {"train.optimiser.lr", "train.optimizer.learning_rate"},
      {"trian.optimizer.lr", "train.optimizer.learning_rate"},
      {"optim.lr", "train.optimizer.learning_rate"},
      {"train.optimiser.weight_dcay", "train.optimizer.weight_decay"},
      {"nowhere.lr", "train.optimizer.learning_rate"},
      {"optimizer.eps", "train.optimizer.eps"},
      {"checkpoints.every", "checkpoint.every"},
      {"eval.every", "evaluation.every"},
      {"schedule.warmup", "train.schedule.warmup_steps"},
      {"warmup", "train.schedule.warmup_steps"},
      {"seq_len", "train.sequence_length"},
      {"grad_accum", "train.gradient_accumulation"},
      {"phase.onst", "probes.phase.onset"},
      {"kv", "model.kv_heads"},
      {"train.batch_size", "train.micro_batch"},
      {"train.epochs", "train.steps"},
      {"max_steps", "train.steps"},
      {"block_size", "train.sequence_length"},
      {"model.n_layer", "model.layers"},
      {"model.hidden_size", "model.channels"},
      {"train.dtype", "precision"},
      {"grad_clip", "train.optimizer.clip_norm"}};
  for (const auto& [typed, known] : meant) {
    INFO(typed);
    const std::string ending = "; did you mean \"" + known + "\"?";
    CHECK(sinkscope::test::message_of([&] { parse("{}", {typed + "=1"}); }) ==
          "--set " + typed + "=1: unknown key \"" + typed + "\"" + ending);
    CHECK(sinkscope::test::message_of([&] { parse("{\"ablation\": {\"" + typed + "\": [1]}}"); }) ==
          "test.json: ablation: unknown key \"" + typed + "\"" + ending);
  }
  for (const char* nonsense : {"train.dropout", "model.ctx", "data.tokenizer"}) {
    INFO(nonsense);
    const std::string message = sinkscope::test::message_of([&] { parse("{}", {std::string(nonsense) + "=1"}); });
    CHECK_FALSE(sinkscope::test::contains(message, "did you mean"));
    CHECK_FALSE(sinkscope::test::contains(message, "nearest"));
  }
  // An object is given to a section, and a section's name well enough spelt is recognised whatever it is given.
  CHECK_THROWS_WITH(parse(R"({"train": {"optimiser": {"lr": 1}}})"),
                    R"(test.json: unknown key "train.optimiser"; did you mean "train.optimizer"?)");
  CHECK_THROWS_WITH(parse(R"({"optimizer": {"lr": 1}})"),
                    R"(test.json: unknown key "optimizer"; did you mean "train.optimizer"?)");
  CHECK_THROWS_WITH(parse(R"({"modle": 3})"), R"(test.json: unknown key "modle"; did you mean "model"?)");
}

TEST_CASE("a key given twice is named with its path") {
  CHECK_THROWS_WITH(parse(R"({"name": "a", "name": "a"})"), R"(test.json: duplicate key "name")");
  CHECK_THROWS_WITH(parse(R"({"train": {"optimizer": {"eps": 1e-8, "beta1": 0.9, "eps": 1e-8}}})"),
                    R"(test.json: duplicate key "train.optimizer.eps")");
}

TEST_CASE("a value of the wrong type is named with what was expected") {
  CHECK_THROWS_WITH(parse(R"({"model": {"layers": "four"}})"),
                    R"(test.json: model.layers: expected an integer from 1 to 1024, found the string "four")");
  CHECK_THROWS_WITH(parse(R"({"model": {"layers": 4.5}})"),
                    "test.json: model.layers: expected an integer from 1 to 1024, found the number 4.5");
  CHECK_THROWS_WITH(parse(R"({"model": []})"), "test.json: model: expected an object, found an empty list");
  CHECK_THROWS_WITH(parse(R"({"model": {"bias": 1}})"),
                    "test.json: model.bias: expected true or false, found the integer 1");
  CHECK_THROWS_WITH(parse(R"({"model": {"norm": "rmsnrm"}})"),
                    R"(test.json: model.norm: expected one of "layernorm" or "rmsnorm", found the string "rmsnrm"; )"
                    R"(did you mean "rmsnorm"?)");
  CHECK_THROWS_WITH(
      parse(R"({"model": {"attention": {"sink": "leaned"}}})"),
      R"(test.json: model.attention.sink: expected one of "none", "off_by_one" or "learned", found the string )"
      R"("leaned"; did you mean "learned"?)");
  CHECK_THROWS_WITH(parse(R"({"model": {"attention": "learned"}})"),
                    R"(test.json: model.attention: expected an object, found the string "learned")");
  CHECK_THROWS_WITH(parse(R"({"data": {"train": "a.bin"}})"),
                    R"(test.json: data.train: expected a list of file names, found the string "a.bin")");
  CHECK_THROWS_WITH(
      parse(R"({"alerts": {"command": "mail me"}})"),
      R"(test.json: alerts.command: expected a list of a program and its arguments, found the string "mail me")");
  CHECK_THROWS_WITH(parse(R"({"alerts": {"command": ["mail", 3]}})"),
                    "test.json: alerts.command[1]: expected a string that is not empty, found the integer 3");
  CHECK_THROWS_WITH(parse("null"), "test.json: expected an object, found null");
}

TEST_CASE("what a config says for itself is told apart from defaults, presets and derived sizes") {
  using Fields = std::vector<std::pair<std::string, std::string>>;
  CHECK(changed_fields(parse("{}")).empty());
  const std::string qwen = R"({"model": {"preset": "qwen3", "layers": 1, "heads": 4}})";
  CHECK(changed_fields(parse(qwen)) ==
        Fields{{"model.preset", "\"qwen3\""}, {"model.layers", "1"}, {"model.heads", "4"}});
  // What the preset says is no change, what contradicts it is; so is a size that could have been derived otherwise.
  CHECK(changed_fields(
            parse(qwen, {"model.qk_norm=false", "model.tied_embedding=true", "model.kv_heads=2", "train.steps=1000",
                         "train.optimizer.beta2=0.5", "alerts.command=[\"a\",\"b c\"]"})) ==
        Fields{{"model.preset", "\"qwen3\""}, {"model.layers", "1"}, {"model.heads", "4"}, {"model.kv_heads", "2"},
               {"model.qk_norm", "false"}, {"train.optimizer.beta2", "0.5"}, {"alerts.command", R"(["a","b c"])"}});
}

TEST_CASE("a config of its changed fields alone is the same config") {
  for (const auto& entry : std::filesystem::directory_iterator(SINKSCOPE_CONFIGS)) {
    if (entry.path().extension() != ".json" || entry.path().filename() == "schema.json") continue;
    INFO(entry.path());
    const Config config = load_config(entry.path());
    std::vector<std::string> overrides;
    for (const auto& [key, value] : changed_fields(config)) overrides.push_back(key + "=" + value);
    CHECK(overrides.size() > 5);
    CHECK(to_json(parse("{}", overrides)) == to_json(config));
  }
}

TEST_CASE("a number out of range is named with its limits") {
  CHECK_THROWS_WITH(parse(R"({"model": {"layers": 0}})"),
                    "test.json: model.layers: expected an integer from 1 to 1024, found the integer 0");
  CHECK_THROWS_WITH(
      parse(R"({"train": {"optimizer": {"beta1": 1.0}}})"),
      "test.json: train.optimizer.beta1: expected a number of at least 0 and below 1, found the number 1.0");
  CHECK_THROWS_WITH(parse(R"({"train": {"optimizer": {"eps": 0}}})"),
                    "test.json: train.optimizer.eps: expected a number above 0, found the integer 0");
  CHECK_THROWS_WITH(parse(R"({"train": {"seed": 18446744073709551616}})"),
                    "test.json: train.seed: the integer 18446744073709551616 does not fit 64 bits");
  CHECK_THROWS_WITH(parse(R"({"train": {"seed": 9223372036854775808}})"),
                    "test.json: train.seed: the integer 9223372036854775808 does not fit 64 bits");
  CHECK(parse(R"({"train": {"seed": 9223372036854775807}})").train.seed == 9223372036854775807);
}

TEST_CASE("fields that do not go together are named together") {
  CHECK_THROWS_WITH(
      parse(R"({"model": {"channels": 130, "heads": 4}})"),
      "test.json: model.channels (130) must be divisible by model.heads (4) unless model.head_dim is given");
  CHECK(parse(R"({"model": {"channels": 130, "heads": 4, "head_dim": 32}})").model.head_dim == 32);
  CHECK_THROWS_WITH(parse(R"({"model": {"heads": 4, "kv_heads": 3}})"),
                    "test.json: model.heads (4) must be divisible by model.kv_heads (3)");
  CHECK_THROWS_WITH(parse(R"({"model": {"head_dim": 33}})"),
                    R"(test.json: model.head_dim (33) must be even with model.position "rope", which rotates pairs of )"
                    "channels");
  CHECK_THROWS_WITH(parse(R"({"precision": "fp8", "model": {"channels": 72, "heads": 4}})"),
                    R"(test.json: precision is "fp8", and model.channels is 72; expected a multiple of 16)");
  CHECK_THROWS_WITH(parse(R"({"precision": "fp8", "model": {"hidden": 100}})"),
                    R"(test.json: precision is "fp8", and model.hidden is 100; expected a multiple of 16)");
  CHECK_THROWS_WITH(
      parse(R"({"precision": "fp8", "model": {"heads": 3, "head_dim": 8}})"),
      R"(test.json: precision is "fp8", and model.heads * model.head_dim is 24; expected a multiple of 16)");
  CHECK_THROWS_WITH(
      parse(R"({"precision": "fp8", "model": {"heads": 4, "kv_heads": 1, "head_dim": 4}})"),
      R"(test.json: precision is "fp8", and (model.heads + 2 * model.kv_heads) * model.head_dim is 24; )"
      "expected a multiple of 16");
  CHECK(parse(R"({"precision": "fp8"})").precision == Precision::fp8);
  CHECK_THROWS_WITH(parse(R"({"train": {"steps": 50}})"),
                    "test.json: train.schedule.warmup_steps (100) must be at most train.steps (50)");
  CHECK_THROWS_WITH(parse(R"({"model": {"layers": 2}, "probes": {"from_layer": 2}})"),
                    "test.json: probes.from_layer (2) must be at most model.layers - 1 (1), since layers count from 0 "
                    "(probes.enabled false lifts this)");
  CHECK(parse(R"({"model": {"layers": 2}, "probes": {"from_layer": 2, "enabled": false}})").model.layers == 2);
  CHECK_THROWS_WITH(parse(R"({"train": {"sequence_length": 32}})"),
                    "test.json: probes.short_length (64) must be at most train.sequence_length (32) (probes.enabled "
                    "false lifts this)");
  CHECK_THROWS_WITH(parse(R"({"data": {"path": "a", "train": ["b"]}})"),
                    "test.json: data.path and data.train are both given; the data come from one of them");
  CHECK(parse(R"({"ranks": {"reduce_dtype": "bf16"}})").ranks.reduce_dtype == ReduceDType::bf16);
  CHECK_THROWS_WITH(parse(R"({"model": {"preset": "gpt2", "qk_norm": true}})"),
                    R"(test.json: model.qk_norm needs model.norm "rmsnorm", not "layernorm")");
  CHECK_THROWS_WITH(parse(R"({"model": {"rotary_dim": 66}})"),
                    "test.json: model.rotary_dim (66) must be even and at most model.head_dim (64)");
  CHECK_THROWS_WITH(parse(R"({"model": {"rotary_dim": 15}})"),
                    "test.json: model.rotary_dim (15) must be even and at most model.head_dim (64)");
  CHECK_THROWS_WITH(parse(R"({"model": {"preset": "gpt2", "rotary_dim": 16}})"),
                    R"(test.json: model.rotary_dim (16) needs model.position "rope", not "learned")");
  CHECK(parse(R"({"model": {"head_dim": 33, "rotary_dim": 32}})").model.head_dim == 33);
}

TEST_CASE("text that is no JSON is placed by line and column, nesting is capped") {
  CHECK_THROWS_AS(parse("{\n  \"name\": ,\n}"), ConfigError);
  try {
    parse("{\n  \"name\": ,\n}");
  } catch (const ConfigError& error) {
    CHECK(std::string(error.what()).find("test.json:2:11: invalid JSON: syntax error ") == 0);
  }
  CHECK_THROWS_WITH(parse(std::string(33, '[') + std::string(33, ']')), "test.json: nested deeper than 32 levels");
  CHECK_THROWS_AS(parse(std::string(1'000'000, '[')), ConfigError);
  CHECK_THROWS_AS(parse(""), ConfigError);
}

TEST_CASE("presets set the switches that the file leaves open, and sizes are derived") {
  const Config gpt2 = parse(R"({"model": {"preset": "gpt2", "channels": 96, "heads": 3}})");
  CHECK(gpt2.model.position == PositionEncoding::learned);
  CHECK(gpt2.model.mlp == MlpType::gelu);
  CHECK(gpt2.model.hidden == 384);
  CHECK(gpt2.model.head_dim == 32);
  CHECK(gpt2.model.kv_heads == 3);
  const Config mixed = parse(R"({"model": {"preset": "gpt2", "mlp": "swiglu", "channels": 96, "heads": 3}})");
  CHECK(mixed.model.hidden == 256);
  CHECK(mixed.model.norm == NormType::layernorm);
  CHECK(parse(R"({"model": {"preset": "qwen3"}})").model.head_dim == 128);
  const Config qwen2 = parse(R"({"model": {"preset": "qwen2"}})");
  CHECK(qwen2.model.qkv_bias);
  CHECK(!qwen2.model.bias);
  CHECK(qwen2.model.head_dim == 64);
  const Config neox = parse(R"({"model": {"preset": "gpt_neox", "channels": 96, "heads": 2}})");
  CHECK(neox.model.parallel_block);
  CHECK(neox.model.mlp == MlpType::gelu_erf);
  CHECK(neox.model.hidden == 384);
  // A quarter of the head is rotated, unless the file says otherwise.
  CHECK(neox.model.rotary_dim == 12);
  CHECK(parse(R"({"model": {"preset": "gpt_neox", "head_dim": 10}})").model.rotary_dim == 2);
  CHECK(parse(R"({"model": {"preset": "gpt_neox", "rotary_dim": 0}})").model.rotary_dim == 0);
  CHECK(parse(R"({"model": {"preset": "gpt_neox", "position": "none"}})").model.rotary_dim == 0);
  CHECK(parse("{}").model.rotary_dim == 0);
  for (const auto& [preset, name] : enum_names<ModelPreset>()) {
    const std::string model = R"({"model": {"preset": ")" + std::string(name) + "\"}}";
    CHECK(parse(model).model.attention.sink == AttentionSink::none);
    CHECK(parse(model, {"model.attention.sink=learned"}).model.attention.sink == AttentionSink::learned);
  }
}

TEST_CASE("the late layers begin within the model, unless told otherwise") {
  for (const auto& [layers, first] : {std::pair(1, 0), {2, 1}, {3, 2}, {12, 2}})
    CHECK(parse("{}", {"model.layers=" + std::to_string(layers)}).probes.from_layer == first);
  CHECK(parse("{}", {"model.layers=2", "probes.from_layer=0"}).probes.from_layer == 0);
  // So runs without probes kept it.
  CHECK(parse("{}", {"model.layers=2", "probes.enabled=false"}).probes.from_layer == 2);
  const auto arms = expand_ablation(parse(R"({"ablation": {"model.layers": [1, 2, 12]}})"));
  REQUIRE(arms.size() == 3);
  for (std::size_t i = 0; i < arms.size(); ++i) CHECK(arms[i].probes.from_layer == static_cast<std::int64_t>(i));
}

TEST_CASE("overrides apply in order, as JSON or as a bare string") {
  const Config config = parse(R"({"model": {"layers": 3}})",
                              {"model.layers=5", "model.layers=6", "name=bare", "data.bos=sequence",
                               "train.optimizer.learning_rate=1e-2", "model={\"channels\": 64}",
                               "ablation.train.seed=[1,2]"});
  CHECK(config.model.layers == 6);
  CHECK(config.model.channels == 64);
  CHECK(config.name == "bare");
  CHECK(config.data.bos == BosPolicy::sequence);
  CHECK(config.train.optimizer.learning_rate == 1e-2);
  REQUIRE(config.ablation.size() == 1);
  CHECK(config.ablation[0].key == "train.seed");
  CHECK(config.ablation[0].values == std::vector<std::string>{"1", "2"});

  CHECK_THROWS_WITH(parse("{}", {"model.layers"}), "--set model.layers: expected key=value, e.g. model.layers=6");
  CHECK_THROWS_WITH(parse("{}", {"model.layer=6"}),
                    R"(--set model.layer=6: unknown key "model.layer"; did you mean "model.layers"?)");
  CHECK_THROWS_WITH(
      parse("{}", {"model.layers=six"}),
      R"(--set model.layers=six: model.layers: expected an integer from 1 to 1024, found the string "six")");
  CHECK_THROWS_WITH(
      parse("{}", {"train.steps=9"}),
      "test.json with --set train.steps=9: train.schedule.warmup_steps (100) must be at most train.steps (9)");
}

TEST_CASE("an ablation gives one arm for each combination, the first axis slowest") {
  const Config config = parse(
      R"({"name": "grid", "ablation": {"data.bos": ["none", "document"], "train.seed": [1, 2, 3]}})");
  const std::vector<Config> arms = expand_ablation(config);
  REQUIRE(arms.size() == 6);
  CHECK(arms[0].name == "grid/bos-none,seed-1");
  CHECK(arms[2].name == "grid/bos-none,seed-3");
  CHECK(arms[5].name == "grid/bos-document,seed-3");
  CHECK(arms[5].data.bos == BosPolicy::document);
  CHECK(arms[5].train.seed == 3);
  for (const Config& arm : arms) {
    CHECK(arm.ablation.empty());
    CHECK(arm.data.common_targets == std::vector<BosPolicy>{BosPolicy::none, BosPolicy::document});
    CHECK(arm.model.hidden == config.model.hidden);
  }
}

TEST_CASE("an ablation derives sizes anew for each arm") {
  const Config config = parse(R"({"ablation": {"model.preset": ["llama", "gpt2"], "model.channels": [96, 192]}})");
  const std::vector<Config> arms = expand_ablation(config);
  REQUIRE(arms.size() == 4);
  CHECK(arms[0].model.hidden == 256);
  CHECK(arms[1].model.hidden == 512);
  CHECK(arms[2].model.hidden == 384);
  CHECK(arms[3].model.norm == NormType::layernorm);
  CHECK(arms[3].model.head_dim == 96);
  const std::vector<Config> neox =
      expand_ablation(parse(R"({"ablation": {"model.preset": ["llama", "gpt_neox"], "model.head_dim": [32, 64]}})"));
  REQUIRE(neox.size() == 4);
  CHECK(neox[1].model.rotary_dim == 0);
  CHECK(neox[2].model.rotary_dim == 8);
  CHECK(neox[3].model.rotary_dim == 16);
}

TEST_CASE("an ablation changes keys together") {
  const Config config = parse(
      R"({"name": "grid", "ablation": {"context": [{"train.sequence_length": 64, "train.micro_batch": 256},
          {"train.sequence_length": 256, "train.micro_batch": 64}], "train.seed": [1, 2]}})");
  const std::vector<Config> arms = expand_ablation(config);
  REQUIRE(arms.size() == 4);
  CHECK(arms[0].name == "grid/context-64,seed-1");
  CHECK(arms[3].name == "grid/context-256,seed-2");
  CHECK(arms[3].train.sequence_length == 256);
  for (const Config& arm : arms) CHECK(arm.train.sequence_length * arm.train.micro_batch == 64 * 256);
  const std::vector<AblationFactor> factors = ablation_factors(config);
  REQUIRE(factors.size() == 2);
  CHECK(factors[0].name == "context");
  CHECK(factors[0].keys == std::vector<std::string>{"train.sequence_length", "train.micro_batch"});
  CHECK(factors[1].keys == std::vector<std::string>{"train.seed"});

  // What follows from a key follows in a group too, and a group is given by --set as an axis is.
  const std::vector<Config> heads =
      expand_ablation(parse("{}", {R"(ablation.heads=[{"model.heads":4,"model.channels":256},{"model.heads":8}])"}));
  REQUIRE(heads.size() == 2);
  CHECK(heads[0].name == "run/heads-4");
  CHECK(heads[0].model.head_dim == 64);
  CHECK(heads[1].model.kv_heads == 8);
  CHECK(heads[1].model.head_dim == 16);

  // Numbers where the first keys differ or their values do not; a key and a group of one name stay apart.
  const std::vector<Config> mixed = expand_ablation(parse(
      R"({"ablation": {"seed": [{"model.layers": 2}, {"model.channels": 64}], "train.seed": [1],
          "x": [{"threads": 1, "model.heads": 1},
          {"threads": 1, "model.heads": 2}]}})"));
  REQUIRE(mixed.size() == 4);
  CHECK(mixed[0].name == "run/seed-1,train.seed-1,x-1");
  CHECK(mixed[3].name == "run/seed-2,train.seed-1,x-2");

  // Losses count what every arm predicts, also where an arm keeps the config's own policy.
  for (const Config& arm : expand_ablation(parse(
           R"({"data": {"bos": "document"}, "ablation": {"start": [{"data.bos": "none"}, {"model.layers": 2}]}})")))
    CHECK(arm.data.common_targets == std::vector<BosPolicy>{BosPolicy::none, BosPolicy::document});
}

TEST_CASE("impossible ablations are refused") {
  CHECK_THROWS_WITH(expand_ablation(parse(R"({"ablation": {"train.seed": [1, 2], "x": [{"train.seed": 3}]}})")),
                    R"(run: ablation sets "train.seed" in two places; one combination would hold two values of it)");
  CHECK_THROWS_WITH(parse(R"({"ablation": {"x": [{"train.sed": 3}]}})"),
                    R"(test.json: ablation.x[0]: unknown key "train.sed"; did you mean "train.seed"?)");
  CHECK_THROWS_WITH(parse(R"({"ablation": {"x": [{"model": {"layers": 3}}]}})"),
                    R"(test.json: ablation.x[0]: "model" cannot be varied; name one field, not a section of them)");
  for (const char* axis : {R"("ranks.shard": ["none", "optimizer"])", R"("x": [{"ranks.shard": "none"}])"})
    CHECK(sinkscope::test::contains(
        sinkscope::test::message_of([&] { parse(std::string(R"({"ablation": {)") + axis + "}}"); }),
        R"("ranks.shard" makes no difference between arms, each of which trains as one rank)"));
  CHECK_THROWS_WITH(
      parse(R"({"ablation": {"x": [{"train.seed": 3}, 4]}})"),
      "test.json: ablation.x[1]: expected an object of one dotted key or more, which change together, with the "
      "value of each, found the integer 4");
  CHECK_THROWS_WITH(
      parse(R"({"ablation": {"x,y": [{"train.seed": 3}]}})"),
      R"(test.json: ablation: "x,y" names keys that change together; )"
      R"(expected letters, digits and "_.+-", the first a letter, digit or "_")");
  CHECK_THROWS_WITH(
      expand_ablation(parse(R"({"ablation": {"x": [{"data.bos": "none", "data.common_targets": ["none"]}]}})")),
      "run: ablation: data.common_targets cannot vary beside data.bos, which sets it for all arms");
  CHECK_THROWS_WITH(expand_ablation(parse("{}")),
                    R"(run: ablation names no key to vary; give e.g. {"data.bos": ["none", "sequence"]})");
  CHECK_THROWS_WITH(parse(R"({"ablation": {"data.boss": ["none"]}})"),
                    R"(test.json: ablation: unknown key "data.boss"; did you mean "data.bos"?)");
  CHECK_THROWS_WITH(parse(R"({"ablation": {"train.seed": [1, 1]}})"),
                    "test.json: ablation.train.seed[1]: the integer 1 is listed twice");
  std::string seeds = "0";
  for (int i = 1; i <= 1000; ++i) seeds.append(",").append(std::to_string(i));
  CHECK_THROWS_WITH(expand_ablation(parse(R"({"ablation": {"train.seed": [)" + seeds + "]}}")),
                    "run: ablation has more than 1000 arms");
  CHECK_THROWS_WITH(expand_ablation(parse(R"({"ablation": {"train.steps": [200, 50]}})")),
                    "run/steps-50: train.schedule.warmup_steps (100) must be at most train.steps (50)");
}

TEST_CASE("a dataset completes a config or is refused") {
  Config config = parse("{}");
  resolve_with_dataset(config, 258, 256, 257);
  CHECK(config.model.vocab_size == 258);
  CHECK(config.model.max_sequence_length == 128);
  CHECK(config.data.bos_id == 256);
  CHECK(config.data.eos_id == 257);
  Config small = parse(R"({"model": {"vocab_size": 100}})");
  CHECK_THROWS_WITH(resolve_with_dataset(small, 258, 256, 257),
                    "run: model.vocab_size (100) must be at least the dataset's vocabulary (258)");
  Config bos = parse(R"({"data": {"bos": "sequence"}})");
  CHECK_THROWS_WITH(resolve_with_dataset(bos, 258, -1, 257),
                    R"(run: data.bos_id must be given for data.bos "sequence", since the dataset has no BOS token)");
}

TEST_CASE("files are read whole or named") {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder / "config.json";
  const auto write = [&](const std::string& text) { std::ofstream(file, std::ios::binary) << text; };
  write(R"({"data": {"path": "somewhere"}, "name": "from-file"})");
  CHECK(load_config(file).name == "from-file");
  write("{}");
  CHECK_THROWS_WITH(load_config(file), file.string() +
                                           ": data.path (a folder written by `sinkscope tokenize`) or data.train "
                                           "(shard files) must be given");
  CHECK_THROWS_WITH(load_config(folder.path()), folder.path().string() + ": is a folder, not a configuration file");
  CHECK_THROWS_WITH(load_config(folder / "none.json"),
                    (folder / "none.json").string() + ": cannot open: No such file or directory");
  write(std::string((std::size_t{4} << 20) + 1, ' '));
  CHECK_THROWS_WITH(load_config(file), file.string() + ": is larger than 4194304 bytes");
}
