#include <nlohmann/json.hpp>
#include <string>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/json_members.h"
#include "engine/metrics/records.h"
#include "support.h"
#include "tests/catch.h"

namespace sinkscope {
namespace {

std::string without(const std::string& line, const std::string& dropped) {
  return keep_members(line, [&](std::string_view key, std::string_view) { return key != dropped; });
}

TEST_CASE("members are kept and dropped as they are written") {
  CHECK(without(R"({"a":1,"b":[1,2.5e3,-3],"c":"x"})", "b") == R"({"a":1,"c":"x"})");
  CHECK(without(R"({"a":1,"b":2})", "a") == R"({"b":2})");
  CHECK(without(R"({"a":1})", "a") == "{}");
  CHECK(without("{}", "a") == "{}");
  CHECK(without(R"( { "a" : 1 , "b" : [ ] } )", "a") == R"({"b" : [ ]})");
  CHECK(without(R"({"b":[["]",{"c":"}\"]"}],3],"a":true})", "b") == R"({"a":true})");
  CHECK(without(R"({"b":["NaN",1,"a]b"],"a":null})", "b") == R"({"a":null})");
  CHECK(without(R"({"s":"\\","b":{"x":[1]},"t":"\"b\":"})", "b") == R"({"s":"\\","t":"\"b\":"})");
  CHECK(without(R"({"\u0062":1,"a":2})", "b") == R"({"\u0062":1,"a":2})");  // not decoded, so not dropped
}

TEST_CASE("the value tells as well") {
  const auto only_true = [](std::string_view, std::string_view value) { return value == "true"; };
  CHECK(keep_members(R"({"a":true,"b":false,"c":[true]})", only_true) == R"({"a":true})");
}

TEST_CASE("what is no object comes back whole") {
  for (const char* text : {"", "  ", "[1]", "7", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,}", "{\"a\" 1}",
                           "{\"a\":[1}", "{\"a\":\"x}", "{\"a\":1}x", "{\"a\":}", "{a:1}", "{\"a\":{\"b\":1}"})
    CHECK(without(text, "a") == text);
}

TEST_CASE("a list of numbers is read as JSON reads it, and nothing else is") {
  using Numbers = std::vector<double>;
  CHECK(number_list("[]").value() == Numbers{});
  CHECK(number_list(" [ ] ").value() == Numbers{});
  CHECK(number_list("[1,-2.5e-3 , 0.1,1e300]").value() == Numbers{1, -2.5e-3, 0.1, 1e300});
  for (const double number : {1.0 / 3, -1e-17, 123456789.123456789, 5e-324, 0.0})
    CHECK(number_list("[" + nlohmann::json(number).dump() + "]").value() == Numbers{number});
  for (const char* text : {"", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1]x", "1", "{}", "[\"NaN\"]", "[1,\"NaN\"]", "[nan]", "[-inf]", "[[1]]",
                           "[null]", "[1,true]", "[1e999]", "[+1]", "[.5]", "[-]"})
    CHECK(!number_list(text));
}

TEST_CASE("a log's line reads the same with every member kept, and short of one list without it") {
  const std::string line = to_line(to_json(test::example_step(3)));
  const auto all = [](std::string_view, std::string_view) { return true; };
  CHECK(keep_members(line, all) + "\n" == line);
  const StepRecord record = step_record_from_json(parse_json(without(line, "residual_norm")));
  CHECK(record.residual_norm.empty());
  CHECK(record.residual_norm_rest == test::example_step(3).residual_norm_rest);
  CHECK(record.loss == test::example_step(3).loss);
}

}  // namespace
}  // namespace sinkscope
