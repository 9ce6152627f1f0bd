#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

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
  SECTION("runs are shown in the order in which they are given, by compare and by monitor") {
    // Neither the order of the ablation, nor that of the names, alone.
    for (const auto& [first, second] : {std::pair("bos-sequence", "bos-none"), std::pair("bos-none", "bos-sequence")}) {
      INFO(first << " is given first");
      const std::string runs = std::string("runs/small/") + first + "/ runs/small/" + second;
      const auto leads = [&](const std::string& text, const std::string& before, const std::string& after) {
        const std::size_t at = text.find(before + first + after), then = text.find(before + second + after);
        return at != std::string::npos && then != std::string::npos && at < then;
      };
      const Outcome compared =
          place.run("compare " + runs + " --no-html --json " + first + ".json --figure " + first + ".svg");
      INFO(compared.output);
      REQUIRE(compared.status == 0);
      CHECK(leads(compared.output.substr(0, compared.output.find('\n')), " ", ""));  // the columns of the table
      CHECK(leads(compared.output, "\n  ", " (BOS "));                               // the sentences
      CHECK(contains(compared.output, std::string("\n  ") + first + " → " + second + " (data.bos)"));
      const auto json = nlohmann::json::parse(place.read(std::string(first) + ".json"));
      CHECK(json.at("runs").at(0).at("label") == first);
      CHECK(json.at("runs").at(1).at("label") == second);
      CHECK(leads(place.read(std::string(first) + ".svg"), ">", "</text>"));
      const Outcome watched = place.run("monitor --once " + runs);
      INFO(watched.output);
      CHECK(leads("\n" + watched.output, "\n", "   finished\n"));
    }
  }
  SECTION("compare draws a figure of the arms") {
    const Outcome compared =
        place.run("compare runs/small/bos-sequence runs/small/bos-none --no-html --figure arms.svg");
    INFO(compared.output);
    CHECK(compared.status == 0);
    CHECK(contains(place.read("arms.svg"), ">bos-none</text>"));
    place.write("other.svg", "<svg/>");
    const Outcome refused = place.run("compare runs/small/bos-none --no-html --figure other.svg");
    CHECK(refused.status == 1);
    CHECK(contains(refused.output, "--figure other.svg: exists and is not a figure"));
    CHECK(place.read("other.svg") == "<svg/>");
    CHECK(contains(place.run("compare runs/small/bos-none --no-html --figure arms.png").output,
                   "expected a name that ends in .svg"));
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
    refused("compare runs/small/*", "runs/small/ablation.json" + no_run +
                                        "it is a file; the runs beside it are runs/small/*/");
    refused("train config.json", "runs/small: holds the arms of an ablation; give another name with --set name=...");
    refused("compare runs/small", "runs/small" + no_run + "it holds no config.json" + runs);
    refused("compare runs", "runs" + no_run + "it holds no config.json");
    const std::string checkpoint = "runs/small/bos-none/checkpoints/step_00000060";
    refused("compare " + checkpoint, checkpoint + no_run + "its config.json is that of a model, not of a run");
    refused("compare runs/small/bos-none runs/small/bos-sequence runs/small/bos-none/",
            "runs/small/bos-none/: the run is given twice");
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
    CHECK(place.run("probe-dump runs/small/bos-sequence --output run.json --sequences 2 --length 16 --positions 4")
              .status == 0);
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

TEST_CASE("ablate trains several arms at a time, and they are those that train by themselves") {
  const Workplace place;
  const std::string grid = "ablate config.json --no-html --set 'ablation.train.seed=[1,2]' --set name=grid";
  const Outcome outcome = place.run(grid + " --jobs 3", "OMP_NUM_THREADS=6");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const std::filesystem::path folder = place.path() / "runs/grid";
  for (const char* arm : {"bos-sequence,seed-1", "bos-sequence,seed-2", "bos-none,seed-1", "bos-none,seed-2"}) {
    CHECK(contains(outcome.output,
                   std::string(": grid/") + arm + " begins; what it prints: runs/grid/" + arm + "/train.log\n"));
    CHECK(contains(outcome.output, std::string(": grid/") + arm + " is done, in "));
    CHECK(contains(place.read(std::string("runs/grid/") + arm + "/train.log"), "run: runs/grid/" + std::string(arm)));
  }
  CHECK(contains(outcome.output, "bos-sequence → bos-none (data.bos), seeds 1, 2"));
  CHECK(contains(outcome.output, "The arms differ in what was to vary alone: data.bos."));
  REQUIRE(place.run("train runs/grid/bos-none,seed-2/arm.json --set name=alone").status == 0);
  for (const char* log : {"metrics.jsonl", "probes.jsonl", "events.jsonl"})
    CHECK(test::timeless_lines(folder / "bos-none,seed-2" / log) ==
          test::timeless_lines(place.path() / "runs/alone" / log));

  SECTION("what is done is not trained again, what is not is resumed, and the comparison comes at the end") {
    std::filesystem::remove_all(folder / "bos-none,seed-1");
    const std::string before = place.read("runs/grid/bos-none,seed-2/metrics.jsonl");
    CHECK(place.run(grid + " --jobs 2").status == 1);
    const Outcome resumed = place.run(grid + " --jobs 2 --resume");
    INFO(resumed.output);
    CHECK(resumed.status == 0);
    CHECK(contains(resumed.output,
                   "arm 4 of 4: grid/bos-none,seed-2\nruns/grid/bos-none,seed-2: all 60 steps are done already"));
    CHECK(contains(resumed.output, "arm 3 of 4: grid/bos-none,seed-1 is done, in "));
    CHECK(contains(resumed.output, "(data.bos), seeds 1, 2"));
    CHECK(place.read("runs/grid/bos-none,seed-2/metrics.jsonl") == before);
    const Outcome other = place.run(grid + " --resume --set train.optimizer.learning_rate=0.02");
    CHECK(other.status == 1);
    CHECK(contains(other.output, "the run was begun with train.optimizer.learning_rate = 0.01, not 0.02"));
    CHECK_FALSE(contains(other.output, "arm 1"));  // before any arm
  }
  SECTION("compare knows what the ablation varies, and takes the user's word before it") {
    const Outcome compared = place.run("compare runs/grid/*/ --no-html --json all.json");
    INFO(compared.output);
    CHECK(compared.status == 0);
    CHECK(contains(compared.output, "what was to vary alone: data.bos."));
    const auto json = nlohmann::ordered_json::parse(place.read("all.json"));
    CHECK(json["varied"] == nlohmann::ordered_json::parse(R"([{"name": "data.bos", "keys": ["data.bos"]}])"));
    CHECK(json["pairs"][0]["numbers"][0]["low"].is_number());
    const Outcome stated = place.run("compare runs/grid/*/ --no-html --ablated train.steps,model.layers");
    INFO(stated.output);
    CHECK(contains(stated.output,
                   "NOT COMPARABLE: besides what was to vary (train.steps,model.layers (train.steps and model.layers)) "
                   "the arms differ in data.bos"));
    CHECK(contains(place.run("compare runs/alone --no-html --ablated model.layer").output,
                   "--ablated model.layer: unknown key \"model.layer\"; did you mean \"model.layers\"?"));
    CHECK(contains(place.run("compare runs/alone --no-html --json all.json").output, "all.json: exists"));
  }
}

TEST_CASE("on the CPU arms at a time share the threads that a config leaves open") {
  const Workplace place;
  const auto threads_of = [&](const std::string& arguments) {
    const Outcome outcome = place.run("ablate config.json --no-html --set train.steps=5 --set name=" + arguments,
                                      "export OMP_NUM_THREADS=6;");
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    const std::string config = place.read("runs/" + arguments.substr(0, arguments.find(' ')) + "/bos-none/config.json");
    const std::size_t end = config.find(" threads\"");
    return config.substr(end - 3, 3);
  };
  CHECK(threads_of("shared --set threads=0 --jobs 2") == ", 3");
  CHECK(threads_of("few --set threads=0 --jobs 5") == ", 3");  // two arms
  CHECK(threads_of("one --set threads=0") == ", 6");
  CHECK(threads_of("own --set threads=2 --jobs 2") == ", 2");
}

TEST_CASE("an arm that fails holds up no other, and is named") {
  const Workplace place;
  const std::string arms =
      "ablate config.json --no-html --set "
      "'ablation={\"train.optimizer.learning_rate\":[1e30,0.01],\"data.bos\":[\"none\"]}' --set name=";
  for (const std::string jobs : {"1", "2"}) {
    const Outcome outcome = place.run(arms + "fail-" + jobs + " --jobs " + jobs);
    INFO(outcome.output);
    CHECK(outcome.status == 1);
    const std::string failed = "fail-" + jobs + "/learning_rate-1e+30,bos-none";
    CHECK(contains(outcome.output, "arm 1 of 2: " + failed + " has failed: exit status 1"));
    CHECK(contains(outcome.output, "is not finite"));
    CHECK(contains(outcome.output, "learning_rate-0.01,bos-none (BOS none) is at step 60 of 60"));  // the comparison
    CHECK(contains(outcome.output,
                   "1 of 2 arms are not done; go on with: sinkscope ablate config.json --set 'ablation={"));
    CHECK(contains(outcome.output,
                   "--resume\n  " + failed + ": exit status 1" +
                       (jobs == "1" ? "\n"
                                    : "; runs/" + failed + "/train.log ends with sinkscope: error: runs/" + failed +
                                          ": step 2: ")));
  }
}

TEST_CASE("an ablation hears of its arms' ends where whoever started it ignores those of its children") {
  const Workplace place;
  const Outcome outcome =
      place.run("ablate config.json --no-html --set train.steps=5", "timeout 60 env --ignore-signal=CHLD");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
}

TEST_CASE("a signal to an ablation stops all its arms in order, and it goes on from there") {
  const Workplace place;
  const std::string wait_for_both =
      "for i in $(seq 1200); do [ -s runs/long/bos-none/metrics.jsonl ] && [ -s runs/long/bos-sequence/metrics.jsonl ] "
      "&& break; sleep 0.1; done; ";
  const std::string arguments =
      "ablate config.json --no-html --set name=long --set train.steps=100000 --set checkpoint.every=0 --jobs 2";
  const auto stopped = [&](const std::string& how, const std::string& more = "") {
    return place.run(arguments + more + " & program=$!; " + wait_for_both + how);
  };
  const Outcome outcome = stopped("kill -TERM $program; wait $program; echo \"status $?\"");
  INFO(outcome.output);
  CHECK(contains(outcome.output, "status 143"));
  CHECK(contains(outcome.output, "stopping: 2 arms save a checkpoint"));
  CHECK(contains(outcome.output,
                 "stopped; go on with: sinkscope ablate config.json --set 'name=long' --set 'train.steps=100000' --set "
                 "'checkpoint.every=0' --jobs 2 --no-html --resume\n"));
  const auto checkpoints = [&](const char* arm) {
    const std::filesystem::path folder = place.path() / "runs/long" / arm / "checkpoints";
    return std::filesystem::exists(folder) ? std::distance(std::filesystem::directory_iterator(folder), {}) : 0;
  };
  for (const char* arm : {"bos-none", "bos-sequence"}) CHECK(checkpoints(arm) == 1);

  // Killed itself, it leaves no process behind, and nothing that cannot be resumed.
  const Outcome killed = stopped(
      "for arm in bos-none bos-sequence; do for i in $(seq 1200); do grep -q resumed runs/long/$arm/events.jsonl && "
      "break; sleep 0.1; done; done; "
      "kill -KILL $program; for arm in bos-none bos-sequence; do flock -w 60 runs/long/$arm/lock true && echo free; "
      "done",
      " --resume");
  INFO(killed.output);
  CHECK(contains(killed.output, "free\nfree\n"));
  for (const char* arm : {"bos-none", "bos-sequence"}) CHECK(checkpoints(arm) == 2);

  // One arm by itself, from the file that the ablation left.
  const Outcome alone = place.run(
      "train runs/long/bos-none/arm.json --resume & program=$!; for i in $(seq 1200); do "
      "[ $(grep -c resumed runs/long/bos-none/events.jsonl) = 2 ] && break; sleep 0.1; done; "
      "kill -INT $program; wait $program; echo \"status $?\"");
  INFO(alone.output);
  CHECK(contains(alone.output, "go on with: sinkscope train runs/long/bos-none/arm.json --resume"));
  CHECK(contains(alone.output, "status 130"));
}

TEST_CASE("one arm after another stops at a signal, and an arm in use is waited for") {
  const Workplace place;
  const std::string arguments = "ablate config.json --no-html --set name=long --set train.steps=100000";
  const std::string wait =
      "for i in $(seq 1200); do [ -s runs/long/bos-sequence/metrics.jsonl ] && break; sleep 0.1; done; ";
  const Outcome outcome =
      place.run(arguments + " & program=$!; " + wait + "kill -HUP $program; wait $program; echo \"status $?\"");
  INFO(outcome.output);
  CHECK(contains(outcome.output, "status 129"));
  CHECK(contains(outcome.output, "arm 1 of 2: long/bos-sequence"));
  CHECK_FALSE(contains(outcome.output, "arm 2 of 2"));
  CHECK(contains(outcome.output, "stopped; go on with: sinkscope ablate config.json"));
  CHECK_FALSE(contains(outcome.output, "go on with: sinkscope train"));
  CHECK(!std::filesystem::exists(place.path() / "runs/long/bos-none"));

  REQUIRE(place.run("ablate config.json --no-html --set name=used").status == 0);
  std::filesystem::remove_all(place.path() / "runs/used/bos-none");
  std::filesystem::create_directory(place.path() / "runs/used/bos-none");
  const Outcome waited = place.run("ablate config.json --no-html --set name=used --resume",
                                   "flock runs/used/bos-none/lock sleep 1 & sleep 0.3;");
  INFO(waited.output);
  CHECK(waited.status == 0);
  CHECK(contains(waited.output, "arm 2 of 2: used/bos-none waits: runs/used/bos-none: is in use by another process"));
  CHECK(contains(waited.output, "May the arms be compared?"));

  const std::filesystem::path arm = place.path() / "runs/used/bos-none";
  for (const char* file : {"lock", "events.jsonl"}) std::filesystem::remove(arm / file);
  std::filesystem::create_directory(arm / "lock");
  const Outcome broken = place.run("ablate config.json --no-html --set name=used --resume", "timeout 20");
  INFO(broken.output);
  CHECK(broken.status == 1);
  CHECK_FALSE(contains(broken.output, " waits: "));
  CHECK(contains(broken.output, "used/bos-none has failed: runs/used/bos-none/lock: cannot open: Is a directory"));
}

TEST_CASE("every arm of the shipped grids can be planned") {
  const Workplace place;
  int grids = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SINKSCOPE_CONFIGS)) {
    if (!entry.path().filename().string().starts_with("ablation-")) continue;
    ++grids;
    const Outcome outcome = place.run("ablate '" + entry.path().string() +
                                      "' --dry-run --no-html --set device=cpu --set model.vocab_size=16384");
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    CHECK(contains(outcome.output, "arm 9 of 9: " + entry.path().stem().string() + "/"));
  }
  CHECK(grids == 6);
}

TEST_CASE("ablate says which devices it cannot take") {
  const Workplace place;
  const auto refusal = [&](const std::string& arguments) {
    return place.run("ablate config.json --no-html --set device=cpu " + arguments).output;
  };
  CHECK(contains(
      refusal("--devices 0"),
      "--devices 0: names GPUs, and small/bos-sequence computes on the CPU; --jobs N alone divides its threads"));
  CHECK(contains(refusal("--jobs 0"), "--jobs"));
  CHECK(!std::filesystem::exists(place.path() / "runs"));
}

TEST_CASE("a dry run prints the plan and writes nothing") {
  const Workplace place;
  const Outcome outcome = place.run("train config.json --dry-run");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* part : {"\"micro_batch\": 4", "parameters", "activations", "optimizer", "FLOP"})
    CHECK(contains(outcome.output, part));
  CHECK(!std::filesystem::exists(place.path() / "runs"));
  CHECK_FALSE(contains(outcome.output, "holds a run already"));
  place.write("runs/small/config.json", "{}");
  CHECK(contains(place.run("train config.json --dry-run").output,
                 "runs/small holds a run already: --resume goes on with it, --set name=... begins another"));
}

TEST_CASE("a dry run plans for GPUs that are not here") {
  const Workplace place;
  const std::string dry_run = "train config.json --dry-run --set device=cuda --gpus ";
  const Outcome outcome = place.run(dry_run + "4 --set ranks.shard=parameters");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* part :
       {"parameters     parameters of a block", "parameters     own share", "gradients      own share"})
    CHECK(contains(outcome.output, part));
  const Outcome one = place.run(dry_run + "1 --set ranks.shard=parameters");
  CHECK(one.status == 0);
  CHECK_FALSE(contains(one.output, "own share"));
  CHECK(contains(place.run(dry_run + "3").output, "sequences a step, which 3 ranks cannot share evenly"));
  CHECK(place.run(dry_run + "3").status == 1);
}

TEST_CASE(
    "under a launcher one rank tells the plan, of all its hosts, and what a launcher does not go with is refused") {
  const Workplace place;
  const auto of = [](int rank, const std::string& more = "") {
    return "RANK=" + std::to_string(rank) + " LOCAL_RANK=0 WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 " +
           more;
  };
  const std::string dry_run = "train config.json --dry-run --set device=cuda";
  const Outcome first = place.run(dry_run, of(0)), other = place.run(dry_run, of(3)),
                hosts = place.run(dry_run, of(0, "LOCAL_WORLD_SIZE=2 "));
  INFO(first.output);
  CHECK(first.status == 0);
  CHECK(contains(first.output, "gradients on their way"));
  CHECK(other.status == 0);
  CHECK(other.output.empty());
  CHECK(hosts.status == 0);
  CHECK(contains(hosts.output, "gradients      own share"));
  CHECK_FALSE(contains(hosts.output, "on their way"));
  CHECK(place.run(dry_run + " --gpus 4", of(0)).status == 0);
  const Outcome more = place.run(dry_run + " --gpus 8", of(0));
  CHECK(more.status == 1);
  CHECK(contains(more.output,
                 "--gpus 8 is for training without a launcher, and torchrun has started 4 ranks; leave it out"));
  const Outcome arms =
      place.run("ablate config.json --set 'ablation={\"data.bos\": [\"none\", \"sequence\"]}' --dry-run", of(0));
  CHECK(arms.status == 1);
  CHECK(contains(arms.output, "ablate trains each arm as one rank, and torchrun has started several"));
}

TEST_CASE("a dry run needs no dataset where the vocabulary is given, and hides no damaged one") {
  const Workplace place;
  const std::string dry_run = "train config.json --dry-run --set data.bos=sequence --set model.vocab_size=384";
  for (const char* where : {" --set data.path=nowhere", " --set data.path= --set 'data.train=[\"nowhere/*.bin\"]'"}) {
    const Outcome outcome = place.run(dry_run + where);
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    for (const char* part : {"\"vocab_size\": 384", "\"bos_id\": -1", "\"max_sequence_length\": 32", "parameters",
                             "activations", "optimizer", "dataset           absent (no", "no memory of probe passes"})
      CHECK(contains(outcome.output, part));
    CHECK_FALSE(contains(outcome.output, "epochs of"));
  }
  const Outcome which = place.run("train config.json --dry-run --set data.path=nowhere");
  CHECK(which.status == 1);
  CHECK(which.output ==
        "sinkscope: error: small: there is no dataset (data.path is nowhere) to take the vocabulary from; "
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
