// Runs that grow, resume, appear and break, as the views see them.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "engine/metrics/sinks.h"
#include "engine/train/run_lock.h"
#include "tests/catch.h"
#include "tests/report/support.h"
#include "tools/report/page.h"
#include "tools/report/summary.h"
#include "tools/watch/runs_follower.h"

namespace sinkscope {
namespace {

using namespace std::chrono_literals;
using test::contains;
using test::ExampleRun;
using test::TemporaryFolder;

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
const RunsFollower::Clock::time_point kBegin{};

StepRecord step_record(std::int64_t step) {
  StepRecord record;
  record.step = step;
  record.tokens = step * 1000;
  record.loss = record.loss_common = 3;
  record.step_seconds = 0.5;
  record.tokens_per_second = 2000;
  return record;
}

TEST_CASE("a followed run has the page and the summary that a loaded one has") {
  const TemporaryFolder folder;
  test::write_run(folder / "bos", {});
  test::write_run(folder / "none", {"sweep/none", "none", 80, 0.0, true, true, 7, 1});
  test::write_run(folder / "batches", {"sweep/batches", "none", 40, 0.0, false, true, 0, 1});
  const std::vector<std::string> names = {(folder / "bos").string(), (folder / "none").string(), (folder / "batches").string()};
  std::vector<RunData> loaded;
  for (const std::string& name : names) loaded.push_back(load_run(name));
  RunsFollower follower(names);
  REQUIRE(follower.look(kAll, kBegin));
  CHECK_FALSE(follower.look(kAll, kBegin));
  CHECK(page_payload(follower.runs(), summarize(follower.runs())) == page_payload(loaded, summarize(loaded)));
  CHECK(summary_table(follower.runs()) == summary_table(loaded));

  // A little at a time leads to the same.
  RunsFollower slow(names);
  int looks = 0;
  do ++looks; while (slow.look(1000, kBegin) || !slow.caught_up());
  CHECK(looks > 20);
  CHECK(page_payload(slow.runs(), summarize(slow.runs())) == page_payload(loaded, summarize(loaded)));
}

TEST_CASE("what need not be kept of a record is not") {
  const TemporaryFolder folder;
  test::write_run(folder / "bos", {});
  RunsFollower follower({(folder / "bos").string()});
  follower.look(kAll, kBegin);
  const RunData& run = follower.runs().front();
  REQUIRE(run.steps.size() == 100);
  CHECK(run.steps[50].norm_ratio.empty());  // the passes have it
  CHECK(run.steps[50].residual_norm.empty());
  CHECK(run.steps[50].sink_score.size() == kShownPositions);
  CHECK(run.steps.back().norm_ratio.size() == 3);
  CHECK(run.steps.back().residual_norm.size() == 24);
  REQUIRE(run.probes.size() == 40);
  CHECK(run.probes[0].sink_score.size() == 2 * kShownPositions);
  CHECK(run.probes[1].sink_score.empty());  // of another set
  CHECK(run.probes[1].sink_excess.size() == 8);
}

TEST_CASE("a run is picked up when it appears, grows with its logs and ends with its end") {
  const TemporaryFolder folder;
  const auto place = folder / "late";
  RunsFollower follower({place.string()});
  CHECK_FALSE(follower.look(kAll, kBegin));
  CHECK(follower.status()[0].state == RunState::waiting);
  CHECK(follower.runs()[0].name == "late");

  test::write_run(place, {"sweep/late", "none", 5, 0.0, false, false, 0, 1});
  CHECK(follower.look(kAll, kBegin));
  CHECK(follower.status()[0].state == RunState::quiet);
  CHECK(follower.status()[0].seconds_since_step.has_value());
  CHECK(follower.runs()[0].name == "sweep/late");
  CHECK(follower.runs()[0].steps.size() == 5);
  {
    const RunLock lock(place);
    CHECK(follower.look(kAll, kBegin));
    CHECK(follower.status()[0].state == RunState::training);
    const auto sink = make_jsonl_sink(place, 3);  // a resume from step 3
    sink->write(step_record(4));
    follower.look(kAll, kBegin);
    CHECK(follower.runs()[0].steps.size() == 4);
    sink->write(EventRecord{100, 100000, "end", "training ends", "{}"});
  }
  CHECK_FALSE(follower.all_finished());
  CHECK(follower.look(kAll, kBegin));
  CHECK(follower.all_finished());

  std::filesystem::remove_all(place);
  CHECK(follower.look(kAll, kBegin));
  CHECK(follower.status()[0].state == RunState::waiting);
  CHECK(follower.runs()[0].steps.empty());
  CHECK(follower.runs()[0].events.empty());
}

TEST_CASE("a malformed line is named and left out; a resume that cuts it off clears it") {
  const TemporaryFolder folder;
  const auto place = folder / "bad";
  test::write_run(place, {"bad", "none", 5, 0.0, false, false, 0, 1});
  std::ofstream(place / "metrics.jsonl", std::ios::app) << "{\"step\":6}\n";
  RunsFollower follower({place.string()});
  follower.look(kAll, kBegin);
  CHECK(follower.status()[0].problem == (place / "metrics.jsonl").string() + ":6: key 'tokens' is missing");
  CHECK(follower.runs()[0].steps.size() == 5);
  make_jsonl_sink(place, 5);
  CHECK(follower.look(kAll, kBegin));
  CHECK(follower.status()[0].problem.empty());

  test::write_file(place / "config.json", "{");
  follower.look(kAll, kBegin);
  CHECK(contains(follower.status()[0].problem, "config.json: not valid JSON"));
  std::filesystem::remove(place / "events.jsonl");
  std::filesystem::create_directory(place / "events.jsonl");
  test::write_file(place / "config.json", "{\"name\": \"well\"}");
  follower.look(kAll, kBegin);
  CHECK(contains(follower.status()[0].problem, "events.jsonl: cannot read: Is a directory"));
  std::filesystem::remove(place / "events.jsonl");
  follower.look(kAll, kBegin);
  CHECK(follower.status()[0].problem.empty());
  CHECK(follower.runs()[0].name == "well");
}

TEST_CASE("the pace of a run is what its steps say, then what passes between them") {
  const TemporaryFolder folder;
  const auto place = folder / "paced";
  test::write_run(place, {"paced", "none", 5, 0.0, false, false, 0, 1});
  const RunLock lock(place);
  const auto sink = make_jsonl_sink(place, 5);
  RunsFollower follower({place.string()});
  follower.look(kAll, kBegin);
  CHECK(follower.status()[0].seconds_per_step.value() == Approx(0.5));
  for (int step = 6; step <= 15; ++step) sink->write(step_record(step));
  follower.look(kAll, kBegin + 4s);
  CHECK(follower.status()[0].seconds_per_step.value() == Approx(0.5));  // too soon
  follower.look(kAll, kBegin + 20s);
  CHECK(follower.status()[0].seconds_per_step.value() == Approx(2.0));
}

TEST_CASE("the holder of a run's lock is known without touching the lock") {
  const TemporaryFolder folder;
  CHECK(!run_lock_holder(folder.path()));
  {
    const RunLock lock(folder.path());
    CHECK(run_lock_holder(folder.path()) == static_cast<int>(getpid()));
  }
  CHECK(!run_lock_holder(folder.path()));  // the file is still there
  const RunLock again(folder.path());           // and nothing held it
  test::write_file(folder.path() / "lock", "0\n");
  CHECK(!run_lock_holder(folder.path()));
  test::write_file(folder.path() / "lock", "word\n");
  CHECK(!run_lock_holder(folder.path()));
}

}  // namespace
}  // namespace sinkscope
