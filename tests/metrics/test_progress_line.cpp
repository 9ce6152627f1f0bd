#include <sstream>

#include "engine/metrics/progress_line.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;

namespace {

// A line of which the tests hold the clock and see every byte.
struct Line {
  explicit Line(bool terminal, int width = 80)
      : progress(std::make_unique<ProgressLine>(
            ProgressOptions{.title = "causal tests", .unit = "passes", .terminal = terminal, .width = width}, output,
            [this] { return now; })) {}

  std::string update(std::int64_t done, double share, int milliseconds_later) {
    now += std::chrono::milliseconds(milliseconds_later);
    progress->update(done, 40, share);
    return take();
  }
  std::string take() {
    std::string text = output.str();
    output.str("");
    return text;
  }

  std::chrono::steady_clock::time_point now{};
  std::ostringstream output;
  std::unique_ptr<ProgressLine> progress;
};

}  // namespace

TEST_CASE("on a terminal the progress is one line, drawn at most ten times a second and erased at the end") {
  Line line(true);
  CHECK(line.update(0, 0, 5000) == "\r\x1b[Kcausal tests: 0 of 40 passes");
  CHECK(line.update(1, 0.01, 50).empty());
  // 2 s for a quarter of the work.
  CHECK(line.update(2, 0.25, 1950) == "\r\x1b[Kcausal tests: 2 of 40 passes, 6 s left");
  CHECK(line.update(3, 0.5, 99).empty());
  CHECK(line.update(40, 1, 8000) == "\r\x1b[Kcausal tests: 40 of 40 passes, 0 s left");
  line.progress.reset();
  CHECK(line.take() == "\r\x1b[K");
}

TEST_CASE("the time left is of the share since the first call, whatever was before") {
  Line line(true);
  line.update(20, 0.5, 60000);
  CHECK(line.update(30, 0.75, 90000) == "\r\x1b[Kcausal tests: 30 of 40 passes, 1:30 left");
}

TEST_CASE("a narrow terminal gets what fits without a wrap") {
  Line line(true, 16);
  CHECK(line.update(0, 0, 0) == "\r\x1b[Kcausal tests: 0");
}

TEST_CASE("elsewhere the progress is a line every ten seconds, and none of what takes less") {
  Line line(false);
  CHECK(line.update(0, 0, 5000).empty());
  CHECK(line.update(1, 0.1, 9999).empty());
  CHECK(line.update(2, 0.2, 1) == "causal tests: 2 of 40 passes, 40 s left\n");
  CHECK(line.update(3, 0.3, 9000).empty());
  CHECK(line.update(4, 0.5, 1000) == "causal tests: 4 of 40 passes, 20 s left\n");
  line.progress.reset();
  CHECK(line.take().empty());
}

TEST_CASE("nothing is drawn, nothing is erased") {
  Line line(true);
  line.progress.reset();
  CHECK(line.take().empty());
}
