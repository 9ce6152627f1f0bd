#include <chrono>
#include <filesystem>
#include <random>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/event_reader.h"

namespace sinkscope {
namespace {

using test::timeless_lines;
using test::Workplace;

TEST_CASE("killed at random moments and resumed, a run's logs and model are those of a run left alone") {
  const Workplace place;
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(place.run("train config.json --set name=whole").status == 0);
  const auto whole_time =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);

  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 generator(seed);
  int limit = std::max(20, static_cast<int>(whole_time.count()));
  for (int run = 0; run < 4; ++run) {
    const std::string name = "killed-" + std::to_string(run);
    const std::filesystem::path folder = place.path() / "runs" / name;
    const auto begun = [&] { return std::filesystem::exists(folder / "config.json"); };
    const auto finished = [&] { return std::filesystem::exists(folder / "checkpoints/step_00000060"); };
    // Four kills or more, until one came between the beginning and the end of the run.
    int interruptions = 0;
    for (int attempt = 0; attempt < 4 || (interruptions == 0 && attempt < 100); ++attempt) {
      std::vector<std::string> arguments = {"train", "config.json", "--set", "name=" + name};
      if (begun()) arguments.push_back("--resume");
      const int moment = std::uniform_int_distribution<int>(1, limit)(generator);
      const bool killed = place.run_and_kill(arguments, moment);
      if (finished()) {
        if (interruptions > 0) break;
        limit = std::max(1, limit / 2);  // too late: this machine has become faster
        std::filesystem::remove_all(folder);
      } else if (killed && begun()) {
        ++interruptions;
      } else if (killed) {
        limit += 1 + limit / 4;  // too early
      }
    }
    REQUIRE(interruptions > 0);
    const bool resumes = begun();
    const test::Outcome outcome =
        place.run("train config.json --set name=" + name + (resumes ? " --resume" : ""));
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    for (const char* log : {"metrics.jsonl", "probes.jsonl", "events.jsonl"}) {
      INFO(name << " " << log);
      CHECK(timeless_lines(place.path() / "runs" / name / log) == timeless_lines(place.path() / "runs/whole" / log));
    }
    CHECK(test::event_outline(place.path() / "runs" / name) == test::event_outline(place.path() / "runs/whole"));
    for (const char* file : {"model.safetensors", "optimizer.safetensors"})
      CHECK(place.read("runs/" + name + "/checkpoints/step_00000060/" + file) ==
            place.read(std::string("runs/whole/checkpoints/step_00000060/") + file));
  }
}

TEST_CASE("tokenize that is killed leaves nothing in sight, and the same command then succeeds") {
  const Workplace place;
  if (test::contains(place.run("doctor").output, "missing  sentencepiece")) return;
  std::string text;
  for (int copy = 0; copy < 40; ++copy) text += place.read("text.txt");
  place.write("text.txt", text);
  const std::vector<std::string> arguments = {"tokenize", "text.txt", "--output", "sets/words", "--train-sentencepiece",
                                              "300"};
  const auto names = [&] {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(place.path() / "sets"))
      found.push_back(entry.path().filename().string());
    return found;
  };
  // Kills until one leaves its hidden folder, with the tokenizer in it.
  bool midway = false;
  int moment = 1;
  for (int attempt = 0; attempt < 200 && !midway; ++attempt) {
    const bool killed = place.run_and_kill(arguments, moment);
    moment = killed ? moment + 1 + moment / 8 : std::max(1, moment / 2);
    std::filesystem::remove_all(place.path() / "sets/words");  // it was too late
    if (!std::filesystem::exists(place.path() / "sets")) continue;
    for (const std::string& name : names()) {
      CHECK(name.starts_with(".words.pending-"));
      midway = midway || std::filesystem::exists(place.path() / "sets" / name / "tokenizer.model");
    }
  }
  REQUIRE(midway);
  const test::Outcome outcome = place.run("tokenize text.txt --output sets/words --train-sentencepiece 300");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK(names() == std::vector<std::string>{"words"});
  CHECK(std::filesystem::exists(place.path() / "sets/words/dataset.json"));
}

TEST_CASE("an interrupt saves a checkpoint, and says how to go on") {
  const Workplace place;
  // The shell waits for the first logged step, then sends SIGINT; a run this long does not end by itself.
  place.write("my config.json", place.read("config.json"));
  const test::Outcome outcome = place.run(
      "train 'my config.json' --set name=stopped --set train.steps=100000 --set \"sample.prompt=don't\" --gpus 1 & "
      "program=$!; "
      "for i in $(seq 600); do [ -s runs/stopped/metrics.jsonl ] && break; sleep 0.1; done; "
      "kill -INT $program; wait $program");
  INFO(outcome.output);
  CHECK(test::contains(outcome.output,
                       "; go on with: sinkscope train 'my config.json' --set 'name=stopped' --set "
                       "'train.steps=100000' --set 'sample.prompt=don'\\''t' --gpus 1 --resume\n"));
  CHECK(!std::filesystem::is_empty(place.path() / "runs/stopped/checkpoints"));
}

}  // namespace
}  // namespace sinkscope
