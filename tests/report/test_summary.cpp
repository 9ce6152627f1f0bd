#include <algorithm>
#include <tuple>

#include "support.h"
#include "tests/catch.h"
#include "tools/report/comparison.h"
#include "tools/report/summary.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

std::string value_of(const std::vector<TableRow>& rows, const std::string& label, std::size_t arm) {
  for (const TableRow& row : rows)
    if (row.label == label) return row.values.at(arm);
  return "no such row: " + label;
}

std::size_t bad_count(const std::vector<Statement>& statements) {
  std::size_t count = 0;
  for (const Statement& statement : statements) count += statement.good ? 0 : 1;
  return count;
}

std::vector<Statement> statements_of(const std::vector<RunData>& runs) {
  const std::vector<ArmSummary> arms = summarize(runs);
  return comparability(runs, arms, compare_runs(runs, arms));
}

}  // namespace

TEST_CASE("a run folder is read with its settings in order") {
  TemporaryFolder folder;
  const RunData run = example(folder, "a", {});
  REQUIRE(run.name == "sweep/bos");
  REQUIRE(run.steps.size() == 100);
  REQUIRE(run.probes.size() == 40);
  REQUIRE(run.events.size() == 1);
  REQUIRE(run.settings.front().first == "name");
  REQUIRE(find_setting(run, "data.bos") == "\"sequence\"");
  REQUIRE(find_setting(run, "data.common_targets") == "[\"none\",\"sequence\"]");
  REQUIRE_FALSE(find_setting(run, "data.missing"));
}

TEST_CASE("a reading says from when its sink is, where probe passes end early") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  REQUIRE_FALSE(contains(reading(summarize(std::vector<RunData>{run})).back(), "its last probe pass"));
  std::erase_if(run.probes, [](const ProbeRecord& probe) { return probe.step > 60; });
  const std::vector<RunData> cut = {run};
  bool said = false;
  for (const std::string& paragraph : reading(summarize(cut)))
    said = said || contains(paragraph, "At step 60, its last probe pass, position 0 draws ");
  REQUIRE(said);
}

TEST_CASE("a reading says that a run ended on what is not finite, unless it went on") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  for (auto& [key, value] : run.settings)
    if (key == "train.steps") value = "1000";
  const auto told = [&run](const char* text) {
    bool said = false;
    for (const std::string& paragraph : reading(summarize(std::vector<RunData>{run})))
      said = said || contains(paragraph, text);
    return said;
  };
  REQUIRE(told("; it is unfinished."));
  run.events.push_back({101, 0, "alert", "the loss is not finite", R"({"name":"non_finite"})"});
  REQUIRE(told("; it ended in step 101: the loss is not finite."));
  REQUIRE_FALSE(told("unfinished"));
  run.events.push_back({101, 0, "warning", "alerts.command: exit status 1; other failures of it are not told", "{}"});
  REQUIRE(told("; it ended in step 101: the loss is not finite."));
  run.events.push_back({90, 0, "resume", "resumed", "{}"});
  REQUIRE(told("; it is unfinished."));
  run.events.push_back({97, 0, "warning", "the gradient is not finite", R"({"tensor":"the gradient of head.weight"})"});
  REQUIRE(told("; it ended in step 97: the gradient is not finite."));  // with that alert off
  run.events.back().data = "[]";
  REQUIRE(told("; it is unfinished."));
  run.events.push_back({101, 0, "alert", "loss spike", R"({"name":"loss_spike"})"});
  REQUIRE(told("; it is unfinished."));
}

TEST_CASE("the time in training counts the steps between logged ones") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  std::erase_if(run.steps, [](const StepRecord& step) { return step.step % 10 != 0; });
  REQUIRE(run.steps.size() == 10);
  const std::vector<RunData> runs = {run};
  REQUIRE(summarize(runs).front().training_seconds == Approx(50));
}

TEST_CASE("what is missing or malformed is named") {
  TemporaryFolder folder;
  const auto place = folder.path() / "a";
  REQUIRE(contains(message_of([&] { load_run(place); }), "no such folder"));
  std::filesystem::create_directories(place);
  REQUIRE(contains(message_of([&] { load_run(place); }), "holds no config.json"));
  write_file(place / "config.json", "{\"name\": ");
  REQUIRE(contains(message_of([&] { load_run(place); }), "config.json: not valid JSON"));
  write_file(place / "config.json", "[1]");
  REQUIRE(contains(message_of([&] { load_run(place); }), "config.json: expected a JSON object"));
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += "{\"a\":";
  write_file(place / "config.json", deep + "1" + std::string(40, '}'));
  REQUIRE(contains(message_of([&] { load_run(place); }), "deeper than 32 levels"));

  write_file(place / "config.json", "{}");
  const RunData empty = load_run(place);
  REQUIRE(empty.name == "a");
  REQUIRE(empty.steps.empty());
  REQUIRE(contains(summary_table({empty}), "0 (0)"));
  REQUIRE(contains(plain_summary({empty}), "has no logged step yet"));

  write_run(folder.path() / "b", {});
  const std::string log = read_file(folder.path() / "b" / "metrics.jsonl");
  const std::size_t second = log.find('\n') + 1;
  write_file(folder.path() / "b" / "metrics.jsonl", log.substr(0, second) + "{broken\n" + log.substr(second));
  const std::string message = message_of([&] { load_run(folder.path() / "b"); });
  REQUIRE(contains(message, "metrics.jsonl"));
  REQUIRE(contains(message, "2"));
}

TEST_CASE("an arm is read on the probe set that decides its phases") {
  TemporaryFolder folder;
  for (const auto& [bos, set, excess] : {std::tuple{"none", "natural", "1.000 → 2.000"},
                                         std::tuple{"sequence", "natural_bos", "7.000 → 7.000"},
                                         std::tuple{"document", "natural", "1.000 → 2.000"}}) {
    ExampleRun example_run;
    example_run.bos = bos;
    example_run.probes = false;
    RunData run = example(folder, bos, example_run);
    for (const int step : {0, 100})
      for (const char* name : {"natural", "natural_bos"}) {
        ProbeRecord probe;
        probe.step = step;
        probe.set = name;
        probe.with_bos = probe.set == "natural_bos";
        probe.positions = 1;
        probe.sink_excess = {probe.with_bos ? 7.0 : 1.0 + step / 100.0};
        run.probes.push_back(probe);
      }
    const std::vector<RunData> runs = {run};
    const std::vector<ArmSummary> arms = summarize(runs);
    INFO(bos);
    CHECK(arms[0].probe_set == set);
    CHECK(value_of(summary_rows(arms), "sink excess P0", 0) == excess);
    for (const std::string& note : reading_notes(runs, arms)) CHECK(!contains(note, "BOS is not the one"));
  }
}

TEST_CASE("the table holds the numbers of the logs") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {example(folder, "a", {}),
                                     example(folder, "b", {"sweep/none", "none", 100, 0.0, true, true, 0, 1})};
  const std::vector<ArmSummary> arms = summarize(runs);
  const std::vector<TableRow> rows = summary_rows(arms);
  REQUIRE(arms[0].label == "bos");
  REQUIRE(arms[1].label == "none");
  REQUIRE(value_of(rows, "BOS policy", 1) == "none");
  REQUIRE(value_of(rows, "steps (tokens seen)", 0) == "100 (100 k)");
  // First step, and mean over the last twentieth: steps 96..100 have 3.04..3.00.
  REQUIRE(value_of(rows, "training loss", 0) == "3.990 → 3.020");
  REQUIRE(value_of(rows, "training loss, common targets", 0) == "3.490 → 2.520");
  REQUIRE(value_of(rows, "validation loss, common targets", 0) == "3.650 → 2.750");
  REQUIRE(value_of(rows, "sink excess P0", 0) == "1.050 → 2.000");
  REQUIRE(value_of(rows, "sink excess P0", 1) == "1.000 → 1.000");
  REQUIRE(value_of(rows, "sink excess P3", 0) == "0.5000 → 0.5000");
  REQUIRE(value_of(rows, "mean sink score P0", 0) == "0.0525 → 0.1000");
  REQUIRE(value_of(rows, "mean sink score P1", 0) == "0.0200 → 0.0200");
  REQUIRE(value_of(rows, "sink rate P0 (share above 0.3000)", 0) == "0.2500 → 0.2500");
  REQUIRE(value_of(rows, "sink rate P0, layers >= 1 (share above 0.3000)", 0) == "0.5000 → 0.5000");
  // Settings that are not those of all runs stand with each one's values.
  std::vector<ArmSummary> apart = arms;
  apart[1].sink_threshold = 0.5;
  apart[1].late_layers_from = 2;
  apart[1].sink_rate[0] = apart[1].sink_rate_late = arms[0].sink_rate[0];
  const std::vector<TableRow> differing = summary_rows(apart);
  REQUIRE(value_of(differing, "sink rate P0 (share above a threshold)", 0) == "0.2500 → 0.2500 (above 0.3000)");
  REQUIRE(value_of(differing, "sink rate P0 (share above a threshold)", 1) == "0.2500 → 0.2500 (above 0.5000)");
  REQUIRE(value_of(differing, "sink rate P0, late layers (share above a threshold)", 1) ==
          "0.2500 → 0.2500 (above 0.5000) (layers >= 2)");
  REQUIRE(value_of(rows, "sink excess P0, relative change over the window", 0) == "+12.50 %");
  REQUIRE(value_of(rows, "validation loss, relative change over the window", 1) == "-10.00 %");
  REQUIRE(value_of(rows, "largest P0 norm ratio, last", 0) == "4.000 (layer 1)");
  REQUIRE(value_of(rows, "P0 value norm / rest, smallest", 0) == "0.2500 (layer 1)");
  REQUIRE(value_of(rows, "step-up layer l*", 0) == "1");
  REQUIRE(value_of(rows, "first-two-layer share C2", 0) == "0.5000");
  // The excess reaches 1.5 at step 50 and stays for three passes.
  REQUIRE(value_of(rows, "sink onset", 0) == "step 50 (50 k tokens)");
  REQUIRE(value_of(rows, "sink onset", 1) == "none");
  REQUIRE(value_of(rows, "phase at the end", 0) == "transition");
  REQUIRE(value_of(rows, "phase at the end", 1) == "wandering");
  REQUIRE(value_of(rows, "tokens per second, median", 0) == "2000");
  REQUIRE(value_of(rows, "time in training steps", 0) == "50 s");
  REQUIRE(arms[0].low_rate.size() == 1);
  REQUIRE(arms[0].low_rate[0].from == 91);
  REQUIRE(arms[0].phases.size() == 2);
  REQUIRE(arms[0].phases[0].to == 60);

  const std::string table = summary_table(runs);
  REQUIRE(contains(table, "3.990 → 3.020"));
  const std::string text = plain_summary(runs);
  REQUIRE(contains(text, "strongest in bos (2.000 times uniform) and weakest in none (1.000)"));
  REQUIRE(contains(text, "; its value norm falls to 0.2500 of the others' (layer 1)"));
  RunData drained = runs[0];
  for (ProbeRecord& record : drained.probes) record.value_norm_first = {1.5, 1.25};
  REQUIRE(contains(plain_summary({drained}),
                   "; its value norm is nowhere below the others', at least 1.250 times them (layer 1)."));
  REQUIRE(contains(text, "formed at step 50"));
  const std::string flat = plain_summary(
      std::vector<RunData>{example(folder, "flat", {"sweep/flat", "none", 100, 0.001}), runs[1]});
  REQUIRE(contains(flat, "No arm has a sink: position 0 draws most in flat (1.100 times uniform) and least in none"));
  REQUIRE(contains(text, "no sink so far"));
  REQUIRE(contains(text, "From step 91 the learning rate of bos"));
  REQUIRE(contains(text, "20.00 / 10.00"));
}

TEST_CASE("differences leave bookkeeping out, and say whether arms may be compared") {
  TemporaryFolder folder;
  const RunData bos = example(folder, "a", {});
  const RunData none = example(folder, "b", {"sweep/none", "none", 100, 0.0, true, true, 0, 1});
  const RunData late = example(folder, "c", {"sweep/short", "none", 40, 0.0, true, true, 0, 2});
  std::vector<RunData> runs = {bos, none};
  const std::vector<Difference> found = differences(runs);
  REQUIRE(found.size() == 1);
  REQUIRE(found[0].key == "data.bos");
  REQUIRE(found[0].values == std::vector<std::string>{"\"sequence\"", "\"none\""});
  REQUIRE(bad_count(statements_of(runs)) == 0);

  runs = {bos, late};
  REQUIRE(differences(runs).size() == 2);
  REQUIRE(bad_count(statements_of(runs)) == 2);  // no seed in common, and tokens
  REQUIRE(contains(plain_summary(runs), "is at step 40 of 100 (40 k tokens); it is unfinished."));

  runs = {bos, bos};
  runs[1].settings.emplace_back("train.extra", "1");
  REQUIRE(differences(runs).at(0).values == std::vector<std::string>{"(absent)", "1"});
  for (auto& [key, value] : runs[1].settings)
    if (key == "run.dataset_fingerprint") value = "\"other\"";
  REQUIRE(contains(plain_summary(runs), "The arms read different data"));
  REQUIRE(statements_of({bos}).empty());
}

TEST_CASE("notes say what the losses are means of, and how far one seed goes") {
  TemporaryFolder folder;
  const RunData bos = example(folder, "a", {});
  const RunData none = example(folder, "b", {"sweep/none", "none", 100, 0.0, true, true, 0, 1});
  const RunData other_seed = example(folder, "c", {"sweep/other", "none", 100, 0.0, true, true, 0, 2});
  const std::string one = "This is one run with one seed: ", same = "All arms have the same seed, so that ";
  REQUIRE(contains(plain_summary({bos}), one));
  REQUIRE_FALSE(contains(plain_summary({bos}), same));
  REQUIRE(contains(plain_summary({bos, none}), same));
  REQUIRE_FALSE(contains(plain_summary({bos, none}), one));
  REQUIRE_FALSE(contains(plain_summary({bos, other_seed}), "seed, so that"));
  REQUIRE(contains(plain_summary({bos}),
                   "A training loss in the table is that of the first logged step → the mean over the last"));
}

TEST_CASE("an undefined l* is a dash in the table and said in the sentences, one that was not measured is not") {
  TemporaryFolder folder;
  std::vector<RunData> runs = {example(folder, "a", {}),
                               example(folder, "b", {"sweep/off", "none", 100, 0.0, false, true, 0, 1})};
  for (ProbeRecord& probe : runs[0].probes) {
    probe.step_up_layer.reset();
    probe.concentration.reset();
  }
  const std::vector<ArmSummary> arms = summarize(runs);
  const std::vector<TableRow> rows = summary_rows(arms);
  for (const std::size_t arm : {0U, 1U}) {
    REQUIRE(value_of(rows, "step-up layer l*", arm) == "-");
    REQUIRE(value_of(rows, "first-two-layer share C2", arm) == "-");
  }
  const std::vector<std::string> sentences = reading(arms);
  const auto told = [&](const std::string& text) {
    return std::count_if(sentences.begin(), sentences.end(), [&](const std::string& s) { return contains(s, text); });
  };
  REQUIRE(told("times the others' (layer 1), with l* undefined; its value norm") == 1);
  REQUIRE(told("l*") == 1);
  REQUIRE(told("stepping up") == 0);
}

TEST_CASE("runs without probe passes, without any probe and with bad losses are reported") {
  TemporaryFolder folder;
  const RunData batches = example(folder, "a", {"batches", "sequence", 100, 0.01, false, true, 0, 1});
  const RunData off = example(folder, "b", {"off", "sequence", 100, 0.01, false, false, 0, 1});
  const RunData bad = example(folder, "c", {"bad", "sequence", 100, 0.01, true, true, 98, 1});
  const std::vector<RunData> runs = {batches, off, bad};
  const std::vector<ArmSummary> arms = summarize(runs);
  const std::vector<TableRow> rows = summary_rows(arms);
  REQUIRE(value_of(rows, "scores read on", 0) == "training batches");
  REQUIRE(value_of(rows, "scores read on", 1) == "nothing: probes off");
  REQUIRE(value_of(rows, "mean sink score P0", 0) == "0.0505 → 0.1000");
  REQUIRE(value_of(rows, "mean sink score P0", 1) == "-");
  REQUIRE(value_of(rows, "largest P0 norm ratio, last", 0) == "5.000 (layer 1)");
  REQUIRE(value_of(rows, "sink onset", 0) == "not measured");
  REQUIRE(value_of(rows, "sink rate P0, layers >= 1 (share above 0.3000)", 0) == "-");
  REQUIRE(value_of(rows, "validation loss, relative change over the window", 0) == "-");
  REQUIRE(value_of(rows, "training loss", 2) == "3.990 → NaN");
  const std::string text = plain_summary(runs);
  REQUIRE(contains(text, "Its training loss was not finite at 1 step, first at step 98."));
  REQUIRE(contains(text, "Its probes were off"));
}

TEST_CASE("names cannot steer the terminal, and equal names stay apart") {
  TemporaryFolder folder;
  const RunData a = example(folder, "a", {"x\x1b[31m", "none", 10, 0.0, false, true, 0, 1});
  const RunData b = example(folder, "b", {"x\x1b[31m", "none", 10, 0.0, false, true, 0, 1});
  REQUIRE_FALSE(contains(summary_table({a, b}) + plain_summary({a, b}), "\x1b"));
  const std::vector<RunData> runs = {a, b, b};
  const auto arms = summarize(runs);
  REQUIRE(arms[0].label != arms[1].label);
  REQUIRE(arms[1].label != arms[2].label);
}
