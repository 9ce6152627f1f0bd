#include <string>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;

TEST_CASE("ablate trains every arm and compares them") {
  const Workplace place;
  place.write("uPlot.iife.min.js", "");
  const Outcome outcome = place.run("ablate config.json --no-html");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  for (const char* arm : {"bos-sequence", "bos-none"}) {
    CHECK(contains(outcome.output, arm));
    CHECK(test::timeless_lines(place.path() / "runs/small" / arm / "metrics.jsonl").size() == 60);
  }
  CHECK(contains(outcome.output, "wandering"));

  SECTION("arms share the common targets, so that their losses compare") {
    for (const char* arm : {"bos-sequence", "bos-none"})
      CHECK(contains(place.read(std::string("runs/small/") + arm + "/config.json"),
                     "\"common_targets\": [\n      \"sequence\",\n      \"none\"\n    ]"));
  }
  SECTION("compare prints the same summary") {
    const Outcome compared = place.run("compare runs/small/bos-sequence runs/small/bos-none --no-html");
    INFO(compared.output);
    CHECK(compared.status == 0);
    CHECK(contains(compared.output, "bos-none"));
  }
  SECTION("compare draws a figure of the arms") {
    const Outcome compared = place.run("compare runs/small/bos-sequence runs/small/bos-none --no-html --figure arms.svg");
    INFO(compared.output);
    CHECK(compared.status == 0);
    CHECK(contains(place.read("arms.svg"), ">bos-none</text>"));
    place.write("other.svg", "<svg/>");
    const Outcome refused = place.run("compare runs/small/bos-none --no-html --figure other.svg");
    CHECK(refused.status == 1);
    CHECK(contains(refused.output, "--figure other.svg: exists and is not a figure"));
    CHECK(place.read("other.svg") == "<svg/>");
    CHECK(contains(place.run("compare runs/small/bos-none --no-html --figure arms.png").output, "expected a name that ends in .svg"));
  }
  SECTION("a second ablate refuses, a resumed one has nothing left to do") {
    CHECK(place.run("ablate config.json --no-html").status == 1);
    const std::string before = place.read("runs/small/bos-none/metrics.jsonl");
    const Outcome resumed = place.run("ablate config.json --resume --no-html");
    INFO(resumed.output);
    CHECK(resumed.status == 0);
    CHECK(contains(resumed.output, "arm 2 of 2: small/bos-none\nruns/small/bos-none: all 60 steps are done already"));
    CHECK(place.read("runs/small/bos-none/metrics.jsonl") == before);
  }
  SECTION("what is no run directory is named, with the runs that lie in it") {
    const auto refused = [&](const std::string& arguments, const std::string& message) {
      const Outcome refusal = place.run(arguments);
      INFO(arguments);
      CHECK(refusal.status == 1);
      CHECK(refusal.output == "sinkscope: error: " + message + "\n");
    };
    const std::string no_run = ": not a run directory (with config.json, metrics.jsonl): ";
    const std::string no_checkpoint = ": neither a checkpoint (manifest.json) nor a run directory (checkpoints/)";
    const std::string runs = "; folders in it are runs, among them bos-none: give runs/small/*/";
    const std::string one = "; folders in it are runs, among them bos-none: give runs/small/bos-none";
    place.write("runs/small/report.html", "");
    refused("compare runs/small/*", "runs/small/report.html" + no_run + "it is a file");
    refused("compare runs/small", "runs/small" + no_run + "it holds no config.json" + runs);
    refused("compare runs", "runs" + no_run + "it holds no config.json");
    const std::string checkpoint = "runs/small/bos-none/checkpoints/step_00000060";
    refused("compare " + checkpoint, checkpoint + no_run + "its config.json is that of a model, not of a run");
    refused("compare nowhere", "nowhere" + no_run + "there is no such folder");
    refused("export runs/small --output export", "runs/small" + no_checkpoint + one);
    refused("probe-dump runs/small --output dump.json",
            "runs/small" + no_checkpoint + ", nor a folder in Hugging Face layout (config.json)" + one);
    refused("probe-dump nowhere --output dump.json",
            "nowhere" + no_checkpoint + ", nor a folder in Hugging Face layout (config.json)");
    place.write("early/config.json", "{}");
    place.write("early/metrics.jsonl", "");
    refused("export early --output export", "early: the run has saved no checkpoint yet (there is no checkpoints/)");
    const Outcome all = place.run("compare runs/small/*/ --no-html");
    INFO(all.output);
    CHECK(all.status == 0);
  }
  SECTION("the plan of an ablation that has begun is printed, and nothing trained") {
    const Outcome plan = place.run("ablate config.json --dry-run --resume --no-html");
    INFO(plan.output);
    CHECK(plan.status == 0);
    CHECK_FALSE(contains(plan.output, "step 60"));
  }
  SECTION("a checkpoint is exported and its numbers dumped") {
    CHECK(place.run("export runs/small/bos-sequence --output export").status == 0);
    CHECK(std::filesystem::exists(place.path() / "export/model.safetensors"));
    CHECK(place.run("probe-dump export --output dump.json --sequences 2 --length 16 --positions 4").status == 0);
    const std::string dump = place.read("dump.json");
    CHECK(contains(dump, "sink_scores"));
    // The model of a run directory is that of its newest checkpoint, which was exported.
    CHECK(place.run("probe-dump runs/small/bos-sequence --output run.json --sequences 2 --length 16 --positions 4").status == 0);
    CHECK(place.read("run.json") == dump);
    const Outcome again = place.run("probe-dump export --output dump.json");
    CHECK(again.status == 1);
    CHECK(contains(again.output, "dump.json: exists already"));
    CHECK(place.read("dump.json") == dump);
    CHECK(place.run("probe-dump export --output full.json", "trap '' XFSZ; ulimit -f 2;").status == 1);
    for (const char* file : {"full.json", "full.json.partial", "dump.json.partial"})
      CHECK(!std::filesystem::exists(place.path() / file));
  }
}

TEST_CASE("a dry run prints the plan and writes nothing") {
  const Workplace place;
  const Outcome outcome = place.run("train config.json --dry-run");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* part : {"\"micro_batch\": 4", "parameters", "activations", "optimizer", "FLOP"})
    CHECK(contains(outcome.output, part));
  CHECK(!std::filesystem::exists(place.path() / "runs"));
}

TEST_CASE("a dry run needs no dataset where the vocabulary is given, and hides no damaged one") {
  const Workplace place;
  const std::string dry_run = "train config.json --dry-run --set data.bos=sequence --set model.vocab_size=384";
  for (const char* where : {" --set data.path=nowhere", " --set data.path= --set 'data.train=[\"nowhere/*.bin\"]'"}) {
    const Outcome outcome = place.run(dry_run + where);
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    for (const char* part : {"\"vocab_size\": 384", "\"bos_id\": -1", "\"max_sequence_length\": 32", "parameters", "activations",
                             "optimizer", "dataset           absent (no", "no memory of probe passes"})
      CHECK(contains(outcome.output, part));
    CHECK_FALSE(contains(outcome.output, "epochs of"));
  }
  const Outcome which = place.run("train config.json --dry-run --set data.path=nowhere");
  CHECK(which.status == 1);
  CHECK(which.output == "sinkscope: error: small: there is no dataset (data.path is nowhere) to take the vocabulary from; "
                        "make it, or give model.vocab_size to plan the run without\n");
  CHECK(place.run(dry_run + " --set data.path= --set 'data.train=[\"data/train_00000.bin\",\"nowhere\"]'").status == 1);
  CHECK(place.run("train config.json --set data.path=nowhere --set model.vocab_size=384").status == 1);
  std::filesystem::create_directory(place.path() / "empty");
  CHECK(place.run(dry_run + " --set data.path=empty").status == 1);
  std::filesystem::resize_file(place.path() / "data/train_00000.bin", 1000);
  const Outcome damaged = place.run(dry_run);
  INFO(damaged.output);
  CHECK(damaged.status == 1);
  CHECK(contains(damaged.output, "train_00000.bin"));
}

}  // namespace
}  // namespace sinkscope
