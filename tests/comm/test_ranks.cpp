// Training on several ranks of the CPU against training on one.
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/comm/mpirun.h"
#include "tests/comm/run_difference.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::probe_difference;
using test::run_ranks;
using test::step_difference;
using test::Workplace;

/// Eight sequences a step, in four passes of one rank.
const std::string kStep = " --set threads=1 --set train.micro_batch=2 --set train.gradient_accumulation=4"
                          " --set train.optimizer.learning_rate=0.003";

TEST_CASE("every call between ranks gives the sums of all, in rank order") {
  const Workplace place;
  for (const int ranks : {2, 3, 4}) {
    const Outcome outcome = place.run("--version", test::mpirun(ranks) + " " SINKSCOPE_RANK_CHECKS " &&");
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    CHECK(test::contains(outcome.output, std::to_string(ranks) + " ranks agree"));
  }
}

TEST_CASE("a run of 100 steps is that of one rank on 2 and on 4, and to the bit that of as many ranks again") {
  const Workplace place;
  const auto train = [&](int ranks, const std::string& name) {
    const Outcome outcome =
        run_ranks(place, ranks, "train config.json --set train.steps=100 --set name=" + name + kStep);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    CHECK(test::contains(outcome.output, "run: runs/" + name));
    return place.path() / "runs" / name;
  };
  const fs::path one = train(1, "one"), two = train(2, "two"), four = train(4, "four"), again = train(4, "again");
  const std::vector<StepRecord> steps = read_step_records(one);
  REQUIRE(steps.size() == 100);
  for (const StepRecord& record : steps) CHECK(record.key_mass.empty() == (record.step % 10 != 0));
  for (const fs::path& run : {two, four}) {
    INFO(run);
    CHECK(step_difference(run, one) < 5e-5);
    CHECK(step_difference(run, one) > 0);  // sums in another order
    CHECK(probe_difference(run, one) < 5e-5);
  }
  for (const char* log : {"metrics.jsonl", "probes.jsonl", "events.jsonl"})
    CHECK(test::timeless_lines(again / log) == test::timeless_lines(four / log));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"})
    CHECK(test::read_file(again / "checkpoints/step_00000100" / file) ==
          test::read_file(four / "checkpoints/step_00000100" / file));
  const auto start = read_event_records(four).front();
  CHECK(test::contains(nlohmann::json::parse(start.data).at("device"), ", 4 ranks, Open MPI "));
}

TEST_CASE("ranks whose share is less than a micro-batch, or no multiple of it, compute the same") {
  const Workplace place;
  const auto train = [&](int ranks, const std::string& step) {
    const std::string name = "run-" + std::to_string(ranks) + "-" + std::to_string(step.size());
    const Outcome outcome =
        run_ranks(place, ranks, "train config.json --set threads=1 --set train.steps=10 --set name=" + name + step);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    return place.path() / "runs" / name;
  };
  const auto check = [&](const std::string& step, const std::vector<int>& counts) {
    const fs::path whole = train(1, step);
    for (const int ranks : counts) {
      INFO(ranks << step);
      CHECK(step_difference(train(ranks, step), whole) < 5e-5);
    }
  };
  check(" --set train.micro_batch=8", {4, 8});
  check(" --set train.micro_batch=3 --set train.gradient_accumulation=4", {4, 6});
}

TEST_CASE("a checkpoint of 8 ranks goes on on 2 and on 1, and a signal to one rank stops all") {
  const Workplace place;
  const std::string begin = "train config.json --set checkpoint.every=0 --set name=",
                    step = kStep + " --set train.steps=60";
  REQUIRE(run_ranks(place, 1, begin + "whole" + step).status == 0);
  const auto stop = [](int rank) {
    return [rank](const std::vector<pid_t>& processes) { kill(processes[static_cast<std::size_t>(rank)], SIGTERM); };
  };
  const std::string metrics = "runs/parts/metrics.jsonl";
  Outcome outcome = test::run_ranks_until(place, 8, begin + "parts" + step, metrics, 5, stop(2));
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  CHECK(test::contains(
      outcome.output, " (8 ranks; start as many again, or any other number); go on with: sinkscope train config.json"));
  CHECK_FALSE(test::contains(outcome.output, "\x1b["));  // plain lines, though Open MPI gives rank 0 a terminal
  const std::size_t first_stop = read_step_records(place.path() / "runs/parts").size();
  CHECK(first_stop < 60);
  CHECK(newest_checkpoint(place.path() / "runs/parts/checkpoints").has_value());
  outcome = test::run_ranks_until(place, 2, begin + "parts" + step + " --resume", metrics, first_stop + 5, stop(0));
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  REQUIRE(read_step_records(place.path() / "runs/parts").size() < 60);
  outcome = run_ranks(place, 1, begin + "parts" + step + " --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK(step_difference(place.path() / "runs/parts", place.path() / "runs/whole") < 5e-5);
  int resumed = 0;
  for (const EventRecord& event : read_event_records(place.path() / "runs/parts"))
    resumed += event.kind == "resume" ? 1 : 0;
  CHECK(resumed == 2);
}

TEST_CASE("ranks that a signal stopped have left MPI in order, each with the signal's status") {
  const Workplace place;
  // Open MPI tells of a process that ends with status 0, as the shells do, and has not left MPI.
  const std::string stop =
      "(for i in $(seq 1200); do [ \"$(cat runs/small/metrics.jsonl 2>/dev/null | wc -l)\" -ge 5 ] && break; sleep "
      "0.05; done; kill -TERM $(cat process.1)) & ";
  const std::string shell = " sh -c '\"$0\" \"$@\" & echo $! > process.$OMPI_COMM_WORLD_RANK; wait $!;"
                            " echo $? > status.$OMPI_COMM_WORLD_RANK'";
  const Outcome outcome = place.run("train config.json --set checkpoint.every=0 --set train.steps=20000" + kStep,
                                    stop + test::mpirun(2) + shell);
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* rank : {"status.0", "status.1"}) CHECK(place.read(rank) == "143\n");
}

TEST_CASE(
    "with the optimizer, gradients or parameters sharded, or gradients on a wire of bf16, a run is the whole one's, "
    "and its checkpoint goes on elsewhere") {
  const Workplace place;
  const std::string begin = "train config.json --set checkpoint.every=10 --set name=",
                    step = kStep + " --set train.steps=40";
  REQUIRE(run_ranks(place, 4, begin + "whole" + step + " --set ranks.shard=none").status == 0);
  const fs::path runs = place.path() / "runs";
  struct Mode {
    const char* name;
    const char* set;
    double bound;
  };
  for (const auto& [name, set, bound] :
       {Mode{"optimizer", " --set ranks.shard=optimizer", 5e-5},
        Mode{"gradients", " --set ranks.shard=gradients --set ranks.bucket_megabytes=0.01", 5e-5},
        Mode{"parameters", " --set ranks.shard=parameters", 5e-5},
        Mode{"wire", " --set ranks.shard=none --set ranks.reduce_dtype=bf16", 2e-2},
        Mode{"optimizer-wire", " --set ranks.reduce_dtype=bf16", 2e-2},
        Mode{"parameters-wire", " --set ranks.shard=parameters --set ranks.reduce_dtype=bf16", 2e-2}}) {
    INFO(name);
    const std::string arguments = begin + name + step + set;
    REQUIRE(run_ranks(place, 4, arguments).status == 0);
    CHECK(step_difference(runs / name, runs / "whole") < bound);
    if (const char* same = bound < 1e-3                            ? nullptr
                           : name == std::string("wire")           ? "whole"
                           : name == std::string("optimizer-wire") ? "optimizer"
                                                                   : "parameters")
      CHECK(step_difference(runs / name, runs / same) > 1e-5);  // it was rounded
    // The same to the bit again, stopped on the way and resumed.
    const std::string again = std::string(name) + "-again";
    const Outcome stopped =
        test::run_ranks_until(place, 4, begin + again + step + set, "runs/" + again + "/metrics.jsonl", 5,
                              [](const std::vector<pid_t>& processes) { kill(processes[3], SIGTERM); });
    INFO(stopped.output);
    CHECK(stopped.status == 143);
    fs::create_directories(place.path() / "other");
    fs::copy(runs / again, place.path() / "other" / again, fs::copy_options::recursive);
    const Outcome resumed = run_ranks(place, 4, begin + again + step + set + " --resume");
    INFO(resumed.output);
    REQUIRE(resumed.status == 0);
    for (const char* log : {"metrics.jsonl", "probes.jsonl"})
      CHECK(test::timeless_lines(runs / again / log) == test::timeless_lines(runs / name / log));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      CHECK(test::read_file(runs / again / "checkpoints/step_00000040" / file) ==
            test::read_file(runs / name / "checkpoints/step_00000040" / file));
    // On two ranks each takes two passes a step.
    REQUIRE(run_ranks(place, 2, begin + again + step + set + " --set output=other --resume").status == 0);
    CHECK(step_difference(place.path() / "other" / again, runs / "whole") < bound);
  }
}

TEST_CASE("ranks with FP8 products scale them by the magnitudes of all") {
  const Workplace place;
  const auto train = [&](int ranks, const std::string& name, const std::string& shard = "optimizer") {
    const Outcome outcome = run_ranks(
        place, ranks,
        "train config.json --set precision=fp8 --set model.hidden=32 --set train.steps=12 --set ranks.shard=" + shard +
            " --set name=" + name + kStep);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    return place.path() / "runs" / name;
  };
  const fs::path one = train(1, "one"), four = train(4, "four"), again = train(4, "again");
  CHECK(test::timeless_lines(again / "metrics.jsonl") == test::timeless_lines(four / "metrics.jsonl"));
  for (const std::string shard : {"gradients", "parameters"})  // sums in rank order are all the same
    CHECK(test::timeless_lines(train(4, "shard-" + shard, shard) / "metrics.jsonl") ==
          test::timeless_lines(four / "metrics.jsonl"));
  const auto state = [](const fs::path& run) { return test::read_file(run / "checkpoints/step_00000012/state.json"); };
  CHECK(state(again) == state(four));
  const auto amax = [&](const fs::path& run) {
    return nlohmann::json::parse(state(run)).at("fp8_amax").get<std::vector<std::vector<double>>>();
  };
  const std::vector<std::vector<double>> expected = amax(one), found = amax(four);
  REQUIRE(expected.size() == 12);
  REQUIRE(found.size() == 12);
  REQUIRE(expected.front().size() == 3 * 4 * 3);
  for (std::size_t i = 0; i < expected.front().size(); ++i)  // the first step is not rounded
    CHECK(std::abs(found.front()[i] - expected.front()[i]) < 1e-5 * expected.front()[i]);
  const std::vector<StepRecord> whole = read_step_records(one), parts = read_step_records(four);
  CHECK(std::abs(parts.front().loss - whole.front().loss) < 1e-6);
  for (std::size_t i = 0; i < whole.size(); ++i) CHECK(std::abs(parts[i].loss - whole[i].loss) < 1e-2);
}

TEST_CASE("what rank 0 does for all is the same where the others keep most of the parameters") {
  const Workplace place;
  // Six windows to evaluate, for eight places of four ranks.
  const auto train = [&](const std::string& name, const std::string& more) {
    const Outcome outcome =
        run_ranks(place, 4,
                  "train config.json --set train.steps=20 --set probes.every=10 --set probes.causal_every=10 --set "
                  "sample.every=5 --set sample.tokens=12 --set evaluation.every=4 --set evaluation.batches=3 --set "
                  "name=" +
                      name + kStep + more);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    return place.path() / "runs" / name;
  };
  const fs::path whole = train("whole", " --set ranks.shard=none"),
                 parts = train("parts", " --set ranks.shard=parameters");
  CHECK(step_difference(parts, whole) < 5e-5);
  CHECK(probe_difference(parts, whole) < 5e-5);
  REQUIRE(read_probe_records(parts).front().step == 0);
  const std::vector<EventRecord> expected = read_event_records(whole), found = read_event_records(parts);
  REQUIRE(found.size() == expected.size());
  int samples = 0, causes = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].kind == expected[i].kind);
    if (found[i].kind == "sample") {
      ++samples;
      CHECK(found[i].message == expected[i].message);
    }
    if (found[i].kind != "causal") continue;
    ++causes;
    const nlohmann::json json = nlohmann::json::parse(found[i].data).flatten(),
                         like = nlohmann::json::parse(expected[i].data).flatten();
    CHECK(json.size() == like.size());
    for (const auto& [key, value] : like.items())
      if (value.is_number())
        CHECK(json.at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-3).margin(1e-4));
  }
  CHECK(samples == 4);
  CHECK(causes == 2);
}

TEST_CASE("the bench of communication tells rates and what backward hides") {
  const Workplace place;
  const std::string shard = GENERATE("none", "parameters");
  const Outcome outcome =
      run_ranks(place, 2, "bench config.json --comm --repeats 1 --json comm.json --set ranks.shard=" + shard);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  for (const char* part : {"bus GB/s", "backward  ", "sums of gradients  ", "% of the shorter is hidden"})
    CHECK(test::contains(outcome.output, part));
  const auto json = nlohmann::json::parse(place.read("comm.json"));
  CHECK(json.at("ranks") == 2);
  REQUIRE(json.at("sums").size() == 5);
  for (const auto& sum : json.at("sums")) {
    const double seconds = sum.at("milliseconds").get<double>() / 1e3, bytes = sum.at("bytes");
    CHECK(seconds > 0);
    CHECK(sum.at("bus_bytes_per_second").get<double>() == Approx(bytes / seconds));  // 2 (N-1)/N is 1
  }
  CHECK(json.at("together_milliseconds") > 0);
}

TEST_CASE("a run resumed on the ranks that it had goes on to the bit") {
  const Workplace place;
  const std::string begin = "train config.json --set checkpoint.every=10 --set name=",
                    step = kStep + " --set train.steps=30";
  REQUIRE(run_ranks(place, 2, begin + "whole" + step).status == 0);
  const Outcome stopped =
      test::run_ranks_until(place, 2, begin + "parts" + step, "runs/parts/metrics.jsonl", 7,
                            [](const std::vector<pid_t>& processes) { kill(processes[1], SIGTERM); });
  CHECK(stopped.status == 143);
  REQUIRE(run_ranks(place, 2, begin + "parts" + step + " --resume").status == 0);
  for (const char* log : {"metrics.jsonl", "probes.jsonl"})
    CHECK(test::timeless_lines(place.path() / "runs/parts" / log) ==
          test::timeless_lines(place.path() / "runs/whole" / log));
  CHECK(place.read("runs/parts/checkpoints/step_00000030/model.safetensors") ==
        place.read("runs/whole/checkpoints/step_00000030/model.safetensors"));
}

}  // namespace
}  // namespace sinkscope
