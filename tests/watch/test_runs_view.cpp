// The block of a run in a terminal.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/report/support.h"
#include "tools/report/format.h"
#include "tools/watch/runs_view.h"

namespace sinkscope {
namespace {

using test::contains;
using test::ExampleRun;
using test::TemporaryFolder;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  CHECK(begin == text.size());
  return lines;
}

std::string line_with(const std::string& text, const std::string& start) {
  for (const std::string& line : lines_of(text))
    if (line.starts_with(start)) return line;
  return {};
}

struct Place {
  TemporaryFolder folder;
  std::vector<RunData> runs;
  std::vector<RunStatus> status;

  void add(const ExampleRun& run, const RunStatus& state) {
    runs.push_back(test::example(folder, "run" + std::to_string(runs.size()), run));
    status.push_back(state);
  }
  std::string view(const ViewOptions& options) const { return runs_view(runs, status, options); }
};

RunStatus training(double seconds_per_step = 2) {
  RunStatus status;
  status.state = RunState::training;
  status.seconds_per_step = seconds_per_step;
  return status;
}

TEST_CASE("a run's block tells how far it is, how fast, and what its sink does") {
  Place place;
  place.add({"bos", "sequence", 80, 0.01, true, true, 0, 1}, training());
  place.runs[0].steps.back().mfu = 0.42;
  const std::string text = place.view({.width = 120});
  INFO(text);
  CHECK(contains(text, "bos   training\n"));
  CHECK(contains(text, "step 80 of 100 (80 %)   80 k tokens   left 40 s\n"));
  CHECK(contains(text, "loss 3.200   validation 3.450   gradient norm 1.500   2 k tokens/s   MFU 42.00 %\n"));
  // The score is that of the step, the excess that of the last pass.
  CHECK(contains(text, "sink 0.0900, excess 1.800   Sink_0 0   l* 1   C2 0.5000   phase transition since step 60\n"));
  CHECK(contains(line_with(text, "loss "), "loss 3.200"));
  const auto curve = [&](const std::string& name) {
    for (const std::string& line : lines_of(text))
      if (line.starts_with(name) && contains(line, "█")) return line;
    return std::string();
  };
  CHECK(contains(curve("loss     "), "▁  3.20"));
  CHECK(contains(curve("excess   "), "█  1.05"));
  const std::string band = line_with(text, "phase    ");
  CHECK(std::count(band.begin(), band.end(), 'w') == Approx(0.75 * 87).margin(1));
  CHECK(std::count(band.begin() + 9, band.end(), 't') == Approx(0.25 * 87).margin(1));
  CHECK(contains(text, "  step 60  phase: sink phase\n"));
  CHECK(contains(text, "phases: w wandering, t transition, s stable\n"));
  CHECK_FALSE(contains(text, "\x1b"));
}

TEST_CASE("without passes the excess is that of the training batches, and without probes there is none") {
  Place place;
  place.add({"batches", "none", 50, 0.01, false, true, 0, 1}, training());
  const std::string text = place.view({.width = 120});
  INFO(text);
  // 0.075 over u_0 at T = 128, 0.0424
  CHECK(contains(text, "sink 0.0750, excess 1.767"));
  CHECK_FALSE(contains(text, "phase"));
  Place off;
  off.add({"off", "none", 50, 0.0, false, false, 0, 1}, training());
  CHECK_FALSE(contains(off.view({.width = 120}), "Sink_0"));
  CHECK_FALSE(contains(off.view({.width = 120}), "excess"));
}

TEST_CASE("every state is told, and what is wrong") {
  Place place;
  place.add({"bos", "sequence", 100, 0.01, true, true, 0, 1}, training());
  place.status[0].state = RunState::quiet;
  place.status[0].seconds_since_step = 187;
  place.status[0].problem = "metrics.jsonl:3: \x1b[2Jbroken";
  place.status[0].unread_bytes = 5'000'000;
  const std::string text = place.view({.width = 120});
  INFO(text);
  CHECK(contains(text, "no process trains here, last step 3:07 ago"));
  CHECK(contains(text, "! metrics.jsonl:3: \\x1B[2Jbroken"));
  CHECK(contains(text, "reading the logs: 5 M bytes to go"));
  CHECK_FALSE(contains(text, "left"));  // of no step
  place.status[0].state = RunState::finished;
  CHECK(contains(place.view({.width = 120}), "finished"));

  Place nan;
  nan.add({"nan", "sequence", 80, 0.01, true, true, 0, 1}, training());
  nan.runs[0].events.push_back(
      {81, 0, "alert", "the loss is not finite; the first\x1b[2J", R"({"name":"non_finite"})"});
  CHECK(contains(nan.view({.width = 120}), "nan   training\n"));  // is about to end, or goes on
  CHECK(contains(nan.view({.width = 120}), "left 40 s"));
  nan.status[0].state = RunState::quiet;
  CHECK(contains(nan.view({.width = 120}), "nan   ended in step 81: the loss is not finite; the first\\x1B[2J\n"));
  CHECK_FALSE(contains(nan.view({.width = 120}), "left"));
  nan.runs[0].events.push_back({79, 0, "resume", "resumed", "{}"});
  CHECK(contains(nan.view({.width = 120}), "nan   no process trains here"));
  CHECK(contains(nan.view({.width = 120}), "left 40 s"));

  RunData nothing;
  nothing.directory = "runs/later";
  nothing.name = "later";
  CHECK(runs_view({nothing}, {RunStatus{}}, {.width = 120}) == "later   waiting: there is no run in runs/later yet\n");
}

TEST_CASE("no line is wider than the terminal, and few rows leave out the least") {
  Place place;
  for (const char* name : {"a", "b"}) place.add({name, "sequence", 100, 0.01, true, true, 0, 1}, training());
  for (const std::size_t width : {20, 33, 60, 80, 200})
    for (const std::string& line : lines_of(place.view({.width = width}))) CHECK(text_width(line) <= width);
  const std::string whole = place.view({.width = 100});
  const auto rows = lines_of(whole).size();
  CHECK(place.view({.width = 100, .rows = rows}) == whole);
  const std::string fewer = place.view({.width = 100, .rows = rows - 1});
  CHECK_FALSE(contains(fewer, "sink phase"));
  CHECK(contains(fewer, "█"));
  const std::string least = place.view({.width = 100, .rows = 11});
  CHECK_FALSE(contains(least, "█"));
  CHECK(contains(least, "Sink_0"));
  const std::string cut = place.view({.width = 100, .rows = 3});
  CHECK(lines_of(cut).size() == 3);
  CHECK(contains(cut, "more lines: enlarge the window"));
}

TEST_CASE("colours mark names, phases and warnings where they are asked for") {
  Place place;
  place.add({"bos", "sequence", 80, 0.01, true, true, 0, 1}, training());
  place.runs[0].events.push_back({70, 70000, "warning", "the loss rises", "{}"});
  place.runs[0].events.push_back({71, 71000, "alert", "loss spike", "{}"});
  const std::string text = place.view({.width = 100, .colour = true});
  CHECK(contains(text, "\x1b[1mbos\x1b[0m"));
  CHECK(contains(text, "\x1b[30;47mww"));
  CHECK(contains(text, "w\x1b[0m\x1b[30;43mt"));
  CHECK(contains(text, "\x1b[31m  step 70  warning: the loss rises\x1b[0m"));
  CHECK(contains(text, "\x1b[31m  step 71  alert: loss spike\x1b[0m"));
}

}  // namespace
}  // namespace sinkscope
