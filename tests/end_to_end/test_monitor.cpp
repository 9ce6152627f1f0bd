// `sinkscope monitor --replay` on runs of the program: the replay is what the run logged.
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;
using Json = nlohmann::ordered_json;

/// Position 0 alone is watched, so that it leads; its excess is 1 at first and falls as the model learns. So the phase
/// changes at a threshold just under 1, there and back.
const std::vector<std::string> kEager = {
    "probes.every=2",         "probes.positions=1", "probes.phase.onset=0.95",           "probes.phase.window=3",
    "probes.phase.confirm=2", "log.every=3",        "train.optimizer.learning_rate=0.03"};

std::vector<std::string> eager_words(const std::string& name) {
  std::vector<std::string> words = {"train", "config.json", "--set", "name=" + name};
  for (const std::string& setting : kEager) {
    words.emplace_back("--set");
    words.push_back(setting);
  }
  return words;
}

std::string eager_train(const std::string& name) {
  std::string text;
  for (const std::string& word : eager_words(name)) text += word + " ";
  return text;
}

Json monitored(const Workplace& place, const std::string& arguments) {
  std::filesystem::remove(place.path() / "phases.json");
  const Outcome outcome = place.run("monitor --replay " + arguments + " --json phases.json");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  return Json::parse(place.read("phases.json"));
}

TEST_CASE("a replay equals what the run logged, to the bit, and other thresholds move it") {
  const Workplace place;
  REQUIRE(place.run(eager_train("small")).status == 0);
  std::vector<EventRecord> events;
  for (const EventRecord& event : read_event_records(place.path() / "runs/small"))
    if (event.kind == "phase") events.push_back(event);
  REQUIRE(events.size() >= 2);

  const Json json = monitored(place, "runs/small");
  CHECK(json["set"] == "natural_bos");
  CHECK(json["finished"] == true);
  CHECK(json["check"]["differences"].empty());
  CHECK(json["check"]["rounded"] == 0);
  CHECK(json["check"]["passes"] == 31);
  CHECK(json["passes"].size() == 31);
  REQUIRE(json["changes"].size() == events.size());
  for (std::size_t i = 0; i < events.size(); ++i) {
    Json logged = {{"step", events[i].step}, {"tokens", events[i].tokens}};
    logged.update(Json::parse(events[i].data));
    CHECK(json["changes"][i].dump() == logged.dump());
  }
  const Outcome text = place.run("monitor --replay runs/small");
  CHECK(contains(text.output, "that the run logged, and the signals of 31 passes, bit for bit"));

  const Json later = monitored(place, "runs/small --confirm 3");
  CHECK(later["check"].is_null());
  CHECK(later["changes"] != json["changes"]);
  const Json never = monitored(place, "runs/small --onset 50");
  CHECK(never["changes"].empty());
  CHECK(contains(place.run("monitor --replay runs/small --onset 50").output, "the run stayed wandering"));
}

TEST_CASE("a resumed run and an unfinished one replay to the bit as well") {
  const Workplace place;
  REQUIRE(place.run(eager_train("whole")).status == 0);
  // Of a run that was killed what it logged is replayed; how far it came is left to the machine.
  // Only a pass over the set that phases are read from must be whole.
  const auto logged = [&] {
    if (!std::filesystem::exists(place.path() / "runs/small/probes.jsonl")) return false;
    const std::string log = place.read("runs/small/probes.jsonl");
    const std::size_t at = log.find("\"natural_bos\"");
    return at != std::string::npos && log.find('\n', at) != std::string::npos;
  };
  for (int milliseconds = 150; !logged(); milliseconds *= 2) {
    std::filesystem::remove_all(place.path() / "runs/small");
    place.run_and_kill(eager_words("small"), milliseconds);
  }
  CHECK(monitored(place, "runs/small")["check"]["differences"].empty());
  REQUIRE(place.run(eager_train("small") + "--resume").status == 0);
  const Json resumed = monitored(place, "runs/small");
  CHECK(resumed["check"]["differences"].empty());
  CHECK(resumed["changes"] == monitored(place, "runs/whole")["changes"]);
}

TEST_CASE("what a log says otherwise is told") {
  const Workplace place;
  REQUIRE(place.run(eager_train("small")).status == 0);
  std::string log = place.read("runs/small/events.jsonl");
  REQUIRE(contains(log, "\"sink_excess\":"));
  const std::size_t at = log.find("\"sink_excess\":") + 14;
  log.replace(at, log.find(',', at) - at, "3.25");
  place.write("runs/small/events.jsonl", log);
  const Outcome outcome = place.run("monitor --replay runs/small");
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  CHECK(contains(outcome.output, "THE REPLAY DIFFERS FROM THE LOG"));
  CHECK(contains(outcome.output, "sink_excess is 3.25 in the log"));
  CHECK(contains(outcome.output, "runs/small: the replay differs from what the run logged"));

  std::filesystem::remove(place.path() / "runs/small/events.jsonl");
  const Outcome without = place.run("monitor --replay runs/small");
  INFO(without.output);
  CHECK(without.status == 0);
  CHECK(contains(without.output, "NOT AGAINST events.jsonl, which is missing or empty"));
  CHECK_FALSE(contains(without.output, "replay gives none"));
}

TEST_CASE("one view of runs is printed where the output is no terminal") {
  const Workplace place;
  REQUIRE(place.run(eager_train("small")).status == 0);
  REQUIRE(place.run("train config.json --set name=off --set train.steps=6 --set probes.enabled=false").status == 0);
  for (const char* option : {"", " --once"}) {
    const Outcome view = place.run(std::string("monitor runs/small runs/off") + option);
    INFO(view.output);
    CHECK(view.status == 0);
    CHECK(contains(view.output, "small   finished\nstep 60 of 60 (100 %)   7.68 k tokens\nloss "));
    CHECK(contains(view.output, "Sink_0 "));
    CHECK(contains(view.output, "\nphase    "));
    CHECK(contains(view.output, "step 60  end: training ends after 60 steps"));
    CHECK(contains(view.output, "off   finished\nstep 6 of 6 (100 %)"));
    CHECK_FALSE(contains(view.output, "\x1b"));
  }
  const Outcome refused = place.run("monitor runs/small nowhere");
  CHECK(refused.status == 1);
  CHECK(contains(refused.output, "nowhere: not a run directory"));
  CHECK_FALSE(contains(refused.output, "small   finished"));

  std::string log = place.read("runs/small/metrics.jsonl");
  place.write("runs/small/metrics.jsonl", log + "{\"step\":61}\n");
  const Outcome broken = place.run("monitor runs/small");
  INFO(broken.output);
  CHECK(broken.status == 1);
  CHECK(contains(broken.output, "! runs/small/metrics.jsonl:" ));
  CHECK(contains(broken.output, "sinkscope: error: runs/small/metrics.jsonl:"));
  CHECK(contains(broken.output, "key 'tokens' is missing"));
  place.write("runs/small/metrics.jsonl", log + "{\"step\":61");  // torn: still being written
  CHECK(place.run("monitor runs/small").status == 0);
}

/// The program on a terminal of its own, 100 columns by 30 rows.
class OnTerminal {
 public:
  OnTerminal(const Workplace& place, const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {SINKSCOPE_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    winsize size{};
    size.ws_col = 100;
    size.ws_row = 30;
    child_ = forkpty(&terminal_, nullptr, nullptr, &size);
    if (child_ < 0) throw std::runtime_error("forkpty failed");
    if (child_ == 0) {
      setenv("TERM", "xterm", 1);
      if (chdir(place.path().c_str()) == 0) execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~OnTerminal() {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    close(terminal_);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;

  void type(const std::string& keys) { REQUIRE(write(terminal_, keys.data(), keys.size()) == std::ssize(keys)); }
  /// Reads on until `part` was written, or the program ended, or 20 seconds are over.
  bool wrote(const std::string& part) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!contains(output, part) && std::chrono::steady_clock::now() < end) {
      pollfd readable{terminal_, POLLIN, 0};
      if (poll(&readable, 1, 100) <= 0) continue;
      char buffer[4096];
      const ssize_t count = read(terminal_, buffer, sizeof buffer);
      if (count <= 0) break;  // EIO: the program closed it
      output.append(buffer, static_cast<std::size_t>(count));
    }
    return contains(output, part);
  }
  int status() {
    wrote("\x01 never written");
    int result = 0;
    waitpid(child_, &result, 0);
    child_ = -1;
    return WIFEXITED(result) ? WEXITSTATUS(result) : 128 + WTERMSIG(result);
  }

  std::string output;

 private:
  pid_t child_ = -1;
  int terminal_ = -1;
};

constexpr const char* kOtherScreen = "\x1b[?1049h\x1b[?25l";
constexpr const char* kFirstScreen = "\x1b[?25h\x1b[?1049l";

TEST_CASE("a run that ended on what is not finite says so, where, and why") {
  const Workplace place;
  for (const char* alert : {"true", "false"}) {
    const std::string name = std::string("nan-") + alert;
    const Outcome trained = place.run("train config.json --set train.optimizer.learning_rate=1e38 --set "
                                      "train.schedule.warmup_steps=0 --set alerts.non_finite=" +
                                      std::string(alert) + " --set name=" + name);
    CHECK(trained.status == 1);
    const std::string why = ": step 2: the loss is not finite; the first tensor that is not: ";
    REQUIRE(contains(trained.output, name + why));
    const Outcome view = place.run("monitor --once runs/" + name);
    INFO(view.output);
    CHECK(view.status == 0);
    CHECK(view.output.starts_with(name + "   ended in step 2: the loss is not finite; the first "));
    CHECK_FALSE(contains(view.output, "   left "));
  }
}

TEST_CASE("on a terminal the runs are drawn until they end, and then once where the program was started") {
  const Workplace place;
  REQUIRE(place.run(eager_train("small")).status == 0);
  OnTerminal finished(place, {"monitor", "runs/small"});
  CHECK(finished.status() == 0);
  INFO(finished.output);
  REQUIRE(finished.output.starts_with(kOtherScreen));
  const std::size_t back = finished.output.find(kFirstScreen);
  REQUIRE(back != std::string::npos);
  CHECK(contains(finished.output.substr(0, back), "\x1b[1msmall\x1b[0m   finished"));
  CHECK(contains(finished.output.substr(back), "\x1b[1msmall\x1b[0m   finished"));
}

TEST_CASE("a run to come is waited for, seen to train, and Ctrl-C gives the terminal back") {
  const Workplace place;
  OnTerminal watching(place, {"monitor", "runs/small"});
  REQUIRE(watching.wrote("waiting: there is no run in runs/small yet"));
  place.run_and_kill(eager_words("small"), 600'000);
  REQUIRE(watching.wrote("step 60 of 60"));
  std::filesystem::remove(place.path() / "runs/small/events.jsonl");  // so that it has not ended
  OnTerminal other(place, {"monitor", "runs/small"});
  REQUIRE(other.wrote("no process trains here"));
  other.type("\x03");
  CHECK(other.status() == 0);
  CHECK(contains(other.output, kFirstScreen));
}

TEST_CASE("flags of one way to monitor are refused with another") {
  const Workplace place;
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome outcome = place.run("monitor " + arguments);
    INFO(arguments << "\n" << outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, part));
  };
  refused("runs --onset 1", "--onset requires --replay");
  refused("runs --json x.json", "--json requires --replay");
  refused("runs --port 1", "--port requires --serve");
  refused("runs --bind localhost", "--bind requires --serve");
  refused("runs --once --replay", "excludes");
  refused("runs --serve --once", "excludes");
  refused("runs --serve --port 65536", "--port");
  refused("a b --replay", "--replay takes one run, not 2");
#ifdef SINKSCOPE_HTTPLIB
  std::string many;
  for (int i = 0; i < 33; ++i) many += "run" + std::to_string(i) + " ";
  refused(many + "--serve", "at most 32 runs, not 33");
  place.write("runs/sweep/config.json", "{}");
  place.write("runs/sweep/metrics.jsonl", "");
  refused("runs --serve", "give runs/*/");
  refused("runs/sweep --serve --bind 999.1.2.3", "--bind 999.1.2.3 --port 0: cannot listen there");
#else
  refused("a --serve", "--serve: this build has no HTTP server; install cpp-httplib");
#endif
}

TEST_CASE("monitor --replay refuses what it cannot read, naming file or flag") {
  const Workplace place;
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome outcome = place.run("monitor --replay " + arguments);
    INFO(arguments << "\n" << outcome.output);
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.output, "sinkscope: error: "));
    CHECK(contains(outcome.output, part));
  };
  refused("nowhere", "nowhere: not a run directory");
  refused("config.json", "config.json: not a run directory");
  REQUIRE(place.run("train config.json --set train.steps=6 --set probes.enabled=false").status == 0);
  refused("runs", "give runs/small");
  refused("runs/small",
          "runs/small/probes.jsonl: holds no probe pass, so that nothing is known about the run's phases; "
          "probes.enabled is false");
  refused("runs/small --onset 0", "--onset: expected a number above 0, found \"0\"");
  refused("runs/small --onset inf", "--onset: expected a number above 0");
  refused("runs/small --plateau -1", "--plateau: expected a number above 0, found \"-1\"");
  refused("runs/small --plateau x", "--plateau");
  refused("runs/small --window 1", "--window");
  refused("runs/small --confirm 0", "--confirm");
  refused("", "run");
  place.write("there.json", "mine");
  refused("runs/small --json there.json", "there.json: exists already");
  CHECK(place.read("there.json") == "mine");
  refused("runs/small --json new.json", "holds no probe pass");
  CHECK(!std::filesystem::exists(place.path() / "new.json"));
  CHECK(!std::filesystem::exists(place.path() / "new.json.partial"));
  place.write("runs/small/probes.jsonl", "{}\n");
  refused("runs/small", "runs/small/probes.jsonl");
  std::filesystem::remove(place.path() / "runs/small/probes.jsonl");
  refused("runs/small", "runs/small/probes.jsonl: holds no probe pass");
  place.write("runs/small/config.json", "{\"train\": {\"stepz\": 1}}");
  refused("runs/small", "stepz");
}

}  // namespace
}  // namespace sinkscope
