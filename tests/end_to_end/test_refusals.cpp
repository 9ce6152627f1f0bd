#include <fstream>
#include <string>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;

/// One line, "sinkscope: error: ..." with status 1, and no run left behind.
void check_refused(const Workplace& place, const std::string& arguments, const std::string& part) {
  const Outcome outcome = place.run(arguments);
  INFO(arguments << "\n" << outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "error: "));
  CHECK(contains(outcome.output, part));
  CHECK(!std::filesystem::exists(place.path() / "runs"));
}

TEST_CASE("bad input gets one clear error and a status of 1") {
  const Workplace place;
  check_refused(place, "train config.json --set model.layer=3", "model.layers");
  check_refused(place, "train config.json --set train.steps=0", "train.steps");
  check_refused(place, "train config.json --set data.path=nowhere", "nowhere");
  check_refused(place, "train missing.json", "missing.json");
  check_refused(
      place,
      "train config.json --set device=cpu --set model.channels=8192 --set model.hidden=32768 --set model.layers=1000",
      " MiB of this machine's memory, and ");
  if (contains(place.run("doctor").output, "missing  GPU"))
    check_refused(place, "train config.json --set device=cuda", "device");
  place.write("twice.json", "{\"name\": \"a\", \"name\": \"b\"}");
  check_refused(place, "train twice.json", "name");

  place.write("short.txt", "the whale\n<|endoftext|>\nthe ship");
  REQUIRE(place.run("tokenize short.txt --output short --tokenizer byte --validation-fraction 0.4").status == 0);
  for (const char* run : {"", " --dry-run"}) {
    check_refused(
        place, std::string("train config.json --set data.path=short") + run,
        "short/train_00000.bin: is shorter than one window: train.sequence_length (32) takes 33 tokens, found 11");
    check_refused(place,
                  std::string("train config.json --set data.path= --set 'data.train=[\"data/train_*\"]' "
                              "--set 'data.validation=[\"short/v*\"]'") +
                      run,
                  "short/validation_00000.bin: is shorter");
    check_refused(place, std::string("train config.json --set data.path= --set 'data.train=[\"data/train_*\"]'") + run,
                  "probe passes need held-out text");
  }

  const std::string shard = place.read("data/train_00000.bin");
  REQUIRE(shard.size() > 1000);
  place.write("data/train_00000.bin", shard.substr(0, shard.size() - 7));
  check_refused(place, "train config.json", "train_00000.bin");
  std::string flipped = shard;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 1);
  place.write("data/train_00000.bin", flipped);
  check_refused(place, "train config.json", "train_00000.bin");
}

TEST_CASE("a dry run for a GPU prints its memory table, with a GPU and without") {
  const Workplace place;
  const Outcome outcome = place.run("train config.json --set device=cuda --dry-run");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* part :
       {"\ndevice memory     ", "\nactivations    blocks: mlp up ", "\nbackend        matrix product workspace "})
    CHECK(contains(outcome.output, part));
  CHECK(!std::filesystem::exists(place.path() / "runs"));
}

TEST_CASE("a word that is not understood is named, with the nearest that is") {
  const Workplace place;
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const Outcome outcome = place.run(arguments);
    INFO(arguments);
    CHECK(outcome.status == 1);
    CHECK(outcome.output == "sinkscope: error: " + message + "\n");
  };
  refused("trian config.json", "unknown command \"trian\"; did you mean \"train\"?");
  refused("frobnicate", "unknown command \"frobnicate\"; see sinkscope --help");
  refused("--verison", "unknown option \"--verison\"; did you mean \"--version\"?");
  refused("train --bogus", "unknown option \"--bogus\"; see sinkscope train --help");
  refused("train config.json --dry-rum", "unknown option \"--dry-rum\"; did you mean \"--dry-run\"?");
  refused("export runs/small --ouput=x", "unknown option \"--ouput\"; did you mean \"--output\"?");
  refused("config shwo config.json", "unknown command \"shwo\"; did you mean \"show\"?");
  refused("config show config.json --sett a=1", "unknown option \"--sett\"; did you mean \"--set\"?");
  CHECK(contains(place.run("train config.json more.json").output, "more.json"));
  CHECK(contains(place.run("train").output, "config is required"));
}

TEST_CASE("an override takes one value, so that the config may follow it") {
  const Workplace place;
  for (const char* arguments :
       {"train --set train.steps=7 config.json --dry-run", "train config.json --dry-run --set train.steps=7",
        "config show --set train.steps=7 --set name=a config.json"}) {
    const Outcome outcome = place.run(arguments);
    INFO(arguments << "\n" << outcome.output);
    CHECK(outcome.status == 0);
    CHECK(contains(outcome.output, "\"steps\": 7"));
  }
}

TEST_CASE("what would keep ablate from its page is told before the training") {
  const Workplace place;
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    for (const char* run : {"", " --dry-run"}) {
      const Outcome outcome = place.run(arguments + run, "SINKSCOPE_ASSETS=assets");
      INFO(outcome.output);
      CHECK(outcome.status == 1);
      CHECK(contains(outcome.output, part));
      CHECK(!std::filesystem::exists(place.path() / "runs/small/bos-sequence"));
    }
  };
  refused("ablate config.json", "(uPlot) is not installed");
  for (const char* file : {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"})
    test::write_file(place.path() / "assets/uplot" / file, "/* */");
  std::string seeds = "1";
  for (int seed = 2; seed <= 33; ++seed) seeds += "," + std::to_string(seed);
  refused("ablate config.json --set 'ablation={\"train.seed\":[" + seeds + "]}'", "at most 32 runs, not 33");
  test::write_file(place.path() / "runs/small/report.html", "mine");
  refused("ablate config.json", "runs/small/report.html: exists and is not a report");
  CHECK(place.read("runs/small/report.html") == "mine");
  CHECK(place.run("ablate config.json --dry-run --no-html", "SINKSCOPE_ASSETS=none").status == 0);
  place.write("runs/small/bos-none/config.json", "{}");
  refused("ablate config.json --no-html", "runs/small/bos-none: holds a run already");
}

TEST_CASE("a full disk stops the run with the file named, and the run goes on when there is room") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set name=whole").status == 0);
  // Files of at most 24 KiB: the logs outgrow that within the run.
  const Outcome full =
      place.run("train config.json --set name=full --set checkpoint.every=0", "ulimit -f 24;");
  INFO(full.output);
  CHECK(full.status == 1);
  CHECK(contains(full.output, "runs/full/"));
  CHECK(contains(full.output, ": cannot write: File too large"));
  const Outcome rest = place.run("train config.json --set name=full --set checkpoint.every=0 --resume");
  INFO(rest.output);
  CHECK(rest.status == 0);
  for (const char* log : {"metrics.jsonl", "probes.jsonl"})
    CHECK(test::timeless_lines(place.path() / "runs/full" / log) ==
          test::timeless_lines(place.path() / "runs/whole" / log));
}

TEST_CASE("a damaged checkpoint is left aside, and the one before it continued") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  const std::string file = "runs/small/checkpoints/step_00000060/model.safetensors";
  std::string content = place.read(file);
  content[content.size() - 5] = static_cast<char>(content[content.size() - 5] ^ 4);
  place.write(file, content);
  const auto before = test::timeless_lines(place.path() / "runs/small/metrics.jsonl");
  const Outcome outcome = place.run("train config.json --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  const std::string reason =
      "  warning: checkpoint left aside: runs/small/checkpoints/step_00000060: runs/small/checkpoints/"
      "step_00000060/model.safetensors: is damaged: its content does not match the hash in manifest.json\n";
  CHECK(contains(outcome.output, "step 56  resume: resumed from step_00000056\nstep 56" + reason));
  CHECK(outcome.output.find("left aside") == outcome.output.rfind("left aside"));
  CHECK(test::timeless_lines(place.path() / "runs/small/metrics.jsonl") == before);
}

}  // namespace
}  // namespace sinkscope
