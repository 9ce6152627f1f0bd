#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/json_members.h"
#include "engine/metrics/records.h"
#include "support.h"
#include "tests/catch.h"

namespace sinkscope {
namespace {

using Numbers = std::vector<double>;

/// Members and lists of a line whose lists named "drop..." nobody wants.
struct Read {
  nlohmann::ordered_json members;
  std::map<std::string, Numbers> lists;
};
Read read(const std::string& line) {
  Read result;
  result.members = read_members(line, [&](std::string_view key, const TextOf&) -> Numbers* {
    return key.starts_with("drop") ? nullptr : &result.lists[std::string(key)];
  });
  return result;
}

TEST_CASE("lists of numbers go apart, and those that nobody wants nowhere") {
  const Read line =
      read(R"( { "a" : 1 , "list" : [ 1, -2.5e-3, 0.1 , 1e300 ] , "drop" : [["]", {}], 3], "empty":[], "b" : "x" } )");
  CHECK(line.members.dump() == R"({"a":1,"b":"x"})");
  CHECK(line.lists == std::map<std::string, Numbers>{{"list", {1, -2.5e-3, 0.1, 1e300}}, {"empty", {}}});
  CHECK(read("{}").members.dump() == "{}");
}

TEST_CASE("a list that turns out not to hold numbers alone is a member") {
  const Read line = read(R"({"mixed":[1,2.5,"NaN",4],"nested":[1,[2,[3]],{"x":[4]}],"list":[5],"b":6})");
  CHECK(line.members.dump() == R"({"mixed":[1,2.5,"NaN",4],"nested":[1,[2,[3]],{"x":[4]}],"b":6})");
  CHECK(line.lists == std::map<std::string, Numbers>{{"mixed", {}}, {"nested", {}}, {"list", {5}}});
}

TEST_CASE("every other member is as the whole parser has it") {
  for (const char* text :
       {R"({"s":"\\","t":"\"b\":[","u":"\u0062\n"})", R"({"a":{"x":[1,2],"y":{"z":null}},"b":true,"c":false})",
        R"({"i":-7,"u":18446744073709551615,"d":-0.0,"z":0,"e":1e-7})",
        R"({"a":["NaN",1],"b":[[1],[2]],"c":[null]})"}) {
    INFO(text);
    CHECK(read(text).members == parse_json(text));
    CHECK(read(text).members.dump() == parse_json(text).dump());
  }
  CHECK(read("[1]").members == parse_json("[1]"));
  for (const double number : {1.0 / 3, -1e-17, 123456789.123456789, 5e-324})
    CHECK(read("{\"list\":[" + nlohmann::json(number).dump() + "]}").lists["list"] == Numbers{number});
}

TEST_CASE("lists may be chosen by the text of a member that stands before") {
  std::vector<std::string> sets;
  read_members(R"({"other":7,"first":[1],"set":"natural","second":[1]})",
               [&](std::string_view, const TextOf& text_of) -> Numbers* {
                 sets.emplace_back(text_of("set"));
                 CHECK(text_of("other").empty());
                 CHECK(text_of("absent").empty());
                 return nullptr;
               });
  CHECK(sets == std::vector<std::string>{"", "natural"});
}

TEST_CASE("what is no JSON is refused as by the whole parser") {
  for (const char* text : {"", "  ", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,}",
                           "{\"a\" 1}", "{\"a\":[1}", "{\"drop\":[1}", "{\"a\":[1,]}", "{\"a\":\"x}", "{\"a\":1}x",
                           "{\"a\":1} {\"b\":2}", "{\"a\":1}]", "{\"a\":1},", "{\"a\":}", "{a:1}", "{\"a\":{\"b\":1}",
                           "{\"a\":[nan]}", "{\"a\":[+1]}"}) {
    INFO(text);
    std::string expected, found;
    try {
      parse_json(text);
    } catch (const std::runtime_error& error) {
      expected = error.what();
    }
    try {
      read(text);
    } catch (const std::runtime_error& error) {
      found = error.what();
    }
    CHECK(!expected.empty());
    CHECK(found == expected);
  }
}

TEST_CASE("a log's line is read as whole, its lists apart") {
  const std::string line = to_line(to_json(test::example_step(3)));
  const Read apart = read(line);
  const StepRecord record = step_record_from_json(apart.members), example = test::example_step(3);
  CHECK(record.residual_norm.empty());
  CHECK(apart.lists.at("residual_norm") == example.residual_norm);
  CHECK(record.loss == example.loss);
}

}  // namespace
}  // namespace sinkscope
