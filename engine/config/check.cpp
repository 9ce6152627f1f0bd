// What a value must be for its field, and the messages when it is not.
#include <algorithm>
#include <cmath>

#include "engine/config/json_text.h"
#include "engine/config/load.h"
#include "engine/config/spec.h"
#include "engine/config/suggest.h"
#include "engine/config/words.h"

namespace sinkscope {
namespace {

[[noreturn]] void fail(const std::string& origin, const std::string& path, const std::string& expected,
                       const Json& found, const std::string& hint = {}) {
  throw ConfigError(origin + ": " + (path.empty() ? "" : path + ": ") + "expected " + expected + ", found " +
                    describe_value(found) + hint);
}

bool is_name(const std::string& text) {
  const auto starts = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  bool at_start = true;
  for (const char c : text) {
    if (c == '/' && !at_start) {
      at_start = true;
    } else if (starts(c) || (!at_start && std::string_view(".,=+-").find(c) != std::string_view::npos)) {
      at_start = false;
    } else {
      return false;
    }
  }
  return !at_start;
}

bool fits(const std::string& text, TextForm form) {
  if (!is_valid_utf8(text)) return false;
  switch (form) {
    case TextForm::any: return true;
    case TextForm::path: return text.find('\0') == std::string::npos;
    case TextForm::required: return !text.empty() && text.find('\0') == std::string::npos;
    case TextForm::name: return is_name(text);
  }
  return false;
}

void check_choice(const FieldSpec& spec, const std::string& expected, const Json& value, const std::string& origin,
                  const std::string& path) {
  if (!value.is_string()) fail(origin, path, expected, value);
  const auto& text = value.get_ref<const std::string&>();
  if (std::find(spec.choices.begin(), spec.choices.end(), text) != spec.choices.end()) return;
  const std::string meant = nearest_word(text, spec.choices);
  fail(origin, path, expected, value, meant.empty() ? "" : "; did you mean " + in_quotes(meant) + "?");
}

void check_list(const FieldSpec& spec, const Json& value, const std::string& origin, const std::string& path) {
  if (!value.is_array()) fail(origin, path, describe_expected(spec), value);
  if (spec.list.nonempty_and_unique && value.empty()) fail(origin, path, describe_expected(spec), value);
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string item_path = path + "[" + std::to_string(i) + "]";
    if (spec.kind == FieldKind::choice_list) {
      check_choice(spec, "one of " + either(spec.choices), value[i], origin, item_path);
    } else if (!value[i].is_string() || !fits(value[i].get_ref<const std::string&>(), TextForm::required)) {
      fail(origin, item_path, spec.list.arguments ? "a string that is not empty" : "a file name", value[i]);
    }
    const auto here = value.begin() + static_cast<std::ptrdiff_t>(i);
    if (spec.list.nonempty_and_unique && std::find(value.begin(), here, value[i]) != here)
      throw ConfigError(origin + ": " + item_path + ": " + describe_value(value[i]) + " is listed twice");
  }
}

/// Throws unless an ablation may vary the field.
void require_variable(const FieldSpec& spec, const std::string& origin, const std::string& path) {
  if (can_vary(spec) && !can_vary_between_arms(spec))
    throw ConfigError(origin + ": " + path + ": " + in_quotes(spec.path) +
                      " makes no difference between arms, each of which trains as one rank; start runs of their own "
                      "with `sinkscope train`, and compare those");
  if (!can_vary(spec))
    throw ConfigError(origin + ": " + path + ": " + in_quotes(spec.path) + " cannot be varied; name one field, not " +
                      (spec.kind == FieldKind::section ? "a section of them" : "the run's own place"));
}

/// It becomes a part of a folder's name.
bool is_group_name(const std::string& name) { return is_name(name) && name.find_first_of("/,=") == std::string::npos; }

/// What one arm of a group of keys is set to: dotted keys and the value of each.
void check_overrides(const Json& value, const std::string& origin, const std::string& path) {
  if (!value.is_object() || value.empty())
    fail(origin, path, "an object of one dotted key or more, which change together, with the value of each", value);
  for (const auto& [key, item] : value.items()) {
    const FieldSpec* varied = find_spec(key);
    if (varied == nullptr)
      throw ConfigError(origin + ": " + path + ": unknown key " + in_quotes(key) + hint_for(key, item));
    require_variable(*varied, origin, path);
    check_value(*varied, item, origin, join_path(path, key));
  }
}

void check_axes(const FieldSpec& spec, const Json& value, const std::string& origin, const std::string& path) {
  if (!value.is_object()) fail(origin, path, describe_expected(spec), value);
  for (const auto& [key, values] : value.items()) {
    const std::string axis_path = join_path(path, key);
    const FieldSpec* varied = find_spec(key);
    const bool group = is_group(key, values);
    if (varied == nullptr && !group)
      throw ConfigError(origin + ": " + path + ": unknown key " + in_quotes(key) + hint_for(key, values));
    if (group && !is_group_name(key))
      throw ConfigError(origin + ": " + path + ": " + in_quotes(key) +
                        " names keys that change together; expected letters, "
                        "digits and \"_.+-\", the first a letter, digit or \"_\"");
    if (!group) require_variable(*varied, origin, path);
    if (!values.is_array() || values.empty())
      fail(origin, axis_path, "a list of one value or more, each " + describe_expected(*varied), values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::string item_path = axis_path + "[" + std::to_string(i) + "]";
      if (group)
        check_overrides(values[i], origin, item_path);
      else
        check_value(*varied, values[i], origin, item_path);
      const auto here = values.begin() + static_cast<std::ptrdiff_t>(i);
      if (std::find(values.begin(), here, values[i]) != here)
        throw ConfigError(origin + ": " + item_path + ": " + describe_value(values[i]) + " is listed twice");
    }
  }
}

bool within(double value, const NumberLimits& limits) {
  if (!std::isfinite(value)) return false;
  if (limits.above ? value <= limits.minimum : value < limits.minimum) return false;
  return limits.below ? value < limits.maximum : value <= limits.maximum;
}

std::string number_text(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<std::int64_t>(value));
  return Json(value).dump();
}

}  // namespace

void expect_variable_key(const std::string& key, const std::string& origin) {
  const FieldSpec* spec = find_spec(key);
  if (spec == nullptr) throw ConfigError(origin + ": unknown key " + in_quotes(key) + hint_for(key, nullptr));
  if (!can_vary(*spec)) throw ConfigError(origin + ": " + in_quotes(key) + " is no field that an ablation may vary");
}

bool is_group(const std::string& key, const Json& values) {
  const FieldSpec* spec = find_spec(key);
  if (spec != nullptr && can_vary(*spec)) return false;
  return values.is_array() &&
         std::any_of(values.begin(), values.end(), [](const Json& value) { return value.is_object(); });
}

std::string describe_expected(const FieldSpec& spec) {
  switch (spec.kind) {
    case FieldKind::section: return "an object";
    case FieldKind::integer:
      return "an integer " + (spec.integers.maximum == std::numeric_limits<std::int64_t>::max()
                                  ? "of at least " + std::to_string(spec.integers.minimum)
                                  : "from " + std::to_string(spec.integers.minimum) + " to " +
                                        std::to_string(spec.integers.maximum));
    case FieldKind::number: {
      std::string text = std::string("a number ") + (spec.numbers.above ? "above " : "of at least ") +
                         number_text(spec.numbers.minimum);
      if (std::isfinite(spec.numbers.maximum))
        text += (spec.numbers.below ? " and below " : " and at most ") + number_text(spec.numbers.maximum);
      return text;
    }
    case FieldKind::boolean: return "true or false";
    case FieldKind::text:
      switch (spec.text.form) {
        case TextForm::any: return "a string";
        case TextForm::path: return "a string that is a path";
        case TextForm::required: return "a string that is a path and not empty";
        case TextForm::name:
          return "a string of letters, digits and \"_.,=+-\" in parts separated by \"/\", each beginning with a "
                 "letter, digit or \"_\"";
      }
      return "a string";
    case FieldKind::choice: return "one of " + either(spec.choices);
    case FieldKind::text_list:
      return spec.list.arguments ? "a list of a program and its arguments" : "a list of file names";
    case FieldKind::choice_list: return "a list of one or more of " + either(spec.choices);
    case FieldKind::axes:
      return "an object of dotted keys, each with a list of values, and of names, each with a list of objects of "
             "dotted keys";
  }
  return "a value";
}

void check_value(const FieldSpec& spec, const Json& value, const std::string& origin, const std::string& path) {
  switch (spec.kind) {
    case FieldKind::section:
      if (!value.is_object()) fail(origin, path, describe_expected(spec), value);
      for (const auto& [key, item] : value.items()) {
        const std::string item_path = join_path(path, key);
        if (path.empty() && key == "$schema") {
          if (!item.is_string()) fail(origin, item_path, "a string", item);
          continue;
        }
        const FieldSpec* child = spec.child(key);
        if (child == nullptr && find_spec(item_path) != nullptr)
          throw ConfigError(origin + ": " + in_quotes(item_path) +
                            " must be nested, one object for each part before a dot");
        if (child == nullptr) throw_unknown_key(item_path, item, origin);
        check_value(*child, item, origin, item_path);
      }
      return;
    case FieldKind::integer:
      if (!value.is_number_integer() || value.get<std::int64_t>() < spec.integers.minimum ||
          value.get<std::int64_t>() > spec.integers.maximum)
        fail(origin, path, describe_expected(spec), value);
      return;
    case FieldKind::number:
      if (!value.is_number() || !within(value.get<double>(), spec.numbers))
        fail(origin, path, describe_expected(spec), value);
      return;
    case FieldKind::boolean:
      if (!value.is_boolean()) fail(origin, path, describe_expected(spec), value);
      return;
    case FieldKind::text:
      if (!value.is_string() || !fits(value.get_ref<const std::string&>(), spec.text.form))
        fail(origin, path, describe_expected(spec), value,
             value.is_string() && !is_valid_utf8(value.get_ref<const std::string&>()) ? ", which is not UTF-8" : "");
      return;
    case FieldKind::choice: check_choice(spec, describe_expected(spec), value, origin, path); return;
    case FieldKind::text_list:
    case FieldKind::choice_list: check_list(spec, value, origin, path); return;
    case FieldKind::axes: check_axes(spec, value, origin, path); return;
  }
}

void throw_unknown_key(const std::string& path, const Json& value, const std::string& origin) {
  throw ConfigError(origin + ": unknown key " + in_quotes(path) + hint_for(path, value));
}

}  // namespace sinkscope
