// What may and may not happen to a run directory: one process at a time, orderly stops, nothing
// overwritten.
#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Workplace;

/// Starts a run that does not end by itself, waits for its first logged step, and does `then` with its
/// process number in $program.
std::string during_run(const std::string& name, const std::string& then) {
  return "train config.json --set name=" + name + " --set train.steps=100000 > " + name + ".log 2>&1 & program=$!; "
         "for i in $(seq 600); do [ -s runs/" + name + "/metrics.jsonl ] && break; sleep 0.1; done; " + then;
}

TEST_CASE("a signal saves a checkpoint, says how to go on, and shows in the exit status") {
  const Workplace place;
  for (const auto& [signal, status] : {std::pair<std::string, int>{"INT", 130}, {"TERM", 143}, {"HUP", 129}}) {
    const test::Outcome outcome =
        place.run(during_run(
            // Twice, as `timeout` sends it: to the process, and to its group.
            signal, "kill -" + signal + " $program; kill -" + signal + " $program; wait $program; status=$?; exit $status"));
    const std::string log = place.read(signal + ".log");
    INFO(signal << ": " << log);
    CHECK(outcome.status == status);
    CHECK(contains(log, "--resume"));
    CHECK(!std::filesystem::is_empty(place.path() / "runs" / signal / "checkpoints"));
  }
}

TEST_CASE("a run that another process trains is refused, and goes on undisturbed") {
  const Workplace place;
  const test::Outcome outcome = place.run(during_run(
      "busy", "cp runs/busy/metrics.jsonl before; '" SINKSCOPE_PROGRAM
              "' train config.json --set name=busy --set train.steps=100000 --resume; status=$?; "
              "kill -KILL $program; wait $program; exit $status"));
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "runs/busy: is in use by process "));
  const std::string before = place.read("before");
  CHECK(place.read("runs/busy/metrics.jsonl").substr(0, before.size()) == before);
  // A killed process holds nothing.
  const test::Outcome resumed = place.run(
      "train config.json --set name=busy --set train.steps=100000 --resume & program=$!; sleep 2; kill -INT $program; wait $program");
  INFO(resumed.output);
  CHECK(!contains(resumed.output, "in use"));
}

TEST_CASE("a run whose checkpoints are all damaged is refused, and its logs stay") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set checkpoint.every=0").status == 0);
  std::filesystem::remove(place.path() / "runs/small/checkpoints/step_00000060/model.safetensors");
  const std::string before = place.read("runs/small/metrics.jsonl");
  const test::Outcome outcome = place.run("train config.json --set checkpoint.every=0 --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "model.safetensors: is missing"));
  CHECK(place.read("runs/small/metrics.jsonl") == before);
}

TEST_CASE("resuming a finished run says that there is nothing to do") {
  const Workplace place;
  const std::string done = "runs/small: all 60 steps are done already; there is nothing to resume\n";
  CHECK_FALSE(contains(place.run("train config.json").output, "already"));
  const test::Outcome outcome = place.run("train config.json --resume");
  CHECK(outcome.status == 0);
  CHECK(outcome.output == done + "run: runs/small\n");
}

TEST_CASE("a run whose checkpoints were deleted is refused, and its logs stay") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  std::filesystem::remove_all(place.path() / "runs/small/checkpoints");
  const std::string before = place.read("runs/small/metrics.jsonl");
  const test::Outcome outcome = place.run("train config.json --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "runs/small: its logs reach step 60 and tell of a checkpoint at step 7, but there is none"));
  CHECK(place.read("runs/small/metrics.jsonl") == before);
}

TEST_CASE("a report replaces an older report and no other file") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set train.steps=12").status == 0);
  const std::string before = place.read("runs/small/metrics.jsonl");
  const test::Outcome refused = place.run("compare runs/small --html runs/small/metrics.jsonl");
  INFO(refused.output);
  CHECK(refused.status == 1);
  CHECK(contains(refused.output, "runs/small/metrics.jsonl: exists and is not a report"));
  CHECK(place.read("runs/small/metrics.jsonl") == before);
  CHECK(place.run("compare runs/small --html ''").status == 1);
  CHECK(!std::filesystem::exists(place.path() / "runs/small/report.html"));
}

}  // namespace
}  // namespace sinkscope
