// What the server answers to, and the state that it gives.
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/catch.h"
#include "tests/report/support.h"
#include "tools/watch/live_state.h"
#include "tools/watch/server.h"

namespace sinkscope {
namespace {

using test::contains;
using test::TemporaryFolder;
using Json = nlohmann::json;

constexpr std::int64_t kWhole = std::numeric_limits<std::int64_t>::max();

TEST_CASE("a Host header is this machine's name, with or without a port, and no other") {
  for (const char* host :
       {"localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:65535", "localhost:"})
    CHECK(is_local_host_header(host));
  for (const char* host : {"", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
                           "localhost:80@evil", "::1", "[::1", "[::1]x", "[::2]", ":80", "localhost:8x",
                           "127.0.0.2.example", "a localhost"})
    CHECK_FALSE(is_local_host_header(host));
  // The address that it listens on, where that is this machine's alone.
  CHECK(is_local_host_header("127.0.0.2:8000", "127.0.0.2"));
  CHECK_FALSE(is_local_host_header("127.0.0.3", "127.0.0.2"));
  CHECK_FALSE(is_local_host_header("192.168.1.2", "192.168.1.2"));
}

TEST_CASE("a state has a new name when, and only when, the runs have something new") {
  const TemporaryFolder folder;
  const auto place = folder / "bos";
  LiveState state({place.string()});
  CHECK(state.look(kWhole));
  const auto waiting = state.snapshot();
  Json json = Json::parse(waiting->data);
  CHECK(json["status"] == "bos: not there yet");
  CHECK(json["payload"]["charts"].empty());
  CHECK(json["payload"]["arms"].size() == 1);
  state.look(kWhole);
  CHECK(state.snapshot()->tag == waiting->tag);

  test::write_run(place, {});
  state.look(kWhole);
  std::shared_ptr<const Snapshot> full;
  do full = state.snapshot(); while (full->tag == waiting->tag);  // one is kept for a moment
  json = Json::parse(full->data);
  CHECK(json["title"] == "sweep/bos");
  CHECK(contains(json["status"].get<std::string>(), "no process trains here, step 100"));
  CHECK(json["problem"] == false);
  CHECK(json["payload"]["last_step"] == 100);
  CHECK(contains(json["parts"]["summary"].get<std::string>(), "<table>"));
  REQUIRE(json["payload"]["events"].size() == 1);
  CHECK(json["payload"]["events"][0]["kind"] == "phase");
  CHECK(json["payload"]["events"][0]["message"] == "sink phase");
  CHECK(json["payload"]["events"][0]["arm"] == 0);

  LiveState other({place.string()});
  other.look(kWhole);
  CHECK(other.snapshot()->data == full->data);
  CHECK(other.snapshot()->tag != full->tag);  // of another server
}

/// A state of what is known now; one is kept for a moment.
std::shared_ptr<const Snapshot> newer_than(LiveState& state, const std::shared_ptr<const Snapshot>& shown) {
  while (true)
    if (const auto snapshot = state.snapshot(); !shown || snapshot->tag != shown->tag) return snapshot;
}

TEST_CASE(
    "a sampled run is shown from its first step to its last, without what a sample does not tell, then as it is") {
  const TemporaryFolder folder;
  const auto place = folder / "run";
  test::write_run(place, {"run", "sequence", 400, 0.03, true, true, 0, 1});
  const std::vector<std::string> names = {place.string()};
  LiveState plain(names, {});
  while (!plain.look(3000)) {}
  const auto exact = plain.snapshot();
  CHECK(Json::parse(exact->data)["payload"]["arms"][0]["phases"].size() == 2);
  CHECK(Json::parse(exact->data)["payload"]["arms"][0]["onset"].is_number());

  LiveState state(names, {.steps = 20, .passes = 10, .least = 4000});
  CHECK_FALSE(state.look(3000));
  const auto coarse = state.snapshot();
  const Json json = Json::parse(coarse->data);
  // There are enough passes in the sample that an onset could be told from it.
  for (const Json& chart : json["payload"]["charts"])
    if (chart["id"] == "excess") CHECK(chart["series"][0]["x"].size() >= 6);
  CHECK(contains(json["status"].get<std::string>(), "run: a coarse first look; reading its logs, "));
  CHECK(json["payload"]["last_step"] == 400);
  CHECK(json["payload"]["arms"][0]["phases"].empty());
  CHECK(json["payload"]["arms"][0]["onset"].is_null());
  CHECK(json["payload"]["arms"][0]["low_rate"].empty());
  CHECK(json["payload"]["events"].size() == 1);  // that log is short
  for (const Json& chart : json["payload"]["charts"])
    for (const Json& series : chart["series"])
      if (chart["x"] == "step" && series["style"] != "points") CHECK(series["x"].back() == 400);
  for (const Json& map : json["payload"]["heatmaps"]) CHECK(map["maps"][0]["to"].back() == 400);
  CHECK(contains(json["parts"]["reading"].get<std::string>(), "A first look"));
  for (const auto& [name, html] : json["parts"].items()) CHECK_FALSE(contains(html.get<std::string>(), "<table>"));
  CHECK(json["parts"]["notes"] == "");

  // While it is read a page that shows the sample is told how far reading is, and no more.
  state.look(3000);
  const auto later = newer_than(state, coarse);
  const Json status = Json::parse(later->beside(coarse->tag));
  CHECK(status["status"] != json["status"]);
  CHECK_FALSE(status.contains("payload"));
  CHECK(Json::parse(later->data)["payload"] == json["payload"]);
  CHECK(later->beside("") == later->data);

  while (!state.look(3000)) {}
  const auto last = newer_than(state, later);
  CHECK(last->data == exact->data);
  CHECK(last->beside(coarse->tag) == last->data);
  CHECK(last->beside(exact->tag) == last->data);  // of another server
}

TEST_CASE("a state says that a run ended on what is not finite, where, and why") {
  TemporaryFolder folder;
  const auto place = folder / "bos";
  test::write_run(place, {});
  LiveState state({place.string()});
  state.look(kWhole);
  const auto before = state.snapshot();
  const std::string event = R"({"step":101,"tokens":101000,"kind":"alert","message":"the loss is not finite",)"
                            R"("data":{"name":"non_finite"}})";
  test::write_file(place / "events.jsonl", test::read_file(place / "events.jsonl") + event + "\n");
  state.look(kWhole);
  const Json json = Json::parse(newer_than(state, before)->data);
  CHECK(json["status"] == "sweep/bos: ended in step 101: the loss is not finite");
}

TEST_CASE("names and messages cannot break out of what the page puts in place") {
  const TemporaryFolder folder;
  test::write_run(folder / "a", {"x<img src=x onerror=alert(1)>", "none", 30, 0.0, true, true, 0, 1});
  LiveState state({(folder / "a").string()});
  state.look(kWhole);
  const Json json = Json::parse(state.snapshot()->data);
  for (const auto& [name, html] : json["parts"].items()) CHECK_FALSE(contains(html.get<std::string>(), "<img"));
  CHECK(contains(json["parts"]["summary"].get<std::string>(), "&lt;img"));
}

TEST_CASE("the served page asks its server, and no other, and holds no state of its own") {
  const TemporaryFolder folder;
  test::write_chart_library(folder / "assets");
  const test::AssetFolder assets(folder / "assets");
  test::write_run(folder / "a", {});
  LiveState state({(folder / "a").string()});
  state.look(kWhole);
  const std::string page = state.page();
  CHECK(contains(page, "connect-src 'self'"));
  CHECK(contains(page, "fetch(\"data\""));
  CHECK(contains(page, "\"arms\":[]"));
  for (const char* load : {"src=", "href=", "@import", "http://", "https://"}) CHECK_FALSE(contains(page, load));
}

}  // namespace
}  // namespace sinkscope
