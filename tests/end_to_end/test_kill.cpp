#include <chrono>
#include <random>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using test::timeless_lines;
using test::Workplace;

TEST_CASE("killed at random moments and resumed, a run's logs and model are those of a run left alone") {
  const Workplace place;
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(place.run("train config.json --set name=whole").status == 0);
  const auto whole_time = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);

  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 generator(seed);
  const int limit = std::max(20, static_cast<int>(whole_time.count()));
  std::uniform_int_distribution<int> moment(1, limit);
  int kills = 0;
  for (int run = 0; run < 4; ++run) {
    const std::string name = "killed-" + std::to_string(run);
    place.run_and_kill({"train", "config.json", "--set", "name=" + name}, moment(generator));
    // Killed before there was anything to resume: begin once more.
    const bool begun = std::filesystem::exists(place.path() / "runs" / name / "config.json");
    if (begun)
      for (int again = 0; again < 3; ++again)
        kills += place.run_and_kill({"train", "config.json", "--set", "name=" + name, "--resume"}, moment(generator)) ? 1 : 0;
    const test::Outcome outcome =
        place.run("train config.json --set name=" + name + (begun ? " --resume" : ""));
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    for (const char* log : {"metrics.jsonl", "probes.jsonl", "events.jsonl"}) {
      INFO(name << " " << log);
      CHECK(timeless_lines(place.path() / "runs" / name / log) == timeless_lines(place.path() / "runs/whole" / log));
    }
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      CHECK(place.read("runs/" + name + "/checkpoints/step_00000060/" + file) ==
            place.read(std::string("runs/whole/checkpoints/step_00000060/") + file));
  }
  INFO(kills << " of 12 resumed runs were killed");
  SUCCEED();
}

TEST_CASE("an interrupt saves a checkpoint, and says how to go on") {
  const Workplace place;
  // The shell waits for the first logged step, then sends SIGINT; a run this long does not end by itself.
  const test::Outcome outcome = place.run(
      "train config.json --set name=stopped --set train.steps=100000 & program=$!; "
      "for i in $(seq 600); do [ -s runs/stopped/metrics.jsonl ] && break; sleep 0.1; done; "
      "kill -INT $program; wait $program");
  INFO(outcome.output);
  CHECK(test::contains(outcome.output, "--resume"));
  CHECK(!std::filesystem::is_empty(place.path() / "runs/stopped/checkpoints"));
}

}  // namespace
}  // namespace sinkscope
