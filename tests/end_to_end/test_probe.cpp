// `sinkscope probe` on checkpoints, runs and Hugging Face folders, and causal tests while a run trains.
#include <nlohmann/json.hpp>

#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;
using Json = nlohmann::ordered_json;

Json probed(const Workplace& place, const std::string& arguments, const std::string& folder) {
  const Outcome outcome = place.run("probe " + arguments);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  CHECK(contains(place.read(folder + "/report.html"), "<html"));
  return Json::parse(place.read(folder + "/probe.json"));
}

const Json& set_of(const Json& json, const std::string& name) {
  for (const Json& set : json.at("sets"))
    if (set.at("set") == name) return set;
  throw std::out_of_range(name);
}

TEST_CASE("probe finds in a checkpoint what the run's own passes found, and the same in its export") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set probes.every=20 --set probes.sequences=3").status == 0);
  const std::string same = " --sequences 3 --short-length 16 --positions 4";  // as the config has them
  const Json json =
      probed(place, "runs/small --sequences 3 --causal --position 2 --rotary-shift 3", "probe-small-step_00000060");
  CHECK(json["step"] == 60);
  std::size_t compared = 0;
  for (const ProbeRecord& record : read_probe_records(place.path() / "runs/small")) {
    if (record.step != 60) continue;
    Json logged = to_json(record);
    const Json& found = set_of(json, record.set);
    for (const auto& [key, value] : found.items()) {
      if (key == "tokens") continue;  // a checkpoint does not know how many it has seen
      INFO(record.set << ": " << key);
      CHECK(value == logged.at(key));
      ++compared;
    }
  }
  CHECK(compared > 6 * 30);

  const Json& causal = json.at("causal");
  CHECK(causal["set"] == "natural_short_bos");  // the config trains with a BOS at every window
  CHECK(causal["position"] == 2);
  CHECK(causal["controls"].size() == json["sets"].size());
  const double before = causal["tests"][0]["first"]["score"]["value"];
  double changed = 0;
  for (const Json& test : causal["tests"]) changed += std::abs(test["first"]["score"]["value"].get<double>() - before);
  CHECK(changed > 0);

  // A BOS of the run's own is that of its probes.
  REQUIRE(place
              .run("train config.json --set name=other --set data.bos_id=65 --set train.steps=2 --set "
                   "train.schedule.warmup_steps=1")
              .status == 0);
  probed(place, "runs/other --output of-other", "of-other");
  CHECK(Json::parse(place.read("of-other/sets.json"))["natural_bos"]["inputs"][0][0] == 65);

  // An export is the same model; it knows no run, so its text is named.
  REQUIRE(place.run("export runs/small --output exported").status == 0);
  const Json exported = probed(place, "exported --dataset data --length 32 --output of-export" + same, "of-export");
  CHECK(exported["step"].is_null());
  for (const Json& set : json["sets"]) CHECK(set_of(exported, set["set"])["sink_score"] == set["sink_score"]);
  CHECK(exported["causal"].is_null());
  CHECK(Json::parse(place.read("of-export/sets.json")) ==
        Json::parse(place.read("probe-small-step_00000060/sets.json")));

  // Text of one's own goes through a tokenizer; without text there are the sets that need none.
  place.write("own.txt", place.read("text.txt"));
  const Json own =
      probed(place, "exported --text own.txt --tokenizer byte --length 32 --output of-text" + same, "of-text");
  CHECK(own["sets"].size() == json["sets"].size());
  const Outcome none = place.run("probe exported --output without --length 32" + same);
  INFO(none.output);
  CHECK(none.status == 0);
  CHECK(contains(none.output, "no text: the natural sets are left out"));
  CHECK(Json::parse(place.read("without/probe.json"))["sets"].size() == 2);
}

TEST_CASE("probe reads sink logits from a checkpoint, tells what they draw, and export refuses them by name") {
  const Workplace place;
  REQUIRE(
      place.run("train config.json --set probes.every=20 --set probes.sequences=3 --set model.attention.sink=learned")
          .status == 0);
  const Json json =
      probed(place, "runs/small --sequences 3 --causal --position 2 --rotary-shift 3", "probe-small-step_00000060");
  CHECK(json["model"]["attention"]["sink"] == "learned");
  std::size_t compared = 0;
  for (const ProbeRecord& record : read_probe_records(place.path() / "runs/small")) {
    if (record.step != 60) continue;
    CHECK(set_of(json, record.set)["sink_logit_mass"] == to_json(record)["sink_logit_mass"]);
    for (const double mass : record.sink_logit_mass) CHECK((mass > 0 && mass < 1));
    ++compared;
  }
  CHECK(compared == 6);
  const Outcome refused = place.run("export runs/small --output exported");
  CHECK(refused.status == 1);
  CHECK(contains(refused.output, "model.attention.sink is \"learned\", it needs \"none\""));
  CHECK(!std::filesystem::exists(place.path() / "exported"));
}

TEST_CASE("causal tests run at configured steps, are events, and change no bit of the training") {
  const Workplace place;
  const std::string common = "train config.json --set probes.every=20 --set probes.sequences=3 ";
  REQUIRE(place.run(common + "--set name=with --set probes.causal_every=30").status == 0);
  REQUIRE(place.run(common + "--set name=without").status == 0);
  std::vector<std::int64_t> steps;
  for (const EventRecord& event : read_event_records(place.path() / "runs/with")) {
    if (event.kind != "causal") continue;
    steps.push_back(event.step);
    const Json data = Json::parse(event.data);
    CHECK(data["set"] == "natural_short_bos");
    CHECK(data["tests"].size() > 6);
    CHECK(contains(event.message, "excess "));
  }
  CHECK(steps == std::vector<std::int64_t>{30, 60});
  // The comparison tells them beside a run that has none.
  const Outcome compared = place.run("compare runs/with runs/without --no-html");
  INFO(compared.output);
  REQUIRE(compared.status == 0);
  for (const char* text :
       {"causal tests, of them with a sink", "MLP at P0 that removes most", "At its last causal test, step 60, "})
    CHECK(contains(compared.output, text));
  CHECK_FALSE(contains(place.run("compare runs/without --no-html").output, "causal"));
  // A run that goes on from an earlier checkpoint has each test once, the same.
  const auto causal_lines = [&] {
    std::vector<std::string> lines;
    for (const std::string& line : test::timeless_lines(place.path() / "runs/with/events.jsonl"))
      if (contains(line, "\"causal\"")) lines.push_back(line);
    return lines;
  };
  const std::vector<std::string> before = causal_lines();
  std::filesystem::remove_all(place.path() / "runs/with/checkpoints/step_00000060");
  REQUIRE(place.run(common + "--set name=with --set probes.causal_every=30 --resume").status == 0);
  CHECK(causal_lines() == before);
  CHECK(test::timeless_lines(place.path() / "runs/with/metrics.jsonl") ==
        test::timeless_lines(place.path() / "runs/without/metrics.jsonl"));
  CHECK(test::timeless_lines(place.path() / "runs/with/probes.jsonl") ==
        test::timeless_lines(place.path() / "runs/without/probes.jsonl"));
  CHECK(place.read("runs/with/checkpoints/step_00000060/model.safetensors") ==
        place.read("runs/without/checkpoints/step_00000060/model.safetensors"));
}

TEST_CASE("causal tests that could not run are refused before the first step") {
  const Workplace place;
  const auto refused = [&](const std::string& settings, const std::string& message) {
    const Outcome outcome = place.run("train config.json --set name=refused --set probes.causal_every=7 " + settings);
    INFO(settings << ": " << outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, message));
    CHECK(!std::filesystem::exists(place.path() / "runs/refused"));
  };
  refused("--set probes.every=0", "probes.causal_every (7) needs probes.enabled, probes.every above 0");
  refused("--set probes.enabled=false", "probes.causal_every (7) needs probes.enabled");
  REQUIRE(place.run("tokenize text.txt --output whole --tokenizer byte").status == 0);
  refused("--set data.path=whole", "probe passes need held-out text, and the dataset has none");
  place.write("line.txt", std::string(45, 'a'));
  REQUIRE(place.run("tokenize text.txt --output short --tokenizer byte --validation line.txt").status == 0);
  refused("--set data.path=short --set probes.short_length=32", "needs at least 2 sequences of held-out text");
}

TEST_CASE("a run of before a key existed goes on, and causal tests can begin on the way") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set probes.every=20").status == 0);
  std::filesystem::remove_all(place.path() / "runs/small/checkpoints/step_00000060");
  Json config = Json::parse(place.read("runs/small/config.json"));
  for (const char* key : {"rotary_dim", "qkv_bias", "parallel_block", "attention"})
    REQUIRE(config["model"].erase(key) == 1);
  REQUIRE(config["probes"].erase("causal_every") == 1);
  place.write("runs/small/config.json", config.dump());
  const Outcome outcome = place.run("train config.json --set probes.every=20 --set probes.causal_every=60 --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  std::int64_t tested = 0;
  for (const EventRecord& event : read_event_records(place.path() / "runs/small"))
    tested += event.kind == "causal" ? 1 : 0;
  CHECK(tested == 1);
  // What differs from the default of a key that is not there is another run still.
  config = Json::parse(place.read("runs/small/config.json"));
  config["model"].erase("parallel_block");
  place.write("runs/small/config.json", config.dump());
  CHECK(contains(place.run("train config.json --set probes.every=20 --set model.parallel_block=true --resume").output,
                 "the run was begun with model.parallel_block = false, not true"));
  config["model"].erase("attention");
  place.write("runs/small/config.json", config.dump());
  CHECK(
      contains(place.run("train config.json --set probes.every=20 --set model.attention.sink=learned --resume").output,
               "the run was begun with model.attention.sink = \"none\", not \"learned\""));
}

TEST_CASE("of a model whose training is not known, the sets with the stronger sink are shown and tested") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  REQUIRE(place.run("export runs/small --output exported").status == 0);
  const Json json =
      probed(place, "exported --dataset data --length 32 --short-length 16 --causal --position 2 --output out", "out");
  const auto excess = [&](const char* set) { return set_of(json, set)["sink_excess"][0].get<double>(); };
  CHECK(json["causal"]["set"] == (excess("natural_bos") > excess("natural") ? "natural_short_bos" : "natural_short"));
}

TEST_CASE("a probe that is stopped leaves nothing behind") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  const auto entries = [&] { return std::distance(std::filesystem::directory_iterator(place.path()), {}); };
  const auto before = entries();
  CHECK(place.run_and_kill({"probe", "runs/small", "--sequences", "1000", "--causal", "--position", "2", "--resamples",
                            "1000000", "--output", "out"},
                           1500));
  CHECK(entries() == before);
}

TEST_CASE("probe refuses by name what does not fit, and leaves nothing behind") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  REQUIRE(place.run("export runs/small --output exported").status == 0);
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const Outcome outcome = place.run("probe " + arguments + " --output out");
    INFO(arguments << ": " << outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, message));
    CHECK(!std::filesystem::exists(place.path() / "out"));
  };
  refused("nowhere",
          "nowhere: neither a checkpoint (manifest.json) nor a run directory (checkpoints/), nor a folder in Hugging "
          "Face layout");
  refused("exported --text text.txt",
          "exported: holds no tokenizer that can be read (tokenizer.model, or vocab.json and merges.txt)");
  refused("exported --text text.txt --dataset data", "--text and --dataset exclude each other");
  refused("exported --dataset nowhere", "nowhere");
  refused("exported --length 100000", "--length 100000 is beyond the model's");
  refused("exported --length 2", "--length 2: expected at least 3");
  refused("exported --device gpu", "--device gpu: expected one of auto, cpu, cuda");
  refused("exported --precision fp8",
          "--precision fp8: FP8 scales belong to a run that trains; expected auto, fp32 or bf16");
  refused("runs/small --causal --causal-set natral --position 2 --short-length 12",
          "--causal-set natral: there is no such probe set, expected one of natural, ");
  refused("runs/small --causal --position 12 --short-length 12",
          "--position 12: expected at most 11, of the 12 tokens of the shortest sequences");
  refused("runs/small --positions 900", "--positions 900: expected at most ");
  refused("runs/small --threshold 2", "--threshold 2.000000: expected 0 to 1");
  for (const char* flag : {"--causal-set random", "--position 2", "--isolated-layers 2", "--rotary-shift 2",
                           "--resamples 200"})
    refused(std::string("runs/small ") + flag, std::string(flag).substr(0, std::string(flag).find(' ')) +
                                                   " requires --causal");
  refused("runs/small --tokenizer byte", "--tokenizer requires --text");
  refused("runs/small --length 0", "--length 0: expected at least 3");
  refused("runs/small --batch 0", "--batch 0: expected at least 1");
  refused("runs/small --sequences 1 --causal", "--sequences 1: expected at least 2");
  refused("runs/small --from-layer 99", "--from-layer 99: the model has 3 layers, counted from 0");
  refused("runs/small --causal --position 2 --rotary-shift 16",
          "--rotary-shift 16: expected less than the 16 positions of probe set natural_short_bos");
  refused("runs/small --causal --position 2 --isolated-layers 9", "--isolated-layers 9: the model has 3 layers");
  refused("runs/small --short-length 33", "--short-length 33: expected at most the 32 tokens of --length");
  refused("runs/small --threads -1", "--threads -1: expected at least 0");
  place.write("short.txt", "abc");
  refused("exported --text short.txt --tokenizer byte",
          "--text short.txt: 4 tokens are fewer than one window of 33; give more text, or a smaller --length");
  const std::string config = place.read("exported/config.json");
  const std::size_t bos = config.find("\"bos_token_id\": 256");
  REQUIRE(bos != std::string::npos);
  place.write("exported/config.json", config.substr(0, bos) + "\"bos_token_id\": 5000" + config.substr(bos + 19));
  refused("exported", "exported/config.json: \"bos_token_id\": ");
  place.write("exported/config.json", config);
  std::string weights = place.read("exported/model.safetensors");
  weights.replace(weights.size() - 8, 8, 8, '\xff');
  place.write("exported/model.safetensors", weights);
  refused("exported", "exported: the weights are damaged: parameter ");
  place.write("exported/config.json", R"({"architectures": ["MambaForCausalLM"]})");
  refused("exported", "exported/config.json: \"architectures\": the string \"MambaForCausalLM\" is not supported");

  std::filesystem::create_directory(place.path() / "there");
  const Outcome outcome = place.run("probe runs/small --output there");
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "there"));
  CHECK(std::filesystem::is_empty(place.path() / "there"));
}

}  // namespace
}  // namespace sinkscope
