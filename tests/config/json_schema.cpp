#include "tests/config/json_schema.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <stdexcept>

namespace sinkscope::test {

namespace {

using Json = nlohmann::ordered_json;

bool has_type(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "number") return value.is_number();
  // A JSON number with a zero fraction is an integer.
  if (type == "integer") return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  throw std::runtime_error("schema: unknown type " + type);
}

class Validator {
 public:
  explicit Validator(const Json& root) : root_(root) {}

  void check(const Json& schema, const Json& value, const std::string& at) {
    for (const auto& [keyword, argument] : schema.items())
      if (!holds(keyword, argument, schema, value, at)) violations.push_back(at + ": " + keyword);
  }

  std::vector<std::string> violations;

 private:
  bool holds(const std::string& keyword, const Json& argument, const Json& schema, const Json& value,
             const std::string& at) {
    if (keyword == "$schema" || keyword == "title" || keyword == "description" || keyword == "default") return true;
    if (keyword == "type") return has_type(value, argument.get<std::string>());
    if (keyword == "enum") return std::find(argument.begin(), argument.end(), value) != argument.end();
    if (keyword == "$ref") {
      check(root_.at(Json::json_pointer(argument.get<std::string>().substr(1))), value, at);
      return true;
    }
    if (keyword == "minimum") return !value.is_number() || value.get<double>() >= argument.get<double>();
    if (keyword == "maximum") return !value.is_number() || value.get<double>() <= argument.get<double>();
    if (keyword == "exclusiveMinimum") return !value.is_number() || value.get<double>() > argument.get<double>();
    if (keyword == "exclusiveMaximum") return !value.is_number() || value.get<double>() < argument.get<double>();
    if (keyword == "minLength")
      return !value.is_string() || value.get<std::string>().size() >= argument.get<std::size_t>();
    if (keyword == "pattern")
      return !value.is_string() || std::regex_search(value.get<std::string>(),
                                                     std::regex(argument.get<std::string>(), std::regex::ECMAScript));
    if (keyword == "minItems") return !value.is_array() || value.size() >= argument.get<std::size_t>();
    if (keyword == "uniqueItems") {
      if (!value.is_array()) return true;
      for (auto item = value.begin(); item != value.end(); ++item)
        if (std::find(value.begin(), item, *item) != item) return false;
      return true;
    }
    if (keyword == "items") {
      if (value.is_array())
        for (std::size_t i = 0; i < value.size(); ++i) check(argument, value[i], at + "/" + std::to_string(i));
      return true;
    }
    if (keyword == "properties") {
      if (value.is_object())
        for (const auto& [key, item] : value.items())
          if (argument.contains(key)) check(argument.at(key), item, at + "/" + key);
      return true;
    }
    if (keyword == "additionalProperties") {
      if (!value.is_object()) return true;
      for (const auto& [key, item] : value.items()) {
        if (schema.contains("properties") && schema.at("properties").contains(key)) continue;
        if (argument == false) return false;
        check(argument, item, at + "/" + key);
      }
      return true;
    }
    if (keyword == "minProperties") return !value.is_object() || value.size() >= argument.get<std::size_t>();
    if (keyword == "propertyNames") {
      if (value.is_object())
        for (const auto& [key, item] : value.items()) check(argument, key, at + " key " + key);
      return true;
    }
    throw std::runtime_error("schema: unknown keyword " + keyword);
  }

  const Json& root_;
};

}  // namespace

std::vector<std::string> schema_violations(const Json& root, const Json& value) {
  Validator validator(root);
  validator.check(root, value, "");
  return validator.violations;
}

}  // namespace sinkscope::test
