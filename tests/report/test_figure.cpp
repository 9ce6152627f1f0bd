#include <limits>

#include "markup.h"
#include "support.h"
#include "tests/catch.h"
#include "tools/report/figure.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

std::string figure_of(const std::vector<RunData>& runs) { return figure_svg(runs, summarize(runs)); }

}  // namespace

TEST_CASE("the figure shows the curves, phases and labels of every run") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {example(folder, "a", {"sweep/bos-1"}),
                                     example(folder, "b", {"sweep/none-1", "none", 100, 0.0})};
  const std::string figure = figure_of(runs);
  INFO(figure);
  CHECK(markup_fault(figure, false).empty());
  CHECK(figure.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 "));
  CHECK(contains(figure, "<!-- sinkscope compare figure -->"));
  for (const char* text : {">bos-1</text>", ">none-1</text>", "Sink excess of position 0", "Step-up layer l*",
                           "Validation loss on common targets", ">onset 1.5</text>", "bos-1: onset at step 50",
                           "bos-1: transition, steps 60 to 100", "none-1: wandering, steps 0 to 100", ">100 k</text>",
                           ">transition</text>", "learning rate under 1/10"})
    CHECK(contains(figure, text));
  // Two runs in four panels.
  CHECK(count_of(figure, "<path d=\"M") == 9);  // and the hatching's
  CHECK(count_of(figure, "<clipPath") == 4);
  CHECK_FALSE(contains(figure, "stroke-dasharray=\"6 3\""));
}

TEST_CASE("seeds of one setting share a colour") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {example(folder, "a", {"bos-1"}), example(folder, "b", {"none-1", "none"}),
                                     example(folder, "c", {"bos-2", "sequence", 100, 0.01, true, true, 0, 2}),
                                     example(folder, "d", {"none-2", "none", 100, 0.01, true, true, 0, 2})};
  const std::vector<RunStyle> styles = run_styles(runs);
  CHECK(styles[0].colour == styles[2].colour);
  CHECK(styles[1].colour == styles[3].colour);
  CHECK(styles[0].colour != styles[1].colour);
  CHECK(styles[0].dash == 0);
  CHECK(styles[1].dash == 0);
  CHECK(styles[2].dash == 1);
  CHECK(styles[3].dash == 1);
  CHECK(contains(figure_of(runs), "stroke-dasharray=\"6 3\""));
}

TEST_CASE("what was not measured has no panel, and values that are no numbers break a curve only") {
  TemporaryFolder folder;
  // Those are R of the steps, and the loss.
  CHECK(count_of(figure_of({example(folder, "a", {"steps", "none", 100, 0.01, false})}), "<clipPath") == 2);
  CHECK(count_of(figure_of({example(folder, "b", {"off", "none", 100, 0.01, false, false})}), "<clipPath") == 1);
  CHECK(contains(message_of([&] {
                   figure_of({example(folder, "c", {"short", "none", 5, 0.01, false, false})});
                 }),
                 "nothing to draw"));

  RunData broken = example(folder, "d", {"broken<&\x1b"});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < broken.probes.size(); i += 3) {
    broken.probes[i].sink_excess = {nan};
    broken.probes[i].norm_ratio = {1, nan, std::numeric_limits<double>::infinity()};
    broken.probes[i].step_up_layer = std::nullopt;
  }
  broken.probes[1].sink_excess.clear();
  for (StepRecord& step : broken.steps)
    if (step.step % 20 == 0) step.validation_loss_common = nan;
  const std::string figure = figure_of({broken});
  CHECK(markup_fault(figure, false).empty());
  CHECK(contains(figure, ">broken&lt;&amp;\\x1B</text>"));
  CHECK_FALSE(contains(figure, "nan"));
  CHECK_FALSE(contains(figure, "inf"));
}

TEST_CASE("phases are read off the passes where the events are lost") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {"run"});
  run.events.clear();
  const std::vector<ArmSummary> arms = summarize({run});
  REQUIRE(arms[0].phases.size() == 2);
  CHECK(arms[0].phases[0].phase == "wandering");
  CHECK(arms[0].phases[0].from == 0);
  CHECK(arms[0].phases[0].to == 50);
  CHECK(arms[0].phases[1].phase == "transition");
  CHECK(arms[0].phases[1].to == 100);
  CHECK(arms[0].phase == "transition");
}

TEST_CASE("a figure of many long runs stays small") {
  TemporaryFolder folder;
  std::vector<RunData> runs;
  for (int i = 0; i < 8; ++i) {
    RunData run = example(folder, std::to_string(i), {"run-" + std::to_string(i), "none", 100, 0.01, true, true, 0, i});
    const ProbeRecord probe = run.probes.front();
    run.probes.clear();
    run.steps.resize(1, run.steps.front());
    for (int step = 1; step <= 3000; ++step) {
      run.probes.push_back(probe);
      run.probes.back().set = "natural";
      run.probes.back().step = step;
      run.probes.back().tokens = step * 1000;
      run.probes.back().sink_excess[0] = 3 + (step * 7919 % 1000) / 500.0;
      run.probes.back().norm_ratio[1] = 5 + (step * 104729 % 1000) / 500.0;
      run.probes.back().step_up_layer = step * 31 % 2;
      run.steps.push_back(run.steps.front());
      run.steps.back().step = step;
      run.steps.back().tokens = step * 1000;
      run.steps.back().validation_loss_common = 3 + (step * 7907 % 1000) / 500.0;
    }
    runs.push_back(std::move(run));
  }
  const std::string figure = figure_of(runs);
  CHECK(markup_fault(figure, false).empty());
  CHECK(figure.size() < 150'000);
}

TEST_CASE("a figure replaces a figure and no other file") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {example(folder, "a", {})};
  const auto file = folder / "figure.svg";
  write_figure(runs, file);
  const std::string first = read_file(file);
  CHECK(markup_fault(first, false).empty());
  write_figure(runs, file);
  CHECK(read_file(file) == first);
  for (const char* other : {"", "notes", "<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>"}) {
    write_file(file, other);
    const std::string message = message_of([&] { write_figure(runs, file); });
    CHECK(contains(message, "--figure " + file.string() + ": exists and is not a figure of this program"));
    CHECK(read_file(file) == other);
  }
  CHECK(contains(message_of([&] { write_figure(runs, folder.path()); }), "--figure " + folder.path().string()));
  CHECK(contains(message_of([&] { write_figure(runs, folder / "nowhere" / "x.svg"); }), "nowhere"));
  CHECK(contains(message_of([&] {
                   write_figure({example(folder, "b", {"x", "none", 5, 0, false, false})}, folder / "y.svg");
                 }),
                 "--figure " + (folder / "y.svg").string() + ": there is nothing to draw"));
}
