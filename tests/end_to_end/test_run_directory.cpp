// What may and may not happen to a run directory: one process at a time, orderly stops, nothing
// overwritten.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/metrics/sinks.h"
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
  for (const auto& [signal, status] :
       {std::pair<std::string, int>{"INT", 130}, {"TERM", 143}, {"HUP", 129}, {"USR1", 138}}) {
    const test::Outcome outcome = place.run(during_run(
        // Twice, as `timeout` sends it: to the process, and to its group.
        signal,
        "kill -" + signal + " $program; kill -" + signal + " $program; wait $program; status=$?; exit $status"));
    const std::string log = place.read(signal + ".log");
    INFO(signal << ": " << log);
    CHECK(outcome.status == status);
    CHECK(contains(log, "--resume"));
    CHECK(!std::filesystem::is_empty(place.path() / "runs" / signal / "checkpoints"));
  }
}

TEST_CASE("a run under nohup outlives the hang-up") {
  const Workplace place;
  const test::Outcome outcome = place.run(
      during_run("nohup", "kill -HUP $program; sleep 1; kill -TERM $program; wait $program; exit $?"), "trap '' HUP;");
  INFO(place.read("nohup.log"));
  CHECK(outcome.status == 143);
}

/// Alerts at almost every step, and a command of theirs that never ends: at its end the program waits for it.
const std::string kHangs =
    " --set alerts.window=4 --set alerts.loss_spike=0.001 --set 'alerts.command=[\"sleep\",\"1000\"]' --set "
    "alerts.command_timeout=";

std::string during_hanging_run(const std::string& name, const std::string& seconds, const std::string& then) {
  return "train config.json --set name=" + name + " --set train.steps=100000" + kHangs + seconds + " > " + name +
         ".log 2>&1 & program=$!; for i in $(seq 600); do [ -e runs/" + name +
         "/alerts.log ] && break; sleep 0.1; done; " + then;
}

TEST_CASE("a second signal ends the program at once, two seconds after the first or later") {
  const Workplace place;
  const test::Outcome outcome = place.run(
      during_hanging_run("twice", "600", "kill -INT $program; sleep 3.5; kill -TERM $program; wait $program; exit $?"));
  INFO(place.read("twice.log"));
  CHECK(outcome.status == 143);
  CHECK(!contains(place.read("twice.log"), "--resume"));
  CHECK(!std::filesystem::is_empty(place.path() / "runs/twice/checkpoints"));  // what it waited for was the command
}

TEST_CASE("SIGUSR1 neither ends the program at once nor makes the signal after it do so") {
  const Workplace place;
  const test::Outcome outcome = place.run(during_hanging_run(
      "warned", "9",
      "kill -USR1 $program; sleep 3.5; kill -USR1 $program; kill -TERM $program; wait $program; exit $?"));
  INFO(place.read("warned.log"));
  CHECK(outcome.status == 138);
  CHECK(contains(place.read("warned.log"), "--resume"));
}

/// What is in a folder, relative to it, without what is in folders.
std::set<std::string> files_of(const std::filesystem::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (!entry.is_directory()) files.insert(std::filesystem::relative(entry.path(), folder).string());
  return files;
}

TEST_CASE("a run leaves the files that the README lists, and no other") {
  const Workplace place;
  REQUIRE(
      place
          .run("train config.json --set alerts.window=4 --set alerts.loss_spike=0.001 --set 'alerts.command=[\"cat\"]'")
          .status == 0);
  std::set<std::string> expected = {"config.json",  "metrics.jsonl", "probes.jsonl",
                                    "events.jsonl", "alerts.log",    "lock"};
  for (const char* step : {"49", "56", "60"})
    for (const char* file : {"model.safetensors", "config.json", "optimizer.safetensors", "state.json",
                             "checkpoint.json", "manifest.json"})
      expected.insert(std::string("checkpoints/step_000000") + step + "/" + file);
  std::set<std::string> found = files_of(place.path() / "runs/small");
  CHECK(std::erase_if(
            found, [](const std::string& file) { return file.starts_with("tensorboard/events.out.tfevents."); }) == 1);
  CHECK(found == expected);
  std::string readme = test::read_file(SINKSCOPE_README);
  readme = readme.substr(readme.find("## What a run leaves"));
  readme = readme.substr(0, readme.find("```", readme.find("```") + 3));
  for (const std::string& file : expected) CHECK(contains(readme, file.substr(file.rfind('/') + 1)));
}

TEST_CASE("the README names every kind of event and alert, every exit status and every signal") {
  const std::string readme = test::read_file(SINKSCOPE_README);
  for (const char* word : {"`start`", "`resume`", "`phase`", "`alert`", "`checkpoint`", "`warning`", "`sample`",
                           "`causal`", "`end`", "`loss_spike`", "`non_finite`", "`sink_collapse`", "`phase_change`",
                           "`throughput_drop`", "SIGTERM", "SIGHUP", "SIGUSR1", "129", "130", "138", "143"})
    CHECK(contains(readme, word));
}

TEST_CASE("a run begins with what its config changes, where the rest is, and the memory it takes") {
  const Workplace place;
  const test::Outcome outcome = place.run("train config.json --set train.steps=12 --set train.optimizer.beta2=0.9");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  const std::string start = outcome.output.substr(0, outcome.output.find("step 0  start:"));
  for (const char* part :
       {"config            runs/small/config.json; what differs from the defaults:\n",
        "\n                  name=\"small\"  threads=2\n",
        "\n  model           layers=3  channels=16  hidden=24  vocab_size=258  max_sequence_length=32\n",
        "\n  train           steps=12  micro_batch=4  sequence_length=32  optimizer.learning_rate=0.01  "
        "optimizer.beta2=0.9  schedule.warmup_steps=5\n",
        "\ndevice            fp32, ", "\nparameters        ", "\ntotal "})
    CHECK(contains(start, part));
  CHECK(!contains(start, "preset="));   // the default one
  CHECK(!contains(start, "kv_heads"));  // follows from heads
  CHECK(contains(outcome.output, "\nsmall  step 12/12  loss "));
  for (const char* part : {"  sink ", "  Sink_0 ", " tokens/s", "  gradient ", "  l* ", "  wandering", "  left 0 s"})
    CHECK(contains(outcome.output.substr(outcome.output.find("step 12/12")), part));
}

TEST_CASE("a run whose loss is no number ends with status 1 and one message, after its alert") {
  const Workplace place;
  const test::Outcome outcome =
      place.run("train config.json --set train.optimizer.learning_rate=1e38 --set train.schedule.warmup_steps=0");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  const std::size_t alert = outcome.output.find("\nstep 2  ALERT: the loss is not finite");
  CHECK(alert != std::string::npos);
  CHECK(outcome.output.find("sinkscope: error: runs/small: step 2: the loss is not finite", alert) !=
        std::string::npos);
  CHECK(read_event_records(place.path() / "runs/small").back().kind == "alert");
}

TEST_CASE("a run that is stopped at an alert and resumed logs the alerts of one never stopped") {
  const Workplace place;
  const std::string alerts =
      " --set alerts.window=4 --set alerts.loss_spike=0.5 --set train.optimizer.learning_rate=0.1";
  REQUIRE(place.run("train config.json --set name=whole" + alerts).status == 0);
  const auto whole = test::timeless_lines(place.path() / "runs/whole/events.jsonl");
  CHECK(std::count_if(whole.begin(), whole.end(),
                      [](const std::string& line) { return contains(line, "loss_spike"); }) > 1);
  // The command of the first alert stops the training, in the middle of a spike.
  const std::string stop =
      " --set 'alerts.command=[\"/bin/sh\",\"-c\",\"kill -TERM $(cat $SINKSCOPE_ALERT_RUN/lock)\"]'";
  const test::Outcome stopped = place.run("train config.json --set name=stopped" + alerts + stop);
  INFO(stopped.output);
  CHECK((stopped.status == 143 || stopped.status == 0));  // 0: the command was slower than the rest of the run
  REQUIRE(place.run("train config.json --set name=stopped --resume" + alerts).status == 0);
  auto found = test::timeless_lines(place.path() / "runs/stopped/events.jsonl");
  const auto is_checkpoint = [](const std::string& line) { return contains(line, "\"kind\":\"checkpoint\""); };
  auto expected = whole;
  std::erase_if(found, is_checkpoint);  // the stopped one has one more
  std::erase_if(expected, is_checkpoint);
  CHECK(found == expected);
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
      "train config.json --set name=busy --set train.steps=100000 --resume & program=$!; sleep 2; kill -INT $program; "
      "wait $program");
  INFO(resumed.output);
  CHECK(!contains(resumed.output, "in use"));
  // One that is on its way out is waited for.
  REQUIRE(place.run("train config.json").status == 0);
  const test::Outcome waited = place.run("train config.json --resume", "flock runs/small/lock sleep 0.7 & sleep 0.2;");
  INFO(waited.output);
  CHECK(waited.status == 0);
}

TEST_CASE("what cannot be written is named, and a checkpoint that is not saved is told") {
  const Workplace place;
  place.write("taken", "");
  test::Outcome outcome = place.run("train config.json --set output=taken");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "sinkscope: error: taken/small: cannot make the folder: Not a directory"));
  std::filesystem::create_directories(place.path() / "runs/blocked");
  place.write("runs/blocked/checkpoints", "");
  outcome = place.run("train config.json --set name=blocked");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "sinkscope: error: runs/blocked/checkpoints: cannot make the folder: "));
  CHECK(contains(place.read("runs/blocked/events.jsonl"),
                 "checkpoint step_00000007 was not saved: runs/blocked/checkpoints: cannot make the folder: "));
  CHECK_FALSE(contains(outcome.output, "checkpoint: checkpoint step_00000007"));
}

TEST_CASE("a run without its steps is not compared") {
  const Workplace place;
  REQUIRE(place.run("train config.json").status == 0);
  std::filesystem::remove(place.path() / "runs/small/metrics.jsonl");
  const test::Outcome outcome = place.run("compare runs/small --no-html");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "runs/small/metrics.jsonl: is missing, though the run has events"));
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
  CHECK(contains(outcome.output,
                 "runs/small: its logs reach step 60 and tell of a checkpoint at step 7, but there is none"));
  CHECK(place.read("runs/small/metrics.jsonl") == before);
}

TEST_CASE("the lines of a resumed run have the phase and the l* of the last probe pass before it") {
  const Workplace place;
  const std::string train = "train config.json --set probes.every=40 --set log.console_every=1";
  const auto line_of_step_50 = [&](const std::string& more) {
    const test::Outcome outcome = place.run(train + more);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    const std::size_t begin = outcome.output.find("  step 50/60");
    REQUIRE(begin != std::string::npos);
    return outcome.output.substr(begin, outcome.output.find('\n', begin) - begin);
  };
  const auto told = [](const std::string& line) {  // "... wandering  gradient 1.29  l* 0 ..."
    std::string found;
    for (const char* part : {"  wandering", "  transition", "  stable", "  l* -", "  l* 0", "  l* 1", "  l* 2"})
      if (contains(line, part)) found += part;
    return found;
  };
  const std::string whole = line_of_step_50("");
  CHECK(contains(told(whole), "l* "));
  for (const char* later : {"step_00000056", "step_00000060"})
    std::filesystem::remove_all(place.path() / "runs/small/checkpoints" / later);
  CHECK(told(line_of_step_50(" --resume")) == told(whole));
}

TEST_CASE("a run is not begun where another one's checkpoints or an ablation's arms are") {
  const Workplace place;
  REQUIRE(place.run("train config.json --set train.steps=12").status == 0);
  place.write("runs/grid/ablation.json", "{}");
  const auto refused = [&](const std::string& name, const std::string& why) {
    const test::Outcome outcome = place.run("train config.json --set name=" + name);
    INFO(outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, "runs/" + name + ": " + why + "; give another name with --set name=..."));
    CHECK(!std::filesystem::exists(place.path() / "runs" / name / "config.json"));
  };
  refused("grid", "holds the arms of an ablation");
  refused("small/checkpoints", "lies in the checkpoints of the run runs/small");
  refused("small/checkpoints/step_00000007/other", "lies in the checkpoints of the run runs/small");
  CHECK(place.run("train config.json --set train.steps=12 --set name=grid/checkpoints").status == 0);  // of no run
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
