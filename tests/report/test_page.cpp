#include <cstdlib>
#include <nlohmann/json.hpp>

#include "support.h"
#include "tests/catch.h"
#include "tests/report/markup.h"
#include "tools/report/page.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Json = nlohmann::json;

namespace {

Json payload_of(const std::string& page) {
  const std::string open = "id=\"payload\">";
  const std::size_t begin = page.find(open) + open.size();
  return Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

const Json& chart_of(const Json& payload, const std::string& id) {
  for (const Json& chart : payload["charts"])
    if (chart["id"] == id) return chart;
  throw std::runtime_error("no chart " + id);
}

std::string page_of(const TemporaryFolder& folder, const std::vector<ExampleRun>& examples) {
  write_chart_library(folder.path() / "assets");
  const AssetFolder assets(folder.path() / "assets");
  std::vector<RunData> runs;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const auto place = folder.path() / ("run" + std::to_string(i));
    write_run(place, examples[i]);
    runs.push_back(load_run(place));
  }
  write_report(runs, folder.path() / "report.html");
  return read_file(folder.path() / "report.html");
}

}  // namespace

TEST_CASE("the page draws the seeds of an arm in one colour, and tells of them together") {
  TemporaryFolder folder;
  const std::string page =
      page_of(folder, {{"s/a,seed-1", "none"}, {"s/b,seed-1"}, {"s/a,seed-2", "none", 100, 0.01, true, true, 0, 2}});
  const Json arms = payload_of(page)["arms"];
  REQUIRE(arms[0]["colour"] == 0);
  REQUIRE(arms[1]["colour"] == 1);
  REQUIRE(arms[2]["colour"] == 0);
  REQUIRE(contains(page, "<th class=\"arm arm0\">a,seed-2</th>"));
  REQUIRE(contains(page, "<h2>Arms over their seeds</h2>"));
  REQUIRE(contains(page, "<th>a</th><th>b,seed-1</th>"));
}

TEST_CASE("the page holds every curve, map and band of every arm") {
  TemporaryFolder folder;
  const std::string page = page_of(folder, {{}, {"sweep/none", "none", 100, 0.0, true, true, 0, 1}});
  const Json payload = payload_of(page);
  REQUIRE(payload["arms"].size() == 2);
  REQUIRE(payload["last_step"] == 100);
  REQUIRE(payload["arms"][0]["onset"] == 50);
  REQUIRE(payload["arms"][1]["onset"].is_null());
  REQUIRE(payload["arms"][1]["colour"] == 1);
  REQUIRE(contains(page, "<h3>bos → none (data.bos), one seed: 1</h3>"));
  REQUIRE(contains(page, "<th>sink excess P0</th><td>2.000</td><td>1.000</td><td>-1.000</td><td>none: one seed</td>"));
  REQUIRE(payload["arms"][0]["phases"][1]["phase"] == "transition");
  REQUIRE(payload["arms"][0]["low_rate"][0]["from"] == 91);
  for (const char* id : {"excess", "score", "rate"}) {
    const Json chart = chart_of(payload, id);
    REQUIRE(chart["groups"] == Json::array({"P0", "P1", "P2", "P3"}));
    REQUIRE(chart["series"].size() == 8);
  }
  REQUIRE(chart_of(payload, "excess")["lines"] == Json::array({1.5}));
  REQUIRE(chart_of(payload, "excess")["series"][0]["x"][0] == 5);
  REQUIRE(chart_of(payload, "excess")["series"][0]["y"][0] == 1.05);
  // Per arm and kind of target: each step, its mean, validation.
  REQUIRE(chart_of(payload, "loss")["series"].size() == 12);
  REQUIRE(contains(chart_of(payload, "loss")["note"],
                   "Curves are the training loss: the bold one its mean over about a fiftieth"));
  REQUIRE(chart_of(payload, "layers")["series"].size() == 6);
  REQUIRE(chart_of(payload, "layers")["series"][0]["y"] == Json::array({20, 40}));
  REQUIRE(chart_of(payload, "ratio")["series"].size() == 2);
  REQUIRE(chart_of(payload, "value")["series"].size() == 2);
  REQUIRE(chart_of(payload, "sets")["groups"].size() == 3);
  REQUIRE(chart_of(payload, "optimization")["series"].size() == 6);
  REQUIRE(payload["events"] == Json::parse(R"([{"step": 60, "arm": 0, "kind": "phase", "message": "sink phase"}])"));
  REQUIRE(payload["heatmaps"].size() == 2);
  for (const Json& heatmap : payload["heatmaps"]) {
    REQUIRE(heatmap["maps"].size() == 2);
    REQUIRE(heatmap["maps"][0]["values"].size() == 2);
    REQUIRE(heatmap["maps"][0]["values"][0].size() == heatmap["maps"][0]["from"].size());
  }
  REQUIRE(payload["heatmaps"][1]["high"] == 4);
  for (const char* text :
       {"3.990 → 3.020", "Settings that differ", "data.bos", "May the arms be compared?", "formed at step 50"})
    REQUIRE(contains(page, text));
  REQUIRE_FALSE(std::filesystem::exists(folder.path() / "report.html.partial"));
}

TEST_CASE("the page loads nothing") {
  TemporaryFolder folder;
  const std::string page = page_of(folder, {{}});
  for (const char* load : {"src=", "href=", "url(", "@import", "http://", "https://", "fetch(", "XMLHttpRequest"})
    REQUIRE_FALSE(contains(page, load));
  REQUIRE(contains(page, "default-src 'none'"));
}

TEST_CASE("the events are the last of all runs, the newest first") {
  TemporaryFolder folder;
  std::vector<RunData> runs = {example(folder, "a", {}),
                               example(folder, "b", {"sweep/b", "none", 100, 0.0, true, true, 0, 1})};
  for (int i = 0; i < 300; ++i)
    runs[1].events.push_back({100 + i / 2, 0, "warning", std::string(1000, 'x') + std::to_string(i), "{}"});
  const Json list = Json::parse(page_payload(runs, summarize(runs)))["events"];
  REQUIRE(list.size() == 200);
  REQUIRE(list[0]["step"] == 249);
  REQUIRE(list[199]["step"] == 150);
  REQUIRE(list[0]["arm"] == 1);
  REQUIRE(list[0]["message"] == std::string(400, 'x'));
}

TEST_CASE("names cannot break out of the page") {
  TemporaryFolder folder;
  const std::string name = "x</script><script>alert(1)</script>\"'&{{payload}}<!--";
  const std::string page = page_of(folder, {{name, "none", 30, 0.0, true, true, 0, 1}});
  REQUIRE_FALSE(contains(page, "alert(1)</script>"));
  REQUIRE_FALSE(contains(page, "<script>alert"));
  // data, library, maps, export, page.
  REQUIRE(count_of(page, "<script") == 5);
  REQUIRE(count_of(page, "</script>") == 5);
  REQUIRE(count_of(page, "<!--") == 1);
  REQUIRE(payload_of(page)["arms"][0]["label"] == name.substr(name.find('/') + 1).insert(0, "x</"));
}

TEST_CASE("runs without probes, with NaN losses, one arm or eight make a page") {
  TemporaryFolder folder;
  SECTION("probes off") {
    const Json payload = payload_of(page_of(folder, {{"off", "none", 20, 0.0, false, false, 0, 1}}));
    REQUIRE(payload["heatmaps"].empty());
    REQUIRE(chart_of(payload, "loss")["series"].size() == 4);
    REQUIRE_THROWS(chart_of(payload, "score"));
  }
  SECTION("training batches only") {
    const Json payload = payload_of(page_of(folder, {{"batches", "none", 20, 0.0, false, true, 0, 1}}));
    REQUIRE(chart_of(payload, "score")["series"].size() == 4);
    REQUIRE(payload["heatmaps"].size() == 2);
    REQUIRE_THROWS(chart_of(payload, "excess"));
  }
  SECTION("a NaN loss is a gap") {
    const Json payload = payload_of(page_of(folder, {{"bad", "none", 20, 0.0, true, true, 7, 1}}));
    REQUIRE(chart_of(payload, "loss")["series"][0]["y"][6].is_null());
    REQUIRE_FALSE(chart_of(payload, "loss")["series"][0]["y"][5].is_null());
  }
  SECTION("a run that has just started") {
    const Json payload = payload_of(page_of(folder, {{"new", "none", 0, 0.0, true, true, 0, 1}}));
    REQUIRE(payload["charts"].empty());
  }
  SECTION("eight arms") {
    std::vector<ExampleRun> runs;
    for (int i = 0; i < 8; ++i)
      runs.push_back({std::string("arm").append(std::to_string(i)), "none", 20 + i, 0.0, true, true, 0, i});
    REQUIRE(payload_of(page_of(folder, runs))["arms"].size() == 8);
  }
}

TEST_CASE("without the chart library the error says how to get it, and an old page stays") {
  TemporaryFolder folder;
  write_run(folder.path() / "a", {});
  const std::vector<RunData> runs = {load_run(folder.path() / "a")};
  const std::string old = "<!doctype html>\n<meta name=\"generator\" content=\"sinkscope report\">";
  write_file(folder.path() / "report.html", old);
  {
    const AssetFolder assets(folder.path() / "nothing");
    REQUIRE(contains(message_of([&] { write_report(runs, folder.path() / "report.html"); }), "scripts/fetch_assets"));
  }
  REQUIRE(read_file(folder.path() / "report.html") == old);
  write_chart_library(folder.path() / "assets");
  const AssetFolder assets(folder.path() / "assets");
  REQUIRE(contains(message_of([&] { write_report(runs, folder.path() / "missing" / "r.html"); }), "missing"));
  write_file(folder.path() / "assets" / "uplot" / "uPlot.iife.min.js", "'</script>'");
  REQUIRE(contains(message_of([&] { write_report(runs, folder.path() / "report.html"); }), "cannot be embedded"));
  REQUIRE_THROWS(write_report({}, folder.path() / "report.html"));
}

TEST_CASE("the page's scripts select, align and colour") {
  if (std::system("node --version > /dev/null 2>&1") != 0) {
    WARN("node is not installed: the page's scripts are not run");
    return;
  }
  TemporaryFolder folder;
  const std::string report = SINKSCOPE_SOURCE_DIR "/tools/report/";
  write_file(folder.path() / "run.js",
             "for (const name of ['heatmap', 'export', 'page']) require('" + report + "' + name + '.js');" + R"(
const assert = require('assert'), page = globalThis.SinkscopePage, heat = globalThis.SinkscopeHeatmap;
const series = [{arm: 0, group: 0, x: [1, 2, 4], y: [5, null, 7]}, {arm: 1, group: 0, x: [2, 3], y: [8, 9]},
                {arm: 0, group: 1, x: [1], y: [1]}];
const picked = page.select({series}, 0, [true, true]);
assert.equal(picked.length, 2);
assert.equal(page.select({series}, 0, [false, true]).length, 1);
const u = undefined;
assert.deepStrictEqual(page.align(picked), [[1, 2, 3, 4], [5, null, u, 7], [u, 8, 9, u]]);
assert.equal(page.nearest([u, 8, null, u, 9], 0), 1);
assert.deepStrictEqual(page.intervals({x: [1, 2, 3], y: [5, null, 7], low: [4, null, 6], high: [6, null, 9]}),
    [[1, 4, 6], [3, 6, 9]]);
assert.deepStrictEqual(page.intervals(series[0]), []);
assert.equal(page.nearest([u, null], 0), null);
assert.equal(page.format(null), '-');
assert.equal(page.format(0.123456), '0.1235');
assert.deepStrictEqual(page.usable([[0, 1], [0, 2]], true), [[0, 1], [null, 2]]);
assert.equal(heat.fraction(10, 1, 100, true), 0.5);
assert.equal(heat.fraction(null, 0, 1, false), null);
assert.equal(heat.fraction(3, 3, 3, false), 0.5);
assert.equal(heat.colour(0), 'rgb(68,1,84)');
assert.equal(heat.colour(1), 'rgb(253,231,37)');
const map = {from: [0, 50], to: [50, 100], values: [[1, 2], [3, 4]]};
assert.equal(heat.cell(map, 100, 75, 5, 100, 20).value, 4);
assert.equal(heat.cell(map, 100, 25, 15, 100, 20).value, 1);
assert.equal(heat.cell(map, 200, 75, 5, 100, 20), null);
assert.deepStrictEqual(page.logTicks(2.7, 4), [2.8, 3, 3.2, 3.4, 3.6, 3.8, 4]);
assert.deepStrictEqual(page.logTicks(0.5, 60), [0.5, 1, 2, 5, 10, 20, 50]);
assert.deepStrictEqual(page.logTicks(1e-3, 1e3), [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]);
const out = globalThis.SinkscopeExport;
assert.equal(out.csv(['a', 'b,c'], [[1, null], [u, '=x"y']]), 'a,"b,c"\r\n1,\r\n,"\'=x""y"\r\n');
assert.equal(out.csv(['-1'], [[-1]]), "'-1\r\n-1\r\n");
assert.deepStrictEqual(out.columnsToRows([[1, 2], [3, u]]), [[1, 3], [2, u]]);
assert.deepStrictEqual(out.mapRows([{arm: 1, from: [0], to: [5], values: [[7], [8]]}], [{label: 'x'}, {label: 'y'}]),
                       [['y', 0, 5, 0, 7], ['y', 0, 5, 1, 8]]);
)");
  REQUIRE(std::system(("node '" + (folder.path() / "run.js").string() + "'").c_str()) == 0);
}
