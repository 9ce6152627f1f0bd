// Ranks that are refused, fail, die, hang or are late.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/socket.h"
#include "engine/metrics/sinks.h"
#include "engine/model/parameters.h"
#include "engine/train/run_files.h"
#include "tests/catch.h"
#include "tests/comm/mpirun.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::run_ranks;
using test::Workplace;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// One message of ours, and what it holds.
void check_told(const Outcome& outcome, const std::string& part) {
  INFO(outcome.output);
  CHECK(outcome.status != 0);
  CHECK(count(outcome.output, "sinkscope: error:") == 1);
  CHECK(test::contains(outcome.output, part));
}

/// A port at which nothing listened just now.
std::string free_port() { return std::to_string(Listener("127.0.0.1", 0).port()); }

const std::string kSteps = "train config.json --set threads=1 --set train.steps=2000 --set log.tensorboard=false"
                           " --set checkpoint.every=20 --set probes.every=0 --set name=long";
const std::string kLog = "runs/long/metrics.jsonl";

/// A long run on 4 ranks to which something is done at step 30.
Outcome disturb(const Workplace& place, const std::string& more,
                const std::function<void(const std::vector<pid_t>&)>& action) {
  return test::run_ranks_until(place, 4, kSteps + more, kLog, 30, action);
}

void check_resumes(const Workplace& place) {
  const std::size_t before = read_step_records(place.path() / "runs/long").size();
  const auto stop = [](const std::vector<pid_t>& processes) { kill(processes[0], SIGTERM); };
  const Outcome outcome = test::run_ranks_until(place, 2, kSteps + " --resume", kLog, before + 10, stop);
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  std::int64_t step = 0;
  for (const StepRecord& record : read_step_records(place.path() / "runs/long")) CHECK(record.step == ++step);
}

TEST_CASE("a launch that is half given, or that the CPU cannot use, is one clear error") {
  const Workplace place;
  check_told(place.run("train config.json", "RANK=0"),
             "launch: the environment has RANK and not WORLD_SIZE, LOCAL_RANK");
  const std::string port = free_port(), meeting = " MASTER_ADDR=localhost MASTER_PORT=" + port;
  CHECK(place.run("train config.json --set train.steps=6", "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0" + meeting).status == 0);
  check_told(place.run("train config.json --set ranks.start_timeout=2 --set name=alone",
                       "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1" + meeting),
             "cannot reach rank 0 at localhost, port " + port + ": Connection refused");
  check_told(place.run("train config.json --set ranks.start_timeout=2 --set name=alone",
                       "RANK=0 WORLD_SIZE=3 LOCAL_RANK=0" + meeting),
             "of 3 ranks these have not come to rank 0 on ");
  check_told(place.run("train config.json --gpus 2 --set name=alone"), "ranks.gpus is 2, and ");
}

TEST_CASE("ranks that meet without MPI cannot train on the CPU, and one of them says so") {
  const Workplace place;
  const std::string variables = "WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=" + free_port() + " ";
  check_told(place.run("train config.json; status=$?; wait; exit $status",
                       "RANK=1 LOCAL_RANK=1 " + variables + " '" SINKSCOPE_PROGRAM "' train config.json & " +
                           "RANK=0 LOCAL_RANK=0 " + variables),
             "2 ranks on the CPU need MPI, and were not started by it; use mpirun, or srun under PMIx");
}

TEST_CASE("what all ranks are refused for is told once") {
  const Workplace place;
  check_told(run_ranks(place, 3, "train config.json"), "which 3 ranks cannot share evenly");
  check_told(run_ranks(place, 2, "train config.json --set data.path=nowhere"), "nowhere/dataset.json: cannot be read");
  check_told(place.run("train config.json --set name=b",
                       test::mpirun(1) + " '" SINKSCOPE_PROGRAM "' train config.json : -n 1"),
             ": name is \"b\", not \"small\"; all ranks need the same");
  check_told(run_ranks(place, 2, "train config.json --set model.layer=3"), "did you mean \"model.layers\"?");
  REQUIRE(run_ranks(place, 2, "train config.json --set train.steps=6").status == 0);
  check_told(run_ranks(place, 2, "train config.json --set train.steps=6"), "runs/small: holds a run already");
}

TEST_CASE("a loss that is not finite on one rank alone stops all, with the tensor that was") {
  const Workplace place;
  place.write("text.txt", "Z" + place.read("text.txt"));  // one window has it
  REQUIRE(place.run("tokenize text.txt --output odd --tokenizer byte --validation-fraction 0.2").status == 0);
  const std::string arguments =
      "train config.json --set data.path=odd --set threads=1 --set train.steps=4000 --set checkpoint.every=0 --set "
      "log.tensorboard=false --set probes.every=0 --set evaluation.every=0 --set train.micro_batch=1 --set "
      "train.gradient_accumulation=8";  // two passes a rank
  const Outcome stopped =
      test::run_ranks_until(place, 4, arguments, "runs/small/metrics.jsonl", 1,
                            [](const std::vector<pid_t>& processes) { kill(processes[0], SIGTERM); });
  REQUIRE(stopped.status == 143);
  // The embedding of Z alone is not finite in the checkpoint.
  const fs::path run = place.path() / "runs/small", checkpoints = run / "checkpoints";
  const fs::path newest = newest_checkpoint(checkpoints).value();
  const CheckpointInfo info = read_checkpoint_info(newest);
  const ParameterLayout layout(info.model);
  const auto size = static_cast<std::size_t>(layout.flat_size());
  std::vector<float> parameters(size), first(size), second(size);
  const std::string state = load_checkpoint(newest, info.model, parameters, first, second);
  const std::int64_t row = layout.find("embed.token.weight").offset + std::int64_t{'Z'} * info.model.channels;
  parameters[static_cast<std::size_t>(row)] = std::numeric_limits<float>::infinity();
  save_checkpoint(checkpoints,
                  {.model = info.model, .step = info.step, .bos_id = info.bos_id, .eos_id = info.eos_id,
                   .parameters = parameters, .first_moment = first, .second_moment = second, .state = state,
                   .tokenizer_files = {}},
                  1);
  for (const char* shard : {"none", "optimizer", "gradients", "parameters"}) {
    const Outcome outcome = run_ranks(place, 4, arguments + " --resume --set ranks.shard=" + shard);
    INFO(shard << ": " << outcome.output);
    CHECK(outcome.status == 1);
    check_told(outcome, ": the loss is not finite; the first tensor that is not: parameter embed.token.weight");
    CHECK(read_event_records(run).back().kind == "alert");
  }
}

TEST_CASE("an error of rank 0 alone is told once, and ends all") {
  const Workplace place;
  check_told(disturb(place, " --set checkpoint.every=200",
                     [&](const std::vector<pid_t>&) { place.write("runs/long/checkpoints", "in the way"); }),
             "runs/long/checkpoints: cannot make the folder: ");
}

TEST_CASE("a rank that is killed ends all, by name, and the run goes on from its checkpoint") {
  for (const int victim : {0, 2}) {
    const Workplace place;
    const Outcome outcome = disturb(place, "", [&](const std::vector<pid_t>& processes) {
      kill(processes[static_cast<std::size_t>(victim)], SIGKILL);
    });
    check_told(outcome, "rank " + std::to_string(victim) + " on ");
    CHECK(test::contains(outcome.output, ") is gone; all ranks end, and --resume goes on from the last checkpoint"));
    CHECK(test::contains(outcome.output, ", its last step was "));
    check_resumes(place);
  }
}

TEST_CASE("a rank that hangs ends all within the time-out, by name, and the run goes on from its checkpoint") {
  for (const int victim : {0, 3}) {
    const Workplace place;
    std::chrono::steady_clock::time_point begin;
    const Outcome outcome = disturb(place, " --set ranks.timeout=6", [&](const std::vector<pid_t>& processes) {
      kill(processes[static_cast<std::size_t>(victim)], SIGSTOP);
      begin = std::chrono::steady_clock::now();
    });
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
    check_told(outcome, "rank " + std::to_string(victim) + " on ");
    CHECK(test::contains(outcome.output, ", its last step was "));
    check_resumes(place);
  }
}

TEST_CASE("a rank whose main thread alone stands still ends all within the time-out, by name") {
  const std::string shard = GENERATE("none", "optimizer", "gradients", "parameters");
  const Workplace place;
  bool stood = false;
  const Outcome outcome = disturb(place, " --set checkpoint.every=0 --set ranks.timeout=3 --set ranks.shard=" + shard,
                                  [&](const std::vector<pid_t>& processes) {
                                    stood = test::stand_still_until_gone(processes[2]);
                                    if (!stood) kill(processes[2], SIGKILL);
                                  });
  check_told(outcome, "rank 2 on ");
  if (!stood) {
    WARN("the system allows no tracing: not tried");
    return;
  }
  CHECK(test::contains(outcome.output, " keeps the others waiting for more than 3 s"));
}

/// What three ranks of the checks tell that stop going on: rank 1 alone ("hang"), or all ("asleep").
void check_ended(const std::string& way, const std::string& rank, const std::string& reason) {
  const Workplace place;
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome = place.run("--version", test::mpirun(3) + " " SINKSCOPE_RANK_CHECKS " " + way + " &&");
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
  check_told(outcome, rank);
  CHECK(test::contains(outcome.output, reason + "; all ranks end"));
}

TEST_CASE("a rank that lives and does not come to a call ends all, by name") {
  check_ended("hang", "rank 1 on ", ", its last step was 7) keeps the others waiting for more than 3 s");
}

TEST_CASE("ranks of which none goes on end, though none waits for another that they know of") {
  check_ended("asleep", "no rank has gone on", " for more than 3 s (ranks.start_timeout; the last step was 7)");
}

TEST_CASE("ranks that end in order with an error wait for the last of them") {
  const Workplace place;
  const Outcome outcome = place.run("--version", test::mpirun(3) + " " SINKSCOPE_RANK_CHECKS " stop &&");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(test::contains(outcome.output, "rank 0 has ended"));
  CHECK(test::contains(outcome.output, "rank_checks: stopped"));
}

TEST_CASE("a rank that is late within the time-out changes nothing") {
  const Workplace place;
  const std::string run = "train config.json --set threads=1 --set log.tensorboard=false --set name=";
  REQUIRE(run_ranks(place, 4, run + "prompt").status == 0);
  const Outcome outcome = test::run_ranks_until(place, 4, run + "late --set ranks.timeout=60",
                                                "runs/late/metrics.jsonl", 3, [](const std::vector<pid_t>& processes) {
                                                  for (const pid_t process : processes) {
                                                    kill(process, SIGSTOP);
                                                    std::this_thread::sleep_for(std::chrono::milliseconds(700));
                                                    kill(process, SIGCONT);
                                                  }
                                                });
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK(test::timeless_lines(place.path() / "runs/late/metrics.jsonl") ==
        test::timeless_lines(place.path() / "runs/prompt/metrics.jsonl"));
}

}  // namespace
}  // namespace sinkscope
