// What becomes of a command whose output nobody can read any more.
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/metrics/records.h"
#include "engine/train/run_files.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/end_to_end/terminal.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;

const std::string kLost = "standard output: cannot write; the run goes on without a console";

/// How often a run's events tell of it.
int told(const std::filesystem::path& run) {
  int count = 0;
  for (const EventRecord& event : logged_events(run)) count += event.kind == "warning" && event.message == kLost;
  return count;
}

/// Standard output as a pipe that has no reader, and as a full disk.
const std::vector<std::pair<std::string, std::string>> kNobody = {
    {"rm -f pipe; mkfifo pipe; exec 3<> pipe; exec 4> pipe; exec 3>&-;", ">&4"}, {"", "> /dev/full"}};

TEST_CASE("a run goes on when nobody reads its output, and says so once") {
  const Workplace place;
  for (const auto& [before, output] : kNobody) {
    INFO(output);
    std::filesystem::remove_all(place.path() / "runs");
    const Outcome outcome =
        place.run("train config.json --set name=alone --set log.console_every=1 " + output, before);
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    CHECK(contains(outcome.output, kLost));
    CHECK(told(place.path() / "runs/alone") == 1);
    CHECK(has_ended(logged_events(place.path() / "runs/alone")));
    CHECK(newest_checkpoint(place.path() / "runs/alone/checkpoints")->filename() == "step_00000060");
  }
}

TEST_CASE("a run whose output nobody reads still saves a checkpoint when it is stopped") {
  const Workplace place;
  for (const auto& [before, output] : kNobody) {
    INFO(output);
    std::filesystem::remove_all(place.path() / "runs");
    const Outcome outcome = place.run(
        "train config.json --set name=alone --set train.steps=100000 --set checkpoint.every=0 " + output +
            " & program=$!; for i in $(seq 600); do [ -s runs/alone/metrics.jsonl ] && break; sleep 0.1; done; "
            "kill -TERM $program; wait $program",
        before);
    INFO(outcome.output);
    CHECK(outcome.status == 143);
    CHECK(contains(outcome.output, "; go on with: sinkscope train config.json "));
    CHECK(newest_checkpoint(place.path() / "runs/alone/checkpoints"));
  }
}

TEST_CASE("a run whose terminal hangs up saves a checkpoint") {
  const Workplace place;
  const char* moved = std::getenv("SINKSCOPE_PROGRAM");
  const std::filesystem::path run = place.path() / "runs/left";
  test::Terminal terminal("cd '" + place.path().string() + "' && exec '" +
                          (moved == nullptr ? SINKSCOPE_PROGRAM : moved) +
                          "' train config.json --set name=left --set train.steps=100000 --set checkpoint.every=0");
  REQUIRE(terminal.wait_for({"tokens/s"}));
  terminal.hang_up();
  CHECK(terminal.status() == 129);
  std::string saved;
  for (const EventRecord& event : logged_events(run))
    if (event.kind == "checkpoint") saved = event.message;
  REQUIRE(newest_checkpoint(run / "checkpoints"));
  CHECK(saved == "checkpoint " + newest_checkpoint(run / "checkpoints")->filename().string());
  CHECK(told(run) == 1);
}

TEST_CASE("an ablation goes on when nobody reads its output, and says how to print its comparison") {
  const Workplace place;
  for (const auto& [before, output] : kNobody) {
    INFO(output);
    std::filesystem::remove_all(place.path() / "runs");
    const Outcome outcome = place.run("ablate config.json --no-html " + output, before);
    INFO(outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, "standard output: cannot write; the comparison is that of: sinkscope compare "
                                   "runs/small/bos-sequence runs/small/bos-none\n"));
    for (const char* arm : {"bos-sequence", "bos-none"})
      CHECK(has_ended(logged_events(place.path() / "runs/small" / arm)));
  }
}

TEST_CASE("what cannot be printed is an error of the commands that only print") {
  const Workplace place;
  for (const char* command : {"config show config.json", "train config.json --dry-run", "doctor", "--help"}) {
    INFO(command);
    CHECK(place.run(command).status == 0);
    const Outcome outcome = place.run(std::string(command) + " > /dev/full");
    CHECK(outcome.status == 1);
    CHECK(outcome.output == "sinkscope: error: standard output: cannot write\n");
  }
}

}  // namespace
}  // namespace sinkscope
