// Runs that grow, resume, appear and break, as the views see them.
#include <unistd.h>

#include <algorithm>
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
  const std::vector<std::string> names = {(folder / "bos").string(), (folder / "none").string(),
                                          (folder / "batches").string()};
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

TEST_CASE("a malformed line is named and left out, and a resume that cuts it off clears it") {
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

/// Follows a run with and without samples, a little at a time.
struct Twins {
  explicit Twins(const std::filesystem::path& place)
      : sampled({place.string()}, {.steps = 8, .passes = 3, .least = 4000}), plain({place.string()}) {}

  bool look(std::int64_t limit) { return sampled.look(limit, kBegin) | plain.look(limit, kBegin); }
  void finish() {
    while (look(3000) || !sampled.caught_up() || !plain.caught_up()) {}
    CHECK_FALSE(sampled.status()[0].sampled_steps);
    CHECK_FALSE(sampled.status()[0].sampled_passes);
    CHECK(page_payload(sampled.runs(), summarize(sampled.runs())) ==
          page_payload(plain.runs(), summarize(plain.runs())));
    CHECK(summary_table(sampled.runs()) == summary_table(plain.runs()));
    CHECK(sampled.status()[0].problem == plain.status()[0].problem);
  }

  RunsFollower sampled, plain;
};

TEST_CASE("a sampled run has its first and last records at once, and at the end all that an unsampled one has") {
  const TemporaryFolder folder;
  const auto place = folder / "run";
  for (const bool probes : {true, false}) {
    std::filesystem::remove_all(place);
    test::write_run(place, {"run", "none", 100, 0.01, probes, true, 0, 1});
    Twins twins(place);
    CHECK(twins.look(3000));
    const RunData& run = twins.sampled.runs()[0];
    const RunStatus& status = twins.sampled.status()[0];
    CHECK(status.sampled_steps);
    CHECK(status.sampled_passes == probes);
    CHECK(run.steps.size() >= 6);
    CHECK(run.steps.size() <= 9);
    CHECK(run.steps.front().step == 1);
    CHECK(run.steps.back().step == 100);
    CHECK(run.steps.back().norm_ratio.size() == 3);
    CHECK(run.steps[3].norm_ratio.size() == (probes ? 0 : 3));
    for (std::size_t i = 1; i < run.steps.size(); ++i) {
      CHECK(run.steps[i].step > run.steps[i - 1].step);
      CHECK(run.steps[i].step <= run.steps[i - 1].step + 25);
      CHECK(run.steps[i].loss == Approx(4 - static_cast<double>(run.steps[i].step) / 100));
    }
    if (probes) {
      CHECK(run.probes.front().step == 5);
      CHECK(run.probes.back().step == 100);
      CHECK(run.probes.back().set == "random");
      const auto of_set = [&](const std::string& set) {
        return std::count_if(run.probes.begin(), run.probes.end(),
                             [&](const ProbeRecord& pass) { return pass.set == set; });
      };
      CHECK(of_set("natural") >= 4);
      CHECK(of_set("random") >= 4);
      CHECK(run.probes.size() < 20);
    }
    const std::int64_t bytes =
        static_cast<std::int64_t>(std::filesystem::file_size(place / "metrics.jsonl")) +
        (probes ? static_cast<std::int64_t>(std::filesystem::file_size(place / "probes.jsonl")) : 0);
    CHECK(status.unread_bytes > bytes - 10000);  // of both logs
    CHECK(status.unread_bytes < bytes);
    const std::int64_t version = twins.sampled.records_version();
    CHECK(twins.look(3000));
    CHECK(twins.sampled.records_version() == version);  // what is read meanwhile is not shown
    twins.finish();
    CHECK(twins.sampled.records_version() > version);
    CHECK(run.steps.size() == 100);
  }
}

TEST_CASE("a sampled run that grows or is cut back, at any moment, ends as an unsampled one") {
  const TemporaryFolder folder;
  const auto place = folder / "run";
  for (const int looks : {0, 1, 2, 5, 9, 14, 60}) {
    INFO(looks);
    std::filesystem::remove_all(place);
    test::write_run(place, {"run", "none", 100, 0.01, true, true, 0, 1});
    Twins twins(place);
    for (int i = 0; i < looks; ++i) twins.look(3000);
    {
      const auto sink = make_jsonl_sink(place, 100);
      for (int step = 101; step <= 110; ++step) sink->write(step_record(step));
    }
    twins.look(3000);
    {
      const auto sink = make_jsonl_sink(place, 80);
      for (int step = 81; step <= 90; ++step) sink->write(step_record(step));
    }
    twins.look(3000);
    if (looks > 0) CHECK(twins.sampled.runs()[0].steps.back().step == 90);  // sampled anew
    twins.finish();
    CHECK(twins.sampled.runs()[0].steps.size() == 90);
    std::filesystem::resize_file(place / "metrics.jsonl", 0);
    twins.finish();
    CHECK(twins.sampled.runs()[0].steps.empty());
  }
}

TEST_CASE("a pass whose extents are beyond all numbers is a malformed line") {
  const TemporaryFolder folder;
  const auto place = folder / "run";
  test::write_run(place, {"run", "none", 20, 0.0, true, true, 0, 1});
  const std::string log = test::read_file(place / "probes.jsonl");
  std::string line = log.substr(0, log.find('\n') + 1);
  for (const std::string key : {"\"heads\":", "\"positions\":"}) {  // whose product is 2^64
    const std::size_t at = line.find(key) + key.size();
    line.replace(at, line.find(',', at) - at, "4294967296");
  }
  std::ofstream(place / "probes.jsonl", std::ios::app) << line;
  RunsFollower follower({place.string()});
  follower.look(kAll, kBegin);
  CHECK(contains(follower.status()[0].problem, "key 'sink_score': "));
  CHECK(contains(follower.status()[0].problem, "a multiple of heads (4294967296) times positions (4294967296)"));
}

TEST_CASE("a malformed line of a sampled log is told with its number, once it is read") {
  const TemporaryFolder folder;
  const auto place = folder / "run";
  test::write_run(place, {"run", "none", 100, 0.01, true, true, 0, 1});
  std::ofstream(place / "metrics.jsonl", std::ios::app) << "{\"step\":6}\n";
  std::ofstream(place / "probes.jsonl", std::ios::app) << "[\n";
  Twins twins(place);
  twins.look(3000);
  CHECK(twins.sampled.status()[0].sampled_steps);
  CHECK(twins.sampled.status()[0].problem.empty());
  CHECK(twins.sampled.runs()[0].steps.back().step > 80);
  twins.finish();
  CHECK(twins.sampled.status()[0].problem == (place / "metrics.jsonl").string() + ":101: key 'tokens' is missing");
}

TEST_CASE("a log that is read in one look is not sampled, nor is a short one") {
  const TemporaryFolder folder;
  test::write_run(folder / "run", {});
  const auto never_sampled = [&](const Sampling& sampling, std::int64_t limit) {
    RunsFollower follower({(folder / "run").string()}, sampling);
    do {
      follower.look(limit, kBegin);
      CHECK_FALSE(follower.status()[0].sampled_steps);
      CHECK_FALSE(follower.status()[0].sampled_passes);
    } while (!follower.caught_up());
    CHECK(follower.runs()[0].steps.size() == 100);
  };
  never_sampled({.steps = 8, .passes = 3, .least = 1}, kAll);
  never_sampled({.steps = 8, .passes = 3, .least = 1 << 20}, 3000);
  never_sampled({}, 3000);
}

TEST_CASE("records made by two threads come in the order of the log, and what is malformed is told by its line") {
  const TemporaryFolder folder;
  const auto place = folder / "long";
  test::write_run(place, {"long", "none", 4000, 0.0, false, true, 0, 1});
  REQUIRE(std::filesystem::file_size(place / "metrics.jsonl") > std::size_t{1} << 20);
  RunsFollower follower({place.string()});
  follower.look(kAll, kBegin);
  REQUIRE(follower.runs()[0].steps.size() == 4000);
  const std::vector<RunData> loaded = {load_run(place)};
  CHECK(page_payload(follower.runs(), summarize(follower.runs())) == page_payload(loaded, summarize(loaded)));

  std::ofstream(place / "metrics.jsonl", std::ios::app) << "{\n";
  {
    const auto sink = make_jsonl_sink(folder / "more", std::nullopt);
    for (int step = 4001; step <= 8000; ++step) sink->write(step_record(step));
  }
  std::ofstream(place / "metrics.jsonl", std::ios::app | std::ios::binary)
      << test::read_file(folder / "more" / "metrics.jsonl");
  follower.look(kAll, kBegin);
  CHECK(contains(follower.status()[0].problem, "metrics.jsonl:4001: "));
  REQUIRE(follower.runs()[0].steps.size() == 8000);
  for (std::size_t i = 0; i < 8000; ++i) REQUIRE(follower.runs()[0].steps[i].step == static_cast<std::int64_t>(i) + 1);
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
