#include <limits>
#include <sstream>

#include "engine/metrics/console.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using test::contains;
using test::message_of;

namespace {

// A console of which the tests hold the clock and see every byte.
struct Console {
  explicit Console(ConsoleOptions options) {
    sink = make_console_sink(options, output, "the console", [this] { return now; });
  }

  void step(std::int64_t number, double seconds_later = 1) {
    now +=
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds_later));
    StepRecord record;
    record.step = number;
    record.loss = 3.25;
    record.tokens_per_second = 12345;
    record.step_seconds = seconds_later;
    record.sink_score = {0.4375, 0.125};
    record.gradient_norm = 0.875;
    sink->write(record);
  }
  std::string take() {
    std::string text = output.str();
    output.str("");
    return text;
  }

  std::chrono::steady_clock::time_point now{};
  std::ostringstream output;
  std::unique_ptr<MetricSink> sink;
};

ConsoleOptions terminal(int width) {
  ConsoleOptions options;
  options.title = "arm";
  options.total_steps = 100;
  options.terminal = true;
  options.width = width;
  return options;
}

ConsoleOptions plain(std::int64_t line_every) {
  ConsoleOptions options;
  options.title = "arm";
  options.total_steps = 100;
  options.line_every = line_every;
  return options;
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

}  // namespace

TEST_CASE("the console tells the largest norm ratio over the blocks") {
  Console console(plain(1));
  StepRecord record;
  record.step = 1;
  record.norm_ratio = {9.0, 1.5, 2.25};
  console.sink->write(record);
  CHECK(contains(console.take(), "  P0 norm ratio 2.25\n"));
}

TEST_CASE("the console tells the share of the GPU's peak where it is known") {
  Console console(plain(1));
  StepRecord record;
  record.step = 1;
  record.tokens_per_second = 500e3;
  console.sink->write(record);
  CHECK_FALSE(contains(console.take(), "MFU"));
  record.mfu = 0.4412;
  console.sink->write(record);
  CHECK(contains(console.take(), "  500.0k tokens/s  left 0 s  MFU 44.1 %  gradient "));
}

TEST_CASE("the console tells sink rate, phase and step-up layer as they are known") {
  Console console(plain(1));
  console.step(1);
  const std::string before = console.take();
  for (const char* word : {"Sink_0", "l*", "wandering"}) CHECK_FALSE(contains(before, word));
  ProbeRecord probe;
  probe.set = "natural_short";
  probe.step_up_layer = 5;
  console.sink->write(probe);  // not the set that phases are read from
  probe.set = "natural_bos";
  probe.phase = "wandering";
  probe.step_up_layer.reset();
  console.sink->write(probe);
  StepRecord record;
  record.step = 2;
  record.sink_score = {0.25};
  record.sink_rate = {0.0625, 0.5};
  record.gradient_norm = 1.25;
  record.mfu = 0.5;
  console.sink->write(record);
  CHECK(contains(console.take(),
                 "  sink 0.250  0 tokens/s  left 0 s  Sink_0 0.062  wandering  MFU 50.0 %  gradient 1.25  l* -\n"));
  probe.phase = "transition";
  probe.step_up_layer = 3;
  console.sink->write(probe);
  console.sink->write(record);
  CHECK(contains(console.take(), "  Sink_0 0.062  transition  MFU 50.0 %  gradient 1.25  l* 3\n"));
}

TEST_CASE("an alert stands on a line of its own, in capitals") {
  Console console(terminal(60));
  console.step(3);
  const std::string bar = console.take();
  console.sink->write(EventRecord{3, 3, "alert", "loss spike: high", "{}"});
  CHECK(console.take() == "\r\x1b[Kstep 3  ALERT: loss spike: high\n" + bar);
}

TEST_CASE("without a terminal the console prints whole lines at its cadence") {
  Console console(plain(10));
  for (std::int64_t step = 1; step <= 25; ++step) console.step(step);
  const std::string text = console.take();
  CHECK(occurrences(text, "\n") == 3);  // 1, 10, 20
  CHECK(contains(text, "arm  step 10/100  loss 3.2500  sink 0.438  12.3k tokens/s  left 1:30  gradient 0.875\n"));
  CHECK(contains(text, "step 20/100"));
  CHECK_FALSE(contains(text, "\r"));
  CHECK_FALSE(contains(text, "\x1b"));
}

TEST_CASE("the last step is printed whatever the cadence") {
  Console console(plain(7));
  for (std::int64_t step = 98; step <= 100; ++step) console.step(step);
  const std::string text = console.take();
  CHECK(occurrences(text, "\n") == 2);
  CHECK(contains(text, "step 98/100"));
  CHECK(contains(text, "step 100/100"));
  CHECK(contains(text, "left 0 s"));
}

TEST_CASE("after a resume the time left comes from this process's own steps") {
  Console console(plain(1));
  console.now += std::chrono::minutes(5);  // the checkpoint and the data are read
  console.step(91, 4);
  CHECK(contains(console.take(), "left 36 s"));
  console.step(92, 1);
  console.step(93, 1);
  CHECK(contains(console.take(), "step 93/100  loss 3.2500  sink 0.438  12.3k tokens/s  left 7 s"));
}

TEST_CASE("the validation loss stays in view until the next") {
  Console console(plain(1));
  StepRecord record;
  record.step = 1;
  console.sink->write(record);
  CHECK_FALSE(contains(console.take(), "validation"));
  record.step = 2;
  record.validation_loss = 4.5;
  console.sink->write(record);
  CHECK(contains(console.take(), "validation 4.5000"));
  console.step(3);
  CHECK(contains(console.take(), "validation 4.5000"));
}

TEST_CASE("without per-step probes the sink score comes from the probe passes over natural text") {
  Console console(plain(1));
  StepRecord record;
  record.step = 1;
  console.sink->write(record);
  CHECK_FALSE(contains(console.take(), "Sink_0"));
  ProbeRecord probe;
  probe.set = "random";
  probe.layers = 1;
  probe.heads = 1;
  probe.positions = 1;
  probe.sink_score = {0.9};
  console.sink->write(probe);
  probe.set = "natural";
  probe.sink_score = {0.25};
  probe.sink_rate = {0.125};
  console.sink->write(probe);
  CHECK(console.take().empty());
  record.step = 2;
  console.sink->write(record);
  const std::string line = console.take();
  CHECK(contains(line, "sink 0.250"));
  CHECK(contains(line, "Sink_0 0.125"));
  console.step(3);
  console.sink->write(probe);
  console.step(4);
  CHECK(occurrences(console.take(), "sink 0.438") == 2);
}

TEST_CASE("numbers that are not finite are shown as they are") {
  Console console(plain(1));
  StepRecord record;
  record.step = 1;
  record.loss = std::numeric_limits<double>::quiet_NaN();
  record.tokens_per_second = std::numeric_limits<double>::infinity();
  console.sink->write(record);
  const std::string text = console.take();
  CHECK(contains(text, "loss nan"));
  CHECK(contains(text, "? tokens/s"));
}

TEST_CASE("on a terminal one line is redrawn in place, at most ten times a second") {
  Console console(terminal(120));
  for (std::int64_t step = 1; step <= 99; ++step) console.step(step, 0.01);
  const std::string text = console.take();
  CHECK(occurrences(text, "\n") == 0);
  CHECK(occurrences(text, "\r\x1b[K") >= 9);
  CHECK(occurrences(text, "\r\x1b[K") <= 11);
  console.step(100, 0.001);  // the last step is never held back
  const std::string last = console.take();
  CHECK(contains(last, "step 100/100"));
  CHECK(contains(last, "#]"));
  CHECK(contains(last, "sink 0.438"));
  CHECK(contains(last, "left 0 s"));
  console.sink.reset();
  const std::string end = console.take();
  CHECK(end.back() == '\n');
}

TEST_CASE("a held back step is drawn when the console closes") {
  Console console(terminal(120));
  console.step(1);
  console.step(2, 0.01);
  CHECK_FALSE(contains(console.take(), "step 2/100"));
  console.sink.reset();
  CHECK(contains(console.take(), "step 2/100"));
}

TEST_CASE("the bar never fills the terminal's width") {
  for (const int width : {-1, 0, 1, 2, 10, 20, 33, 40, 60, 80, 200}) {
    Console console(terminal(width));
    console.step(50);
    const std::string text = console.take();
    REQUIRE(text.rfind("\r\x1b[K", 0) == 0);
    const std::size_t shown = text.size() - 4;
    CHECK(shown <= static_cast<std::size_t>(std::max(width - 1, 1)));
    if (width >= 40) CHECK(contains(text, "step 50/100  loss 3.2500"));
    CHECK(contains(text, "left 50 s") == (width >= 80));  // before the gradient, which goes for it
    CHECK(contains(text, "[####") == (width >= 200));
    if (width >= 200) CHECK(text.rfind("\r\x1b[Karm  [", 0) == 0);
  }
}

TEST_CASE("the bar comes where every field is shown, and there alone") {
  Console wide(terminal(1000));
  wide.step(50);
  const std::string whole = wide.take();
  const std::string last = whole.substr(whole.rfind("  ") + 2);
  int with = 0, without = 0;
  for (int width = 20; width < 200; ++width) {
    Console console(terminal(width));
    console.step(50);
    const std::string text = console.take();
    INFO(text);
    contains(text, "#") ? ++with : ++without;
    if (contains(text, "#")) CHECK(contains(text, last));
  }
  CHECK(with > 0);
  CHECK(without > 0);
}

TEST_CASE("events are printed above the bar, and make no bar of their own") {
  Console console(terminal(100));
  console.sink->write(EventRecord{0, 0, "start", "a new run", "{}"});
  CHECK(console.take() == "step 0  start: a new run\n");
  console.step(7);
  const std::string bar = console.take();
  console.sink->write(EventRecord{7, 7, "phase", "wandering -> transition", "{}"});
  CHECK(console.take() == "\r\x1b[Kstep 7  phase: wandering -> transition\n" + bar);
}

TEST_CASE("a sampled text cannot drive the terminal") {
  CHECK(printable("plain, \xC3\xA9t\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80") ==
        "plain, \xC3\xA9t\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80");
  CHECK(printable("a\nb\tc\r\x1b[2J\x7F") == "a\\nb\\tc\\x0D\\x1B[2J\\x7F");
  CHECK(printable("\xC2\x9B" "31m") == "\\xC2\\x9B31m");                  // CSI as a C1 control character
  CHECK(printable("\x9B\xC3") == "\\x9B\\xC3");                          // no UTF-8
  CHECK(printable("\xC0\x8A\xED\xA0\x80") == "\\xC0\\x8A\\xED\\xA0\\x80");  // overlong, surrogate
  CHECK(printable("\xF4\x90\x80\x80") == "\\xF4\\x90\\x80\\x80");        // above U+10FFFF
  CHECK(printable(std::string(1, '\0')) == "\\x00");
  CHECK(printable("").empty());

  Console console(plain(1));
  console.sink->write(EventRecord{1, 1, "sample", "once\x1b[31m\nupon", "{}"});
  CHECK(console.take() == "step 1  sample: once\\x1B[31m\\nupon\n");
}

TEST_CASE("durations are short and unambiguous") {
  CHECK(format_duration(0) == "0 s");
  CHECK(format_duration(59.4) == "59 s");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3599.6) == "1:00:00");
  CHECK(format_duration(7387) == "2:03:07");
  CHECK(format_duration(4 * 86400 + 2 * 3600) == "4 d 02 h");
  CHECK(format_duration(-1) == "?");
  CHECK(format_duration(std::numeric_limits<double>::quiet_NaN()) == "?");
  CHECK(format_duration(std::numeric_limits<double>::infinity()) == "?");
}

TEST_CASE("a console that cannot be written is an error naming it") {
  Console console(plain(1));
  console.output.setstate(std::ios::badbit);
  CHECK(contains(message_of([&] { console.step(1); }), "the console: cannot write"));
  CHECK(contains(message_of([] { make_console_sink(plain(0)); }), "line_every"));
}
