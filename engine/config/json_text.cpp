#include "engine/config/json_text.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>
#include <vector>

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kShownBytes = 80;

/// Builds the tree while the parser reports events; refuses what nlohmann/json would let pass.
class StrictReader final : public nlohmann::json_sax<Json> {
 public:
  StrictReader(std::string_view text, const std::string& origin, const std::string& path)
      : text_(text), origin_(origin), path_(path) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
      fail_integer(std::to_string(value));
    return add(Json(static_cast<std::int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& literal) override {
    if (literal.find_first_of(".eE") == string_t::npos) fail_integer(literal);
    return add(Json(value));
  }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*elements*/) override { return open(Json::object()); }
  bool key(string_t& value) override {
    Level& level = levels_.back();
    if (!level.keys.insert(value).second)
      throw ConfigError(origin_ + ": duplicate key " + in_quotes(join_path(parent_path(), value)));
    level.key = value;
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    const std::size_t end = std::min(position > 0 ? position - 1 : 0, text_.size());
    const std::string_view before = text_.substr(0, end);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = newline == std::string_view::npos ? end + 1 : end - newline;
    const std::string where = origin_ + ":" + std::to_string(line) + ":" + std::to_string(column) + ": ";
    std::string what = error.what();
    if (error.id == 406) throw ConfigError(where + "a number is too large for a double");
    const std::size_t reason = what.find("syntax error");
    throw JsonSyntaxError(where + "invalid JSON: " + (reason == std::string::npos ? what : what.substr(reason)));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;  // seen, of an object
    std::string key;                       // current one
  };

  Json& place(Json value) {
    if (levels_.empty()) return root_ = std::move(value);
    Level& level = levels_.back();
    if (level.value->is_array()) {
      level.value->push_back(std::move(value));
      return level.value->back();
    }
    return (*level.value)[level.key] = std::move(value);
  }

  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  bool open(Json value) {
    if (levels_.size() == kMaxNesting)
      throw ConfigError(origin_ + ": nested deeper than " + std::to_string(kMaxNesting) + " levels");
    Json& placed = place(std::move(value));
    levels_.push_back({&placed, {}, {}});
    return true;
  }

  bool close() {
    levels_.pop_back();
    return true;
  }

  std::string parent_path() const {
    std::string path = path_;
    for (std::size_t i = 0; i + 1 < levels_.size(); ++i)
      if (levels_[i].value->is_object()) path = join_path(path, levels_[i].key);
    return path;
  }

  [[noreturn]] void fail_integer(const std::string& literal) const {
    std::string path = parent_path();
    if (!levels_.empty() && levels_.back().value->is_object()) path = join_path(path, levels_.back().key);
    throw ConfigError(origin_ + ": " + path + (path.empty() ? "" : ": ") + "the integer " + literal +
                      " does not fit 64 bits");
  }

  std::string_view text_;
  const std::string& origin_;
  const std::string& path_;
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace

Json parse_strict(std::string_view text, const std::string& origin, const std::string& path) {
  StrictReader reader(text, origin, path);
  Json::sax_parse(text, &reader);
  return reader.take();
}

std::string describe_value(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return "the integer " + value.dump();
    case Json::value_t::number_float: return "the number " + value.dump();
    case Json::value_t::string: return "the string " + in_quotes(value.get_ref<const std::string&>());
    case Json::value_t::array: return value.empty() ? "an empty list" : "a list";
    case Json::value_t::object: return "an object";
    default: return "a value of another kind";
  }
}

std::string in_quotes(std::string_view text) {
  const bool cut = text.size() > kShownBytes;
  std::string shown =
      Json(std::string(text.substr(0, kShownBytes))).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (cut) shown.insert(shown.size() - 1, "...");
  return shown;
}

bool is_valid_utf8(const std::string& text) {
  try {
    static_cast<void>(Json(text).dump());
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

std::string join_path(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}

}  // namespace sinkscope
