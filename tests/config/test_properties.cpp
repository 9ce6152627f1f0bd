// Properties over random input: dumps read back equal, and mutated text is refused, never fatal.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>

#include "engine/config/load.h"
#include "engine/config/spec.h"
#include "tests/catch.h"
#include "tests/config/json_schema.h"

using namespace sinkscope;

namespace {

using Random = std::mt19937_64;

std::int64_t between(Random& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

template <class List>
const auto& any_of(const List& list, Random& random) {
  return list[static_cast<std::size_t>(between(random, 0, static_cast<std::int64_t>(std::size(list)) - 1))];
}

Json random_value(const FieldSpec& spec, Random& random) {
  switch (spec.kind) {
    case FieldKind::integer: {
      // Small enough that cross-field checks often pass.
      const std::int64_t high = std::min<std::int64_t>(spec.integers.maximum, spec.integers.minimum + 200);
      return between(random, spec.integers.minimum, high);
    }
    case FieldKind::number: {
      const double high = std::min(spec.numbers.maximum, spec.numbers.minimum + 100);
      const double value = std::uniform_real_distribution<double>(spec.numbers.minimum, high)(random);
      return value > spec.numbers.minimum ? value : (spec.numbers.minimum + high) / 2;
    }
    case FieldKind::boolean: return between(random, 0, 1) == 1;
    case FieldKind::choice: return any_of(spec.choices, random);
    case FieldKind::choice_list: {
      Json list = Json::array();
      for (const std::string& choice : spec.choices)
        if (list.empty() || between(random, 0, 1) == 1) list.push_back(choice);
      return list;
    }
    case FieldKind::text:
      return spec.text.form == TextForm::any ? "quote \" tab \t \xc3\xa9 \xf0\x9f\x8e\x89"
                                             : "part_" + std::to_string(between(random, 0, 99));
    case FieldKind::text_list: return Json::array();
    case FieldKind::axes:
      return Json{{"train.seed", {1, between(random, 2, 9)}},
                  {"model.rope_theta", {1e4, 2.5e5}},
                  {"context", {{{"train.micro_batch", between(random, 1, 9)}, {"train.steps", 300}}}}};
    case FieldKind::section: {
      Json object = Json::object();
      for (const FieldSpec& child : spec.children)
        if (child.kind == FieldKind::section || between(random, 0, 3) == 0)
          object[child.key] = random_value(child, random);
      return object;
    }
  }
  return nullptr;
}

}  // namespace

TEST_CASE("what a config dumps reads back as the same config") {
  Random random(11);
  const Json schema = config_schema();
  int valid = 0;
  for (int i = 0; i < 3000 && valid < 300; ++i) {
    const Json tree = random_value(config_spec(), random);
    REQUIRE(test::schema_violations(schema, tree) == std::vector<std::string>{});
    Config config;
    try {
      config = parse_config(tree.dump(), "random");
    } catch (const ConfigError&) {
      continue;  // fields that do not go together
    }
    ++valid;
    const std::string dumped = to_json(config).dump();
    INFO(dumped);
    const Config again = parse_config(dumped, "dump");
    CHECK(to_json(again).dump() == dumped);
    // What the file named is what the config holds.
    for (const FieldSpec* leaf : leaf_specs()) {
      std::string pointer = "/" + leaf->path;
      for (char& c : pointer)
        if (c == '.') c = '/';
      const Json::json_pointer place(pointer);
      if (leaf->kind == FieldKind::axes || !tree.contains(place)) continue;
      const Json named = tree.at(place);
      if (named == 0 && leaf->path.starts_with("model.")) continue;  // 0 asks for a derived size
      CHECK(to_json(config).at(place) == named);
    }
  }
  CHECK(valid == 300);
}

TEST_CASE("mutated text is refused with a message, never fatal") {
  Random random(12);
  const std::string seeds[] = {
      to_json(Config{}).dump(), to_json(Config{}).dump(2),
      R"({"name":"a","model":{"preset":"qwen3","layers":4},"ablation":{"data.bos":["none","sequence"]}})"};
  const std::string fragments[] = {"{", "}", "[", "]", ",", ":", "\"", "\\", "\\u0000", "\\ud800", "null", "true", "-1",
                                   "1e999", "NaN", "99999999999999999999", "0.5", "\xff", std::string(1, '\0'),
                                   "\"model\":", "\"ablation\":{\"model.layers\":[1]},", "[[[[[[[[[[[[[[[["};
  int refused = 0;
  for (int i = 0; i < 6000; ++i) {
    std::string text = seeds[static_cast<std::size_t>(i) % std::size(seeds)];
    for (std::int64_t edits = between(random, 1, 4); edits > 0; --edits) {
      const auto place = static_cast<std::size_t>(between(random, 0, static_cast<std::int64_t>(text.size())));
      switch (between(random, 0, 3)) {
        case 0: text.insert(place, any_of(fragments, random)); break;
        case 1: text.erase(place, static_cast<std::size_t>(between(random, 1, 12))); break;
        case 2: if (place < text.size()) text[place] = static_cast<char>(between(random, 0, 255)); break;
        default: text.insert(place, text.substr(place / 2, 9)); break;
      }
    }
    try {
      const Config config = parse_config(text, "fuzz");
      if (!config.ablation.empty()) static_cast<void>(expand_ablation(config));
    } catch (const std::runtime_error& error) {
      ++refused;
      if (std::string(error.what()).empty()) FAIL("an empty message for " << text);
    }  // anything else fails the test
    try {
      static_cast<void>(parse_config("{}", "fuzz", std::vector<std::string>{text.substr(text.size() / 2)}));
    } catch (const std::runtime_error&) {
    }
  }
  CHECK(refused > 3000);
}
