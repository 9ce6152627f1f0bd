#include "engine/metrics/json_members.h"

#include <simdjson.h>

#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/metrics/json_lines.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;
namespace ondemand = simdjson::ondemand;

/// Whether `list` holds numbers alone, which are then in `numbers`. Throws simdjson_error where it is malformed.
bool read_numbers(ondemand::array list, std::vector<double>& numbers) {
  numbers.clear();
  for (ondemand::value value : list) {
    double number = 0;
    if (ondemand::json_type(value.type()) != ondemand::json_type::number || value.get(number) != simdjson::SUCCESS)
      return false;
    numbers.push_back(number);
  }
  return true;
}

Json to_json(const ondemand::number& number) {
  switch (number.get_number_type()) {
    case ondemand::number_type::signed_integer: return number.get_int64();
    case ondemand::number_type::unsigned_integer: return number.get_uint64();
    default: return number.get_double();
  }
}

/// A member that is no list.
Json to_json(ondemand::value& value) {
  switch (ondemand::json_type(value.type())) {
    case ondemand::json_type::number: return to_json(ondemand::number(value.get_number()));
    case ondemand::json_type::string: return std::string(std::string_view(value.get_string()));
    case ondemand::json_type::boolean: return bool(value.get_bool());
    case ondemand::json_type::object:
      return parse_json(std::string(std::string_view(ondemand::object(value).raw_json())));
    default: return parse_json(std::string(value.raw_json_token()));
  }
}

/// As read_members, of `line` in a buffer with room behind it. Throws simdjson_error for what it does not take.
Json read_padded(ondemand::parser& parser, simdjson::padded_string_view line, const ListPlace& place) {
  ondemand::document document = parser.iterate(line);
  std::map<std::string, std::string, std::less<>> texts;
  const TextOf find_text = [&](std::string_view key) {
    const auto found = texts.find(key);
    return found == texts.end() ? std::string_view() : std::string_view(found->second);
  };
  Json members = Json::object();
  for (auto field : document.get_object()) {
    const std::string key(std::string_view(field.unescaped_key()));
    ondemand::value value = field.value();
    if (ondemand::json_type(value.type()) == ondemand::json_type::array) {
      std::vector<double>* const numbers = place(key, find_text);
      if (numbers == nullptr) continue;
      ondemand::array list = value.get_array();
      if (read_numbers(list, *numbers)) continue;
      numbers->clear();
      members[key] = parse_json(std::string(std::string_view(list.raw_json())));
      continue;
    }
    members[key] = to_json(value);
    if (members[key].is_string()) texts[key] = members[key].get<std::string>();
  }
  if (document.current_location().error() == simdjson::SUCCESS)
    throw simdjson::simdjson_error(simdjson::TRAILING_CONTENT);
  return members;
}

}  // namespace

Json read_members(std::string_view line, const ListPlace& place) {
  // The buffers are those of the longest line of the thread.
  thread_local ondemand::parser parser;
  thread_local std::string padded;
  padded.assign(line);
  padded.append(simdjson::SIMDJSON_PADDING, ' ');
  try {
    return read_padded(parser, simdjson::padded_string_view(padded.data(), line.size(), padded.size()), place);
  } catch (const std::exception&) {
    // What this parser does not take, as numbers beyond its range, the other one does, or says what is wrong and where.
    return parse_json(std::string(line));
  }
}

}  // namespace sinkscope
