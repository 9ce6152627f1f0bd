// The command of alerts, with real programs.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/train/alert_command.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;
using test::contains;
using test::read_file;

AlertConfig config_of(std::vector<std::string> command, double timeout = 20) {
  AlertConfig config;
  config.command = std::move(command);
  config.command_timeout = timeout;
  return config;
}

AlertConfig script(const std::string& text, double timeout = 20) { return config_of({"/bin/sh", "-c", text}, timeout); }

Alert example(std::int64_t step = 7) {
  return {.step = step, .tokens = 448, .name = "loss_spike", .value = 5.25, .threshold = 4.5,
          .message = "a \"loss\" $HOME\nspike"};
}

/// A pause that ends early when `done` holds.
template <class Done>
bool soon(Done done) {
  for (const auto end = Clock::now() + std::chrono::seconds(20); Clock::now() < end;) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return done();
}

TEST_CASE("the command of an alert has it in its environment and on standard input, and its output is kept") {
  const test::TemporaryFolder folder;
  setenv("SINKSCOPE_ALERT_NAME", "of somebody else", 1);
  AlertCommand command(script("for n in RUN NAME STEP TOKENS VALUE THRESHOLD MESSAGE; do "
                              "eval \"echo $n=\\\"\\$SINKSCOPE_ALERT_$n\\\"\"; done; cat; echo to stderr >&2"),
                       folder.path());
  command.start(example());
  command.finish();
  unsetenv("SINKSCOPE_ALERT_NAME");
  CHECK(!command.failure());
  CHECK(read_file(folder / "alerts.log") ==
        "RUN=" + folder.path().string() + "\nNAME=loss_spike\nSTEP=7\nTOKENS=448\nVALUE=5.25\nTHRESHOLD=4.5\n"
        "MESSAGE=a \"loss\" $HOME\nspike\n" +
        R"({"step":7,"tokens":448,"kind":"alert","message":"a \"loss\" $HOME\nspike",)"
        R"("data":{"name":"loss_spike","value":5.25,"threshold":4.5}})" "\nto stderr\n");
}

TEST_CASE("a number that is none and a threshold that is not there are text and empty") {
  const test::TemporaryFolder folder;
  AlertCommand command(script("echo \"$SINKSCOPE_ALERT_VALUE,$SINKSCOPE_ALERT_THRESHOLD,\""), folder.path());
  Alert alert = example();
  alert.value = std::numeric_limits<double>::infinity();
  alert.threshold.reset();
  command.start(alert);
  command.finish();
  CHECK(read_file(folder / "alerts.log") == "Infinity,,\n");
}

TEST_CASE("the command is no shell text: its arguments arrive as they are") {
  const test::TemporaryFolder folder;
  AlertCommand command(config_of({"printf", "%s|", "two words", "$HOME; exit 3", "*"}), folder.path());
  command.start(example());
  command.finish();
  CHECK(!command.failure());
  CHECK(read_file(folder / "alerts.log") == "two words|$HOME; exit 3|*|");
}

TEST_CASE("the command has no open file but its own three, a session of its own and no signal blocked") {
  const test::TemporaryFolder folder;
  const test::TemporaryFolder other;
  FILE* leak = fopen((other / "leak").c_str(), "w");  // without close-on-exec
  REQUIRE(leak != nullptr);
  sigset_t set, before;
  sigfillset(&set);
  pthread_sigmask(SIG_BLOCK, &set, &before);
  // `ls` alone: for a pipeline or a redirection a shell opens files of its own.
  AlertCommand command(script("ls /proc/$$/fd; [ \"$(cut -d' ' -f6 /proc/$$/stat)\" = $$ ] && echo leads; "
                              "grep SigBlk /proc/self/status"), folder.path());
  command.start(example());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  command.finish();
  fclose(leak);
  const std::string log = read_file(folder / "alerts.log");
  INFO(log);
  CHECK(log.rfind("0\n1\n2\nleads\n", 0) == 0);
  CHECK(contains(log, "SigBlk:\t0000000000000000\n"));
}

TEST_CASE("commands run one at a time, in order") {
  const test::TemporaryFolder folder;
  AlertCommand command(script("echo begin $SINKSCOPE_ALERT_STEP; sleep 0.05; echo end $SINKSCOPE_ALERT_STEP"),
                       folder.path());
  std::string expected;
  for (std::int64_t step = 1; step <= 5; ++step) {
    command.start(example(step));
    expected += "begin " + std::to_string(step) + "\nend " + std::to_string(step) + "\n";
  }
  command.finish();
  CHECK(read_file(folder / "alerts.log") == expected);
}

TEST_CASE("a command that fails is told of once, with the reason") {
  const test::TemporaryFolder folder;
  const auto failure_of = [&](const AlertConfig& config) {
    AlertCommand command(config, folder.path());
    CHECK(!command.failure());
    command.start(example());
    command.start(example());
    command.finish();
    const auto failure = command.failure();
    CHECK(!command.failure());
    command.start(example());
    command.finish();
    CHECK(!command.failure());
    return failure.value_or("none");
  };
  CHECK(failure_of(script("exit 3")) == "alerts.command /bin/sh: ended with status 3; its output is in alerts.log");
  CHECK(failure_of(script("kill -9 $$")) == "alerts.command /bin/sh: ended by signal 9");
  CHECK(failure_of(config_of({"no-such-program"})) ==
        "alerts.command no-such-program: cannot be started: No such file or directory");
  CHECK(failure_of(script("exit 0")) == "none");
  const test::TemporaryFolder gone;
  AlertCommand command(script("exit 0"), gone / "not here");
  command.start(example());
  command.finish();
  CHECK(contains(command.failure().value_or(""), "alerts.log: No such file or directory"));
}

TEST_CASE("a command that hangs holds up nothing, and is killed with its children when its time is out") {
  const test::TemporaryFolder folder;
  AlertCommand command(script("sleep 1000 & echo $!; wait", 1), folder.path());
  const auto begin = Clock::now();
  command.start(example());
  CHECK(Clock::now() - begin < std::chrono::milliseconds(900));
  std::optional<std::string> failure;
  REQUIRE(soon([&] { return (failure = command.failure()).has_value(); }));
  CHECK(Clock::now() - begin >= std::chrono::seconds(1));
  CHECK(*failure == "alerts.command /bin/sh: was killed after 1.0 s (alerts.command_timeout)");
  const pid_t child = std::stoi(read_file(folder / "alerts.log"));
  CHECK(soon(
      [&] { return kill(child, 0) != 0 || contains(read_file("/proc/" + std::to_string(child) + "/stat"), ") Z "); }));
}

TEST_CASE("at the end a command that hangs is waited for as long as its time, and those behind it are told of") {
  const test::TemporaryFolder folder;
  const auto begin = Clock::now();
  AlertCommand command(script("echo $SINKSCOPE_ALERT_STEP; sleep 1000", 0.5), folder.path());
  for (std::int64_t step = 1; step <= 10; ++step) command.start(example(step));
  command.finish();
  const auto waited = Clock::now() - begin;
  CHECK(waited >= std::chrono::milliseconds(500));
  CHECK(waited < std::chrono::seconds(4));  // not ten times the time-out
  CHECK(contains(command.failure().value_or(""), "was killed"));
  CHECK(!contains(read_file(folder / "alerts.log"), "10"));
}

TEST_CASE("alerts that come faster than the command are dropped beyond a bound, and that is told") {
  const test::TemporaryFolder folder;
  AlertCommand command(script("echo $SINKSCOPE_ALERT_STEP; [ $SINKSCOPE_ALERT_STEP -gt 1 ] || while [ ! -e " +
                              (folder / "go").string() + " ]; do sleep 0.01; done"), folder.path());
  command.start(example(1));
  REQUIRE(soon(
      [&] { return std::filesystem::exists(folder / "alerts.log") && read_file(folder / "alerts.log") == "1\n"; }));
  for (std::int64_t step = 2; step <= 100; ++step) command.start(example(step));
  test::write_file(folder / "go", "");
  command.finish();
  CHECK(command.failure() == "alerts.command /bin/sh: was not run for an alert: 16 others wait for it");
  std::string expected;
  for (std::int64_t step = 1; step <= 17; ++step) expected += std::to_string(step) + "\n";
  CHECK(read_file(folder / "alerts.log") == expected);
}

}  // namespace
}  // namespace sinkscope
