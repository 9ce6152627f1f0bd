#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/records.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using test::contains;
using test::message_of;
using Json = nlohmann::ordered_json;

namespace {
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class Record>
Json through_text(const Record& record) {
  return Json::parse(to_line(to_json(record)));
}
}  // namespace

TEST_CASE("a step record comes back bit for bit") {
  const StepRecord record = test::example_step(3);
  const StepRecord read = step_record_from_json(through_text(record));
  CHECK(read.step == 3);
  CHECK(read.tokens == 3 * 1024);
  CHECK(read.loss == record.loss);
  CHECK(read.loss_common == record.loss_common);
  CHECK(read.validation_loss == record.validation_loss);
  CHECK(read.validation_loss_common == record.validation_loss_common);
  CHECK(read.learning_rate == record.learning_rate);
  CHECK(read.gradient_norm == record.gradient_norm);
  CHECK(read.step_seconds == record.step_seconds);
  CHECK(read.tokens_per_second == record.tokens_per_second);
  CHECK(read.mfu == record.mfu);
  CHECK(read.sink_score == record.sink_score);
  CHECK(read.sink_rate == record.sink_rate);
  CHECK(read.sink_score_layer == record.sink_score_layer);
  CHECK(read.residual_norm == record.residual_norm);
  CHECK(read.residual_norm_rest == record.residual_norm_rest);
  CHECK(read.norm_ratio == record.norm_ratio);
  CHECK(read.gradient_norm_attention == record.gradient_norm_attention);
  CHECK(read.gradient_norm_mlp == record.gradient_norm_mlp);
  CHECK(read.entropy == record.entropy);
  CHECK(read.key_mass == record.key_mass);
  // No field is forgotten: 11 numbers and 10 lists.
  CHECK(through_text(record).size() == 21);
}

TEST_CASE("norms of a step keep all bits of a double") {
  StepRecord record;
  record.residual_norm = {1.0 / 3.0, 1e-320, 1e300};
  CHECK(step_record_from_json(through_text(record)).residual_norm == record.residual_norm);
}

TEST_CASE("a probe record comes back, its vectors to the precision of float") {
  const ProbeRecord record = test::example_probe(40, "natural_bos");
  const Json json = through_text(record);
  CHECK(json.size() == 48);
  const ProbeRecord read = probe_record_from_json(json);
  // Writing what was read gives the same text: every field was read, and rounding settles at once.
  CHECK(to_line(to_json(read)) == to_line(to_json(record)));
  CHECK(read.loss == record.loss);
  CHECK(read.with_bos);
  CHECK(read.massive_channel == record.massive_channel);
  CHECK(read.step_up_layer == record.step_up_layer);
  CHECK(read.phase == record.phase);
  CHECK(read.excess_slope == record.excess_slope);
  CHECK(read.validation_loss_slope == record.validation_loss_slope);
  REQUIRE(read.sink_score.size() == record.sink_score.size());
  for (std::size_t i = 0; i < read.sink_score.size(); ++i) {
    CHECK(static_cast<float>(read.sink_score[i]) == static_cast<float>(record.sink_score[i]));
  }
}

TEST_CASE("statistics are written with the shortest digits of a float") {
  ProbeRecord record;
  record.sink_rate = {static_cast<double>(0.1F), 1.0 / 3.0, 0.0, 1e-60, 1e200, -static_cast<double>(2.5e-7F)};
  CHECK(to_json(record)["sink_rate"].dump() == "[0.1,0.33333334,0.0,1e-60,1e+200,-2.5e-07]");
}

TEST_CASE("numbers that are not finite are strings, and come back") {
  StepRecord record;
  record.loss = kNaN;
  record.gradient_norm = kInfinity;
  record.validation_loss = -kInfinity;
  record.sink_score = {0.5, kNaN, kInfinity};
  const Json json = through_text(record);
  CHECK(json["loss"] == "NaN");
  CHECK(json["gradient_norm"] == "Infinity");
  CHECK(json["validation_loss"] == "-Infinity");
  const StepRecord read = step_record_from_json(json);
  CHECK(std::isnan(read.loss));
  CHECK(read.gradient_norm == kInfinity);
  CHECK(read.validation_loss.value() == -kInfinity);
  REQUIRE(read.sink_score.size() == 3);
  CHECK(read.sink_score[0] == 0.5);
  CHECK(std::isnan(read.sink_score[1]));
  CHECK(read.sink_score[2] == kInfinity);

  ProbeRecord probe;
  probe.norm_ratio = {-kInfinity, kNaN};
  const ProbeRecord probe_read = probe_record_from_json(through_text(probe));
  CHECK(probe_read.norm_ratio.at(0) == -kInfinity);
  CHECK(std::isnan(probe_read.norm_ratio.at(1)));
}

TEST_CASE("what is absent is left out") {
  const Json step = through_text(StepRecord{});
  CHECK_FALSE(step.contains("validation_loss"));
  CHECK_FALSE(step.contains("mfu"));
  CHECK_FALSE(step.contains("sink_score"));
  CHECK_FALSE(step.contains("entropy"));
  CHECK_FALSE(step.contains("key_mass"));
  CHECK(step_record_from_json(step).key_mass.empty());
  CHECK_FALSE(step_record_from_json(step).validation_loss.has_value());
  const Json probe = through_text(ProbeRecord{});
  CHECK_FALSE(probe.contains("step_up_layer"));
  CHECK_FALSE(probe.contains("phase"));
  CHECK_FALSE(probe.contains("validation_loss_slope"));
  CHECK_FALSE(probe.contains("key_mass"));
  CHECK_FALSE(probe.contains("sink_logit_mass"));
  CHECK_FALSE(probe_record_from_json(probe).step_up_layer.has_value());
  CHECK_FALSE(through_text(EventRecord{}).contains("data"));
}

TEST_CASE("an event carries its details as an object") {
  EventRecord record{7, 700, "phase", "wandering -> transition \"now\"\n", R"({"excess":2.5,"window":[1,2]})"};
  const Json json = through_text(record);
  CHECK(json["data"]["excess"] == 2.5);
  const EventRecord read = event_record_from_json(json);
  CHECK(read.step == 7);
  CHECK(read.tokens == 700);
  CHECK(read.kind == "phase");
  CHECK(read.message == record.message);
  CHECK(read.data == record.data);
  CHECK(event_record_from_json(through_text(EventRecord{1, 2, "start", "", "{}"})).data == "{}");

  record.data = "[1]";
  CHECK(contains(message_of([&] { to_json(record); }), "'data'"));
  record.data = R"({"excess": nan})";
  CHECK(contains(message_of([&] { to_json(record); }), "'phase'"));
  record.data = std::string(100, '[') + std::string(100, ']');
  CHECK(contains(message_of([&] { to_json(record); }), "nested deeper than 64"));
}

TEST_CASE("text that is not UTF-8 still makes a valid line") {
  const EventRecord record{1, 1, "sample", std::string("caf\xc3\xa9 \xff\xc3"), "{}"};
  const EventRecord read = event_record_from_json(through_text(record));
  CHECK(read.message == "caf\xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a wrong record names the key") {
  const auto error_after = [](const std::string& key, const Json& value) {
    Json json = to_json(test::example_step(1));
    json[key] = value;
    return message_of([&] { step_record_from_json(json); });
  };
  CHECK(error_after("loss", 1.0).empty());
  CHECK(contains(error_after("loss", "nan"), "'loss'"));
  CHECK(contains(error_after("loss", nullptr), "'loss'"));
  CHECK(contains(error_after("step", 1.5), "'step'"));
  CHECK(contains(error_after("tokens", 18446744073709551615ULL), "'tokens'"));
  CHECK(contains(error_after("validation_loss", true), "'validation_loss'"));
  CHECK(contains(error_after("sink_score", 0.5), "'sink_score'"));
  CHECK(contains(error_after("sink_score", Json::array({0.5, "x"})), "'sink_score'"));

  Json json = to_json(test::example_step(1));
  json.erase("learning_rate");
  CHECK(message_of([&] { step_record_from_json(json); }) == "key 'learning_rate' is missing");
  json = to_json(test::example_probe(1));
  json["with_bos"] = 1;
  CHECK(contains(message_of([&] { probe_record_from_json(json); }), "'with_bos'"));
  json = to_json(test::example_probe(1));
  json["massive_position"] = Json::array({1.0});
  CHECK(contains(message_of([&] { probe_record_from_json(json); }), "'massive_position'"));
  CHECK(contains(message_of([] { event_record_from_json(Json::array()); }), "object"));
  CHECK(contains(message_of([] { event_record_from_json(Json{{"step", 1}, {"tokens", 1}, {"kind", 4}}); }), "'kind'"));
}

TEST_CASE("a record of a later version is read") {
  Json json = to_json(test::example_step(1));
  json["something_new"] = 1;
  CHECK(step_record_from_json(json).step == 1);
}
