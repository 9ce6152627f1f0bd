#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/probes/sink_scores.h"
#include "support.h"
#include "tests/catch.h"
#include "tools/report/page.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Json = nlohmann::json;

namespace {

constexpr std::int64_t kSeriesLayers = 3;

CausalTest series_test(const std::string& kind, std::optional<std::int64_t> layer, double removed, double moved) {
  CausalTest test;
  test.kind = kind;
  test.layer = layer;
  test.first.excess = around(3);
  test.removed = around(removed);
  test.moved = around(moved);
  return test;
}

/// The MLP of layer 1 removes `mlp`, every other one 0.2, the attention of layer 2 `attention`, every other one 0.
CausalRecord record_of(double mlp, double attention = 0.1, bool formed = true) {
  CausalRecord record;
  record.set = "natural_short_bos";
  record.length = 64;
  record.sequences = 5;
  record.position = 4;
  record.confidence = 0.95;
  record.sink_formed = formed;
  record.source_layer = 1;
  record.tests.push_back(series_test("none", std::nullopt, 0, 0));
  for (std::int64_t l = 0; l < kSeriesLayers; ++l)
    record.tests.push_back(series_test("knock_out_mlp", l, l == 1 ? mlp : 0.2, 0));
  for (std::int64_t l = 0; l < kSeriesLayers; ++l)
    record.tests.push_back(series_test("knock_out_attention", l, l == 2 ? attention : 0, 0));
  record.tests.push_back(series_test("transplant", 0, 0, 0.9));
  record.tests.push_back(series_test("transplant", 1, 0, 0.6));
  record.tests.push_back(series_test("transplant_random_direction", 1, 0, 0.05));
  record.tests.push_back(series_test("transplant_small", 1, 0, 0.3));
  record.tests.push_back(series_test("isolate", 2, 0, 0.7));
  record.tests.push_back(series_test("isolate", 3, 0, 0.8));
  return record;
}

void log(RunData& run, std::int64_t step, const CausalRecord& record) {
  run.events.push_back({step, 1000 * step, "causal", "", to_json(record).dump()});
}

/// No sink at step 20, half-needed at 40, needed at 60 and 80.
RunData tested_run(const TemporaryFolder& folder, const std::string& place = "a") {
  RunData run = example(folder, place, {});
  log(run, 20, record_of(7, 7, false));
  log(run, 40, record_of(0.55));
  log(run, 60, record_of(0.8));
  log(run, 80, record_of(0.9));
  return run;
}

std::string value_of(const std::vector<RunData>& runs, const std::string& label, std::size_t arm = 0) {
  for (const TableRow& row : summary_rows(summarize(runs)))
    if (row.label == label) return row.values.at(arm);
  return "no such row: " + label;
}

std::string sentence(const RunData& run) {
  const std::vector<RunData> runs = {run};
  return causal_sentence(summarize(runs).front());
}

const Json& by_id(const Json& list, const std::string& id) {
  for (const Json& entry : list)
    if (entry["id"] == id) return entry;
  throw std::runtime_error("no " + id);
}

Json payload_of(const std::vector<RunData>& runs) { return Json::parse(page_payload(runs, summarize(runs))); }

}  // namespace

TEST_CASE("causal tests are read back from their events as they were, in order") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  CausalRecord record = record_of(0.9);
  record.step_up_layer = 1;
  record.with_bos = true;
  record.sink_threshold = 0.3;
  record.resamples = 200;
  record.tests[2].loss = {std::nan(""), -1, std::numeric_limits<double>::infinity()};
  record.controls = {{"random", 64, 5, false, record.tests[0].first, around(5)}};
  log(run, 60, record);
  const std::vector<CausalPoint> points = causal_series(run);
  REQUIRE(points.size() == 1);
  CHECK(points[0].step == 60);
  CHECK(points[0].tokens == 60000);
  CHECK(to_json(points[0].record) == to_json(record));
}

TEST_CASE("a causal event that cannot be read names file, step and key") {
  TemporaryFolder folder;
  const RunData untested = example(folder, "a", {});
  const auto message = [&](const std::function<void(nlohmann::ordered_json&)>& spoil) {
    RunData run = untested;
    nlohmann::ordered_json json = to_json(record_of(0.9));
    spoil(json);
    run.events.push_back({60, 60000, "causal", "", json.dump()});
    return message_of([&] { causal_series(run); });
  };
  const std::string start = (folder.path() / "a" / "events.jsonl").string() + ": the causal tests of step 60: ";
  CHECK(message([](auto& json) { json.erase("source_layer"); }) == start + "key 'source_layer' is missing");
  CHECK(contains(message([](auto& json) { json["set"] = 3; }), start + "key 'set': "));
  CHECK(contains(message([](auto& json) { json["tests"] = 3; }), "key 'tests': expected an array, found number"));
  CHECK(contains(message([](auto& json) { json["tests"].clear(); }),
                 "key 'tests': expected the pass without edit first"));
  CHECK(contains(message([](auto& json) { json["tests"][1]["layer"] = nullptr; }),
                 "key 'layer': expected an integer, found null"));
  CHECK(
      contains(message([](auto& json) { json["tests"][1]["removed"]["low"] = "x"; }), "key 'low': expected a number"));
  CHECK(contains(message([](auto& json) { json["tests"][1]["removed"] = 1; }),
                 "expected an object with the key 'value', found number"));
}

TEST_CASE("the table tells the first test with a sink and the last") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {tested_run(folder), example(folder, "b", {"sweep/none", "none"})};
  CHECK(value_of(runs, "causal tests, of them with a sink") == "4, 3 (from step 40)");
  CHECK(value_of(runs, "MLP at P0 that removes most") == "layer 1: 55 % [45, 65] → layer 1: 90 % [80, 100]");
  CHECK(value_of(runs, "attention at P0 that removes most") == "layer 2: 10 % [0, 20] → layer 2: 10 % [0, 20]");
  CHECK(value_of(runs, "P0's state written elsewhere moves") == "60 % [50, 70] → 60 % [50, 70]");
  CHECK(value_of(runs, "a random direction of its norm moves") == "5 % [-5, 15] → 5 % [-5, 15]");
  CHECK(value_of(runs, "MLP at P0 that removes most", 1) == "-");

  RunData fading = tested_run(folder, "d");
  log(fading, 100, record_of(7, 7, false));
  CHECK(value_of({fading}, "MLP at P0 that removes most") == "layer 1: 55 % [45, 65] → no sink");
  RunData none = example(folder, "c", {});
  log(none, 20, record_of(7, 7, false));
  CHECK(value_of({none}, "MLP at P0 that removes most") == "no sink");
  CHECK(value_of({none}, "causal tests, of them with a sink") == "1, 0");
  log(none, 40, record_of(0.9));
  CHECK(value_of({none}, "MLP at P0 that removes most") == "layer 1: 90 % [80, 100]");
}

TEST_CASE("the reading says what the sink needs and when that began") {
  TemporaryFolder folder;
  const RunData run = tested_run(folder);
  const std::string text = sentence(run);
  CHECK(contains(
      text,
      " At its last causal test, step 80, the sink needs the MLP of layer 1: without it at position 0 90 % [80, 100] "
      "of the excess over uniform is gone; so in every test since step 60 (60 k tokens); at step 40 that was not "
      "clear."));
  CHECK(contains(
      text,
      "Position 0's state after layer 1, written to position 4, makes 60 % [50, 70] of that sink there, a random "
      "direction of its norm 5 % [-5, 15]."));
  CHECK(contains(plain_summary({run}), text));

  RunData begun = example(folder, "b", {});
  log(begun, 20, record_of(7, 7, false));
  log(begun, 40, record_of(0.9, 0.7));
  CHECK(contains(sentence(begun),
                 "is gone; it is the first test with a sink. It also needs the attention of layer 2: without it at "
                 "position 0 70 % [60, 80]"));
  log(begun, 60, record_of(0.9, 0.7));
  CHECK(contains(sentence(begun), "; so in every test since step 40 (40 k tokens), the first with a sink."));
  // A break begins anew: without a sink, and without a clear need.
  log(begun, 80, record_of(7, 7, false));
  CHECK(sentence(begun) == " At its last causal test, step 80, there was no sink to take away.");
  log(begun, 90, record_of(0.9));
  CHECK(contains(sentence(begun), "is gone; at step 80 there was no sink."));
  CHECK_FALSE(contains(sentence(begun), "since"));
}

TEST_CASE("what the intervals leave open is not claimed") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  CHECK(sentence(run).empty());
  log(run, 20, record_of(7, 7, false));
  CHECK(sentence(run) == " At its last causal test, step 20, there was no sink to take away, nor before.");
  log(run, 40, record_of(0.55));
  CHECK(contains(sentence(run),
                 "step 40, no single layer clearly carries half of the sink: the MLP of layer 1 matters most, without "
                 "it at position 0 55 % [45, 65]"));
  CausalRecord weak = record_of(0.05, 0.05);
  for (CausalTest& test : weak.tests) test.removed = around(0.05);
  for (CausalTest& test : weak.tests)
    if (test.kind == "transplant") test.moved = around(0.2);
  log(run, 60, weak);
  CHECK(
      contains(sentence(run), "step 60, no knock-out of one layer at position 0 clearly takes any of the sink away."));
  CHECK(contains(sentence(run),
                 "makes no sink there that is clearly more than that of a random direction of its norm (20 % [10, 30] "
                 "and 5 % [-5, 15] of that at 0)."));
  const std::vector<RunData> runs = {run};
  CHECK(contains(plain_summary(runs), "Causal tests edit passes over 5 sequences of natural_short_bos (T = 64)"));
  CHECK(contains(plain_summary(runs), "Intervals (95 %) are over those sequences"));
  RunData other = example(folder, "other", {"other"});
  CausalRecord short_set = record_of(0.55);
  short_set.set = "natural_short";
  log(other, 40, short_set);
  CHECK(contains(plain_summary({run, other, run}),
                 "passes over 5 sequences of natural_short_bos (T = 64) [" + run.name));
  CHECK(contains(plain_summary({run, other, run}), "]; 5 sequences of natural_short (T = 64) [other] of the model"));
}

TEST_CASE("without causal tests no row, sentence, note, chart or map speaks of them") {
  TemporaryFolder folder;
  const std::vector<RunData> runs = {example(folder, "a", {})};
  CHECK_FALSE(contains(summary_table(runs) + plain_summary(runs), "ausal"));
  const Json payload = payload_of(runs);
  CHECK_FALSE(contains(payload["charts"].dump() + payload["heatmaps"].dump(), "ausal"));
  CHECK(payload["heatmaps"].size() == 2);
}

TEST_CASE("the page has the shares over the steps with their intervals, and none where no sink was") {
  TemporaryFolder folder;
  const Json payload = payload_of({example(folder, "b", {"sweep/none", "none"}), tested_run(folder)});
  const Json& removed = by_id(payload["charts"], "causal_removed")["series"];
  REQUIRE(removed.size() == 2);
  CHECK(removed[0]["arm"] == 1);
  CHECK(removed[0]["x"] == Json::array({20, 40, 60, 80}));
  CHECK(removed[0]["y"] == Json::array({nullptr, 0.55, 0.8, 0.9}));
  CHECK(removed[0]["low"] == Json::array({nullptr, 0.45, 0.7, 0.8}));
  CHECK(removed[0]["high"] == Json::array({nullptr, 0.65, 0.9, 1}));
  CHECK(removed[1]["name"] == "attention");
  CHECK(removed[1]["y"] == Json::array({nullptr, 0.1, 0.1, 0.1}));

  const Json& moved = by_id(payload["charts"], "causal_moved");
  const auto curve = [&](int group, const std::string& name) -> Json {
    for (const Json& series : moved["series"])
      if (series["group"] == group && series["name"] == name) return series;
    return nullptr;
  };
  CHECK(curve(0, "P0's state")["y"][3] == 0.6);  // after the source layer, not the 0.9 after another
  CHECK(curve(0, "random direction")["y"][3] == 0.05);
  CHECK(curve(0, "P0's direction, small")["high"][3] == 0.4);
  CHECK(moved["groups"][1] == "isolation, first 2 layers");
  CHECK(curve(1, "isolated")["y"] == Json::array({nullptr, 0.7, 0.7, 0.7}));
  CHECK(curve(2, "isolated")["y"][3] == 0.7);  // the source layer is 1
  CHECK(curve(3, "isolated")["y"][3] == 0.8);
  // A[4,4] = 1 in 2 of 3 layers, over the uniform score of position 4 and the excess less 1.
  const Json itself = curve(1, "its own attention, at most");
  CHECK(itself["y"][3].get<double>() == Approx(2.0 / 3 / 60 / uniform_sink_scores(64, 5).back() / 2).epsilon(1e-5));
  CHECK(itself["y"][0].is_null());
  CHECK_FALSE(itself.contains("low"));

  const Json& mlp = by_id(payload["heatmaps"], "removed_mlp_map");
  REQUIRE(mlp["maps"].size() == 1);
  CHECK(mlp["maps"][0]["arm"] == 1);
  CHECK(mlp["maps"][0]["values"] ==
        Json::array({{nullptr, 0.2, 0.2, 0.2}, {nullptr, 0.55, 0.8, 0.9}, {nullptr, 0.2, 0.2, 0.2}}));
  CHECK(mlp["maps"][0]["to"] == Json::array({20, 40, 60, 80}));
  const Json& attention = by_id(payload["heatmaps"], "removed_attention_map");
  CHECK(attention["maps"][0]["values"][2][3] == 0.1);
  // One scale that holds 0..1, so that 10 % do not look like all.
  for (const Json* map : {&mlp, &attention}) {
    CHECK((*map)["low"] == 0);
    CHECK((*map)["high"] == 1);
  }
  RunData strong = example(folder, "c", {});
  log(strong, 50, record_of(1.25, -0.5));
  const Json wide = payload_of({strong});
  CHECK(by_id(wide["heatmaps"], "removed_attention_map")["high"] == 1.25);
  CHECK(by_id(wide["heatmaps"], "removed_mlp_map")["low"] == -0.5);
}

TEST_CASE("tests that never met a sink leave charts and maps out") {
  TemporaryFolder folder;
  RunData run = example(folder, "a", {});
  log(run, 20, record_of(7, 7, false));
  const Json payload = payload_of({run});
  CHECK_THROWS(by_id(payload["charts"], "causal_removed"));
  CHECK_THROWS(by_id(payload["charts"], "causal_moved"));
  CHECK(payload["heatmaps"].size() == 2);
}
