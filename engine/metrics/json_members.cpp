#include "engine/metrics/json_members.h"

#include <simdjson.h>

#include <nlohmann/json.hpp>
#include <string>

#include "engine/metrics/json_lines.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;
namespace dom = simdjson::dom;

Json to_json(const dom::element& element) {
  switch (element.type()) {
    case dom::element_type::OBJECT: {
      Json json = Json::object();
      for (const auto [key, value] : dom::object(element)) json[std::string(key)] = to_json(value);
      return json;
    }
    case dom::element_type::ARRAY: {
      Json json = Json::array();
      for (const dom::element value : dom::array(element)) json.push_back(to_json(value));
      return json;
    }
    case dom::element_type::INT64: return std::int64_t(element);
    case dom::element_type::UINT64: return std::uint64_t(element);
    case dom::element_type::DOUBLE: return double(element);
    case dom::element_type::STRING: return std::string(std::string_view(element));
    case dom::element_type::BOOL: return bool(element);
    case dom::element_type::NULL_VALUE: return nullptr;
  }
  return nullptr;
}

/// Whether `list` holds numbers alone, which are then in `numbers`.
bool read_numbers(const dom::array& list, std::vector<double>& numbers) {
  numbers.clear();
  for (const dom::element value : list) {
    double number = 0;
    if (value.get(number) != simdjson::SUCCESS) return false;
    numbers.push_back(number);
  }
  return true;
}

}  // namespace

Json read_members(std::string_view line, const ListPlace& place) {
  thread_local dom::parser parser;  // its buffers are those of the longest line
  dom::object object;
  // What this parser does not take, as numbers beyond its range, the other one does, or says what is wrong.
  if (parser.parse(line.data(), line.size()).get(object) != simdjson::SUCCESS) return parse_json(std::string(line));
  const TextOf text_of = [&](std::string_view key) {
    std::string_view text;
    return object.at_key(key).get(text) == simdjson::SUCCESS ? text : std::string_view();
  };
  Json members = Json::object();
  for (const auto [key, value] : object) {
    dom::array list;
    if (value.get(list) == simdjson::SUCCESS) {
      std::vector<double>* const numbers = place(key, text_of);
      if (numbers == nullptr || read_numbers(list, *numbers)) continue;
      numbers->clear();
    }
    members[std::string(key)] = to_json(value);
  }
  return members;
}

}  // namespace sinkscope
