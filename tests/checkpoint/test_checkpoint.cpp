#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

const std::vector<std::string> kFiles = {"checkpoint.json", "config.json", "manifest.json", "model.safetensors",
                                         "optimizer.safetensors", "state.json"};

}  // namespace

TEST_CASE("a checkpoint gives back every bit of parameters, moments and state") {
  const TemporaryFolder folder;
  const auto preset =
      GENERATE(ModelPreset::gpt2, ModelPreset::llama, ModelPreset::qwen2, ModelPreset::qwen3, ModelPreset::gpt_neox);
  const ModelConfig model = small_model(preset);
  const Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path() / "checkpoints", checkpoint_data(model, arrays, 1200), 0);
  CHECK(saved == folder.path() / "checkpoints" / "step_00001200");
  CHECK(names_in(saved) == kFiles);
  verify_checkpoint(saved);

  Arrays read(model, 7);
  const std::string state = load_checkpoint(saved, model, read.parameters, read.first, read.second);
  CHECK(state == "{\"step\": 1200}");
  CHECK(read.parameters == arrays.parameters);
  CHECK(read.first == arrays.first);
  CHECK(read.second == arrays.second);

  const CheckpointInfo info = read_checkpoint_info(saved);
  CHECK(info.step == 1200);
  CHECK(info.bos_id == 1);
  CHECK(info.eos_id == 2);
  CHECK(info.model.preset == preset);
  CHECK(info.model.head_dim == model.head_dim);
  CHECK(info.model.max_sequence_length == 9);
}

TEST_CASE("a model of no known architecture is checkpointed under the engine's own names") {
  const TemporaryFolder folder;
  ModelConfig model = small_model(ModelPreset::llama);
  model.position = PositionEncoding::none;
  const Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 3), 0);
  Arrays read(model, 7);
  load_checkpoint(saved, model, read.parameters, {}, {});
  CHECK(read.parameters == arrays.parameters);
  CHECK(message_of(saved, [&] { model_config_from_hugging_face(saved); }) ==
        "@/config.json: \"architectures\": the string \"SinkscopeDecoder\" is not supported, expected "
        "GPT2LMHeadModel, GPTNeoXForCausalLM, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or "
        "Qwen3ForCausalLM");
}

TEST_CASE("sink logits are checkpointed under the engine's own names, and neither lost nor made up") {
  const TemporaryFolder folder;
  const ModelConfig plain = small_model(ModelPreset::llama);
  ModelConfig model = plain;
  model.attention.sink = AttentionSink::learned;
  const Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 3), 0);
  CHECK(read_checkpoint_info(saved).model.attention.sink == AttentionSink::learned);
  CHECK(contains(read_file(saved / "model.safetensors"), "\"blocks.1.attention.sink\""));
  CHECK(contains(read_file(saved / "optimizer.safetensors"), "\"v.blocks.1.attention.sink\""));
  Arrays read(model, 7);
  load_checkpoint(saved, model, read.parameters, read.first, read.second);
  CHECK(read.parameters == arrays.parameters);
  CHECK(read.first == arrays.first);
  CHECK(read.second == arrays.second);
  Arrays without(plain, 7);
  CHECK(message_of(saved, [&] { load_checkpoint(saved, plain, without.parameters, {}, {}); }) ==
        "@/checkpoint.json: model.attention.sink is \"learned\", expected \"none\" as configured");

  // Fixed ones are no parameters, but another function all the same.
  ModelConfig fixed = plain;
  fixed.attention.sink = AttentionSink::off_by_one;
  const Arrays values(fixed);
  CHECK(values.parameters == Arrays(plain).parameters);
  const auto other = save_checkpoint(folder.path(), checkpoint_data(fixed, values, 4), 0);
  CHECK(message_of(other, [&] { load_checkpoint(other, plain, without.parameters, {}, {}); }) ==
        "@/checkpoint.json: model.attention.sink is \"off_by_one\", expected \"none\" as configured");
}

TEST_CASE("the same data make the same bytes") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::gpt2);
  const Arrays arrays(model);
  const auto first = save_checkpoint(folder.path() / "a", checkpoint_data(model, arrays, 5), 0);
  const auto second = save_checkpoint(folder.path() / "b", checkpoint_data(model, arrays, 5), 0);
  for (const std::string& name : kFiles) CHECK(read_file(first / name) == read_file(second / name));
}

TEST_CASE("one flipped or missing byte in any file is found") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  save_checkpoint(folder.path(), checkpoint_data(model, arrays, 5), 0);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 6), 0);
  const auto verify = [&] { verify_checkpoint(saved); };
  for (const std::string& name : kFiles) {
    const std::string content = read_file(saved / name);
    for (const std::size_t at : {std::size_t{0}, content.size() / 2, content.size() - 1}) {
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ 1);
      write_file(saved / name, damaged);
      INFO(name << " at " << at);
      if (name == "manifest.json")
        CHECK(message_of(saved, verify).rfind("@/manifest.json: is damaged: it", 0) == 0);
      else
        CHECK(message_of(saved, verify) ==
              "@/" + name + ": is damaged: its content does not match the hash in manifest.json");
      CHECK(newest_checkpoint(folder.path()) == folder.path() / "step_00000005");
    }
    const std::string sizes =
        std::to_string(content.size() - 1) + " bytes, expected " + std::to_string(content.size());
    write_file(saved / name, content.substr(0, content.size() - 1));
    if (name != "manifest.json") CHECK(message_of(saved, verify) == "@/" + name + ": is truncated: " + sizes);
    CHECK(!message_of(saved, verify).empty());
    std::filesystem::remove(saved / name);
    CHECK(message_of(saved, verify) == "@/" + name + ": is missing");
    write_file(saved / name, content);
    CHECK(message_of(saved, verify).empty());
  }
}

TEST_CASE("the newest checkpoint is the newest that verifies, and the others are named") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  CHECK(!newest_checkpoint(folder.path() / "nowhere"));
  for (const std::int64_t step : {90, 100, 123456789})
    save_checkpoint(folder.path(), checkpoint_data(model, arrays, step), 0);
  CHECK(newest_checkpoint(folder.path())->filename() == "step_123456789");
  std::filesystem::remove(folder.path() / "step_123456789" / "manifest.json");
  std::filesystem::create_directory(folder.path() / ".step_00000200.partial");
  std::filesystem::create_directory(folder.path() / "step_notes");
  std::vector<std::string> rejected;
  CHECK(newest_checkpoint(folder.path(), &rejected)->filename() == "step_00000100");
  REQUIRE(rejected.size() == 1);
  const std::string damaged = (folder.path() / "step_123456789").string();
  CHECK(rejected[0] == damaged + ": " + damaged + "/manifest.json: is missing");
}

TEST_CASE("only the newest checkpoints are kept, the one just written always") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  for (std::int64_t step = 1; step <= 4; ++step)
    save_checkpoint(folder.path(), checkpoint_data(model, arrays, step), 2);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step_00000003", "step_00000004"});
  save_checkpoint(folder.path(), checkpoint_data(model, arrays, 2), 1);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step_00000002"});
}

TEST_CASE("a checkpoint of the same step is replaced") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  save_checkpoint(folder.path(), checkpoint_data(model, Arrays(model, 1), 4), 0);
  const Arrays arrays(model, 2);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 4), 0);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step_00000004"});
  verify_checkpoint(saved);
  Arrays read(model, 7);
  load_checkpoint(saved, model, read.parameters, {}, {});
  CHECK(read.parameters == arrays.parameters);
}

TEST_CASE("a full disk names the file and leaves what was there") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 1);
  const std::size_t limit = GENERATE(std::size_t{0}, std::size_t{1000}, std::size_t{20000});
  std::string message;
  {
    const FileSizeLimit full(limit);
    message = message_of(folder.path(), [&] { save_checkpoint(folder.path(), checkpoint_data(model, arrays, 2), 1); });
  }
  const std::string file = limit == 20000 ? "optimizer.safetensors" : "model.safetensors";
  CHECK(message == "@/.step_00000002.partial/" + file + ": cannot write: File too large");
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step_00000001"});
  verify_checkpoint(folder.path() / "step_00000001");
}

TEST_CASE("a process killed while saving leaves the earlier checkpoint newest, and the next save clears up") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  const CheckpointData data = checkpoint_data(model, arrays, 2);
  save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const FileSizeLimit full(1000);
    std::signal(SIGXFSZ, SIG_DFL);
    save_checkpoint(folder.path(), data, 0);
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(names_in(folder.path()) == std::vector<std::string>{".step_00000002.partial", "step_00000001"});
  CHECK(newest_checkpoint(folder.path())->filename() == "step_00000001");
  // Of whatever step; what is of another kind stays.
  for (const char* other : {".step_00000009.removed", ".step_00000009.kept", ".step_9.removed"})
    std::filesystem::create_directory(folder.path() / other);
  save_checkpoint(folder.path(), checkpoint_data(model, arrays, 3), 0);
  CHECK(names_in(folder.path()) ==
        std::vector<std::string>{".step_00000009.kept", ".step_9.removed", "step_00000001", "step_00000003"});
  CHECK(newest_checkpoint(folder.path())->filename() == "step_00000003");
}

TEST_CASE("a surplus checkpoint that cannot be removed is told of and stays whole, and the new one is saved") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  const test::Unprivileged user;
  if (!user.holds()) {
    WARN("not tested: root may remove anything");
    return;
  }
  const auto old = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 1);
  std::filesystem::permissions(old, std::filesystem::perms::owner_write, std::filesystem::perm_options::remove);
  std::vector<std::string> left;
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 2), 1, &left);
  std::filesystem::permissions(old, std::filesystem::perms::owner_all);
  CHECK(left == std::vector<std::string>{old.string() + ": cannot remove: Permission denied"});
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step_00000001", "step_00000002"});
  verify_checkpoint(old);
  verify_checkpoint(saved);
}

TEST_CASE("moments of a name that is no parameter's are refused") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 0);
  // A tensor more, of no elements, whose name is a parameter's but for the kind of moment.
  const std::filesystem::path file = saved / "optimizer.safetensors";
  const std::string content = read_file(file);
  const std::size_t header = static_cast<unsigned char>(content[0]) + 256U * static_cast<unsigned char>(content[1]);
  const std::string bytes = std::to_string(content.size() - 8 - header);
  const std::string more = R"(,"x.embed.token.weight":{"dtype":"F32","shape":[0],"data_offsets":[)" + bytes + "," +
                           bytes + "]}}";
  const std::size_t end = content.rfind('}', 8 + header);
  std::string json = content.substr(8, end - 8) + more;
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  write_file(file, length + json + content.substr(8 + header));
  CHECK(message_of(saved, [&] { load_checkpoint(saved, model, arrays.parameters, arrays.first, arrays.second); }) ==
        "@/optimizer.safetensors: tensor x.embed.token.weight is unexpected: the model as configured has none of this "
        "name");
}

TEST_CASE("a checkpoint of another model is refused with the field named") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 0);
  Arrays read(model, 7);
  ModelConfig other = model;
  other.rope_theta = 500000.0;
  CHECK(message_of(saved, [&] { load_checkpoint(saved, other, read.parameters, {}, {}); }) ==
        "@/checkpoint.json: model.rope_theta is 10000.0, expected 500000.0 as configured");
  other = model;
  other.rotary_dim = 2;
  CHECK(message_of(saved, [&] { load_checkpoint(saved, other, read.parameters, {}, {}); }) ==
        "@/checkpoint.json: model.rotary_dim is 0, expected 2 as configured");
  other.rotary_dim = model.head_dim;  // what 0 stands for
  CHECK(message_of(saved, [&] { load_checkpoint(saved, other, read.parameters, {}, {}); }).empty());
  std::filesystem::remove(saved / "optimizer.safetensors");
  CHECK(message_of(saved, [&] { load_checkpoint(saved, model, read.parameters, read.first, read.second); }) ==
        "@/optimizer.safetensors: is missing; the checkpoint holds no optimizer state");
  CHECK(message_of(saved, [&] { load_checkpoint(saved, model, std::span(read.parameters).first(3), {}, {}); })
            .rfind("parameters: expected ", 0) == 0);
  replace_in_file(saved / "checkpoint.json", "\"layers\": 2", "\"layers\": -2");
  CHECK(message_of(saved, [&] { read_checkpoint_info(saved); }) ==
        "@/checkpoint.json: model.layers: expected an integer from 1 to 1024, found the integer -2");
}

TEST_CASE("a checkpoint that says nothing of later switches loads") {
  const TemporaryFolder folder;
  const auto preset = GENERATE(ModelPreset::gpt2, ModelPreset::llama, ModelPreset::qwen3);
  const ModelConfig model = small_model(preset);
  const Arrays arrays(model);
  const auto saved = save_checkpoint(folder.path(), checkpoint_data(model, arrays, 1), 0);
  for (const char* line : {"\"rotary_dim\": 0,", "\"qkv_bias\": false,", "\"parallel_block\": false,",
                           "\"attention\": {\n      \"sink\": \"none\"\n    },"})
    replace_in_file(saved / "checkpoint.json", line, "");
  Arrays read(model, 7);
  load_checkpoint(saved, model, read.parameters, read.first, read.second);
  CHECK(read.parameters == arrays.parameters);
}

TEST_CASE("what cannot be saved is refused before anything is written") {
  const TemporaryFolder folder;
  const ModelConfig model = small_model(ModelPreset::llama);
  const Arrays arrays(model);
  CheckpointData data = checkpoint_data(model, arrays, 1);
  data.state = "{";
  CHECK(message_of(folder.path(), [&] { save_checkpoint(folder.path(), data, 0); }) ==
        "the loop's state is no valid JSON");
  data = checkpoint_data(model, arrays, -1);
  CHECK(message_of(folder.path(), [&] { save_checkpoint(folder.path(), data, 0); }) ==
        "checkpoint step -1 is negative");
  data = checkpoint_data(model, arrays, 1);
  data.second_moment = {};
  CHECK(message_of(folder.path(), [&] {
          save_checkpoint(folder.path(), data, 0);
        }).rfind("second moment: expected", 0) == 0);
  CHECK(names_in(folder.path()).empty());
}
