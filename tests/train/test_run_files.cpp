#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "engine/train/run_files.h"
#include "engine/train/run_lock.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

TEST_CASE("the loop's state survives its text") {
  const LoopState state{.step = 41, .sample = 123456789012, .validation_loss = 3.0000000000000004,
                        .validation_losses = {1.0 / 3.0, 3.0000000000000004}, .phase_detector = "{\"a\": [1]}",
                        .alerts = "{\"b\": 2}"};
  const LoopState back = loop_state_from_text(to_text(state), "state.json");
  CHECK(back.step == state.step);
  CHECK(back.sample == state.sample);
  CHECK(back.validation_loss == state.validation_loss);
  CHECK(back.validation_losses == state.validation_losses);
  CHECK(back.phase_detector == state.phase_detector);
  CHECK(back.alerts == state.alerts);
  CHECK(!loop_state_from_text(to_text(LoopState{}), "state.json").validation_loss);
}

TEST_CASE("a state from before the window of validation losses and from before alerts is read, and both begin anew") {
  const LoopState one = loop_state_from_text(
      R"({"step": 4, "sample": 8, "validation_loss": 2.5, "phase_detector": ""})", "state.json");
  CHECK(one.validation_losses == std::vector<double>{2.5});
  CHECK(one.alerts.empty());  // there were none either
  const LoopState none = loop_state_from_text(R"({"step": 4, "sample": 8, "phase_detector": ""})", "state.json");
  CHECK(none.validation_losses.empty());
  CHECK_THROWS_WITH(loop_state_from_text(R"({"step": 4, "sample": 8, "validation_losses": [1, "x"]})", "state.json"),
                    "state.json: validation_losses has the wrong type: [1,\"x\"]");
}

TEST_CASE("a malformed state names the key") {
  CHECK_THROWS_WITH(loop_state_from_text("[]", "state.json"), "state.json: expected an object");
  CHECK_THROWS_WITH(loop_state_from_text("{\"step\": 1}", "state.json"), "state.json: the key sample is missing");
  CHECK_THROWS_WITH(loop_state_from_text("{\"step\": \"x\"}", "state.json"),
                    "state.json: step has the wrong type: \"x\"");
  CHECK_THROWS_WITH(loop_state_from_text("{\"step\": -1, \"sample\": 0, \"phase_detector\": \"\"}", "state.json"),
                    "state.json: step and sample must not be negative");
}

TEST_CASE("a lock waits as long as it is told to") {
  using namespace std::chrono_literals;
  const test::TemporaryFolder folder;
  std::optional<RunLock> first(folder.path());
  const auto begin = std::chrono::steady_clock::now();
  CHECK_THROWS_WITH(RunLock(folder.path()), Catch::Contains("is in use by process "));
  CHECK_THROWS_WITH(RunLock(folder.path(), 200ms), Catch::Contains("is in use by process "));
  CHECK(std::chrono::steady_clock::now() - begin >= 200ms);
  const std::jthread other([&] {
    std::this_thread::sleep_for(200ms);
    first.reset();
  });
  CHECK_NOTHROW(RunLock(folder.path(), 60s));
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
}

TEST_CASE("a config that does not fit on the disk leaves the one before") {
  const test::TemporaryFolder folder;
  RunFacts facts;
  facts.device = "first";
  write_run_config(folder.path(), Config{}, facts);
  const std::string before = test::read_file(folder / "config.json");
  CHECK(test::contains(before, "first"));
  facts.device = "second";
  std::string error;
  {
    const test::FileSizeLimit full(100);
    error = test::message_of([&] { write_run_config(folder.path(), Config{}, facts); });
  }
  CHECK(error == (folder / "config.json.partial").string() + ": cannot write: File too large");
  CHECK(test::read_file(folder / "config.json") == before);
  CHECK(!std::filesystem::exists(folder / "config.json.partial"));
}

}  // namespace
}  // namespace sinkscope
