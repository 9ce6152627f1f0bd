#include "engine/metrics/records.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>

#include "engine/metrics/json_lines.h"

namespace sinkscope {

// The double whose shortest decimal form is the shortest that gives back `value` as a float: the same
// number to float precision, in half the characters. Values outside the normal range of float stay.
double as_logged(double value) {
  const double magnitude = std::abs(value);
  if (!(magnitude >= std::numeric_limits<float>::min() && magnitude <= std::numeric_limits<float>::max())) {
    return value;
  }
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value)).ptr;
  double result = 0;
  std::from_chars(text.data(), end, result);
  return result;
}

namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const char* key, const std::string& expected, const Json& found) {
  throw std::runtime_error(std::string("key '") + key + "': expected " + expected + ", found " +
                           (found.is_number() ? "the number " + found.dump() : found.type_name()));
}

}  // namespace

double number_from_json(const char* key, const nlohmann::ordered_json& json) {
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
    if (text == "Infinity") return std::numeric_limits<double>::infinity();
    if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  }
  fail(key, R"(a number, "NaN", "Infinity" or "-Infinity")", json);
}

namespace {

std::int64_t integer_from_json(const char* key, const Json& json) {
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool fits = json.is_number_unsigned() ? json.get<std::uint64_t>() <= kLargest : json.is_number_integer();
  if (!fits) fail(key, "a 64-bit integer", json);
  return json.get<std::int64_t>();
}

enum class Precision { kDouble, kFloat };

// Writes fields in the order of the record; empty vectors and absent values are left out.
class FieldWriter {
 public:
  explicit FieldWriter(Precision vector_precision) : vector_precision_(vector_precision) {}

  void operator()(const char* key, std::int64_t value) { json_[key] = value; }
  void operator()(const char* key, double value) { json_[key] = number_to_json(value); }
  void operator()(const char* key, bool value) { json_[key] = value; }
  void operator()(const char* key, const std::string& value) { json_[key] = value; }
  template <class Value>
  void operator()(const char* key, const std::optional<Value>& value) {
    if (value) (*this)(key, *value);
  }
  void operator()(const char* key, const std::vector<std::int64_t>& values) {
    if (!values.empty()) json_[key] = values;
  }
  void operator()(const char* key, const std::vector<double>& values) {
    if (values.empty()) return;
    Json::array_t list;
    list.reserve(values.size());
    for (const double value : values) {
      list.push_back(number_to_json(vector_precision_ == Precision::kFloat ? as_logged(value) : value));
    }
    json_[key] = std::move(list);
  }

  Json take() { return std::move(json_); }

 private:
  Precision vector_precision_;
  Json json_ = Json::object();
};

class FieldReader {
 public:
  explicit FieldReader(const Json& json) : json_(json) {
    if (!json.is_object()) throw std::runtime_error(std::string("expected a JSON object, found ") + json.type_name());
  }

  void operator()(const char* key, std::int64_t& value) { value = integer_from_json(key, required(key)); }
  void operator()(const char* key, double& value) { value = number_from_json(key, required(key)); }
  void operator()(const char* key, bool& value) {
    const Json& found = required(key);
    if (!found.is_boolean()) fail(key, "true or false", found);
    value = found.get<bool>();
  }
  void operator()(const char* key, std::string& value) {
    const Json& found = required(key);
    if (!found.is_string()) fail(key, "a string", found);
    value = found.get<std::string>();
  }
  template <class Value>
  void operator()(const char* key, std::optional<Value>& value) {
    value.reset();
    if (json_.contains(key)) (*this)(key, value.emplace());
  }
  template <class Value>
  void operator()(const char* key, std::vector<Value>& values) {
    values.clear();
    const auto found = json_.find(key);
    if (found == json_.end()) return;
    if (!found->is_array()) fail(key, "an array", *found);
    values.reserve(found->size());
    for (const Json& entry : *found) {
      if constexpr (std::is_same_v<Value, double>) {
        values.push_back(number_from_json(key, entry));
      } else {
        values.push_back(integer_from_json(key, entry));
      }
    }
  }

 private:
  const Json& required(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end()) throw std::runtime_error(std::string("key '") + key + "' is missing");
    return *found;
  }

  const Json& json_;
};

// One list of fields for both directions; `Record` is const when writing.
template <class Record, class Visitor>
void visit_step_fields(Record& record, Visitor& visit) {
  visit("step", record.step);
  visit("tokens", record.tokens);
  visit("loss", record.loss);
  visit("loss_common", record.loss_common);
  visit("validation_loss", record.validation_loss);
  visit("validation_loss_common", record.validation_loss_common);
  visit("learning_rate", record.learning_rate);
  visit("gradient_norm", record.gradient_norm);
  visit("step_seconds", record.step_seconds);
  visit("tokens_per_second", record.tokens_per_second);
  visit("mfu", record.mfu);
  visit("sink_score", record.sink_score);
  visit("sink_rate", record.sink_rate);
  visit("sink_score_layer", record.sink_score_layer);
  visit("residual_norm", record.residual_norm);
  visit("residual_norm_rest", record.residual_norm_rest);
  visit("norm_ratio", record.norm_ratio);
  visit("gradient_norm_attention", record.gradient_norm_attention);
  visit("gradient_norm_mlp", record.gradient_norm_mlp);
  visit("entropy", record.entropy);
  visit("key_mass", record.key_mass);
}

template <class Record, class Visitor>
void visit_probe_fields(Record& record, Visitor& visit) {
  visit("step", record.step);
  visit("tokens", record.tokens);
  visit("set", record.set);
  visit("length", record.length);
  visit("sequences", record.sequences);
  visit("with_bos", record.with_bos);
  visit("loss", record.loss);
  visit("layers", record.layers);
  visit("heads", record.heads);
  visit("kv_heads", record.kv_heads);
  visit("positions", record.positions);
  visit("sink_score", record.sink_score);
  visit("sink_rate", record.sink_rate);
  visit("sink_rate_layer", record.sink_rate_layer);
  visit("sink_rate_from", record.sink_rate_from);
  visit("sink_excess", record.sink_excess);
  visit("dominant_position", record.dominant_position);
  visit("dominant_position_layer", record.dominant_position_layer);
  visit("first_token_mass", record.first_token_mass);
  visit("first_token_argmax", record.first_token_argmax);
  visit("entropy", record.entropy);
  visit("key_mass", record.key_mass);
  visit("sink_logit_mass", record.sink_logit_mass);
  visit("residual_norm", record.residual_norm);
  visit("residual_norm_rest", record.residual_norm_rest);
  visit("norm_ratio", record.norm_ratio);
  visit("attention_output_norm", record.attention_output_norm);
  visit("attention_output_norm_rest", record.attention_output_norm_rest);
  visit("mlp_output_norm", record.mlp_output_norm);
  visit("mlp_output_norm_rest", record.mlp_output_norm_rest);
  visit("mlp_amplification", record.mlp_amplification);
  visit("key_norm_first", record.key_norm_first);
  visit("key_norm_rest", record.key_norm_rest);
  visit("value_norm_first", record.value_norm_first);
  visit("value_norm_rest", record.value_norm_rest);
  visit("cosine_first", record.cosine_first);
  visit("cosine_rest", record.cosine_rest);
  visit("massive_ratio", record.massive_ratio);
  visit("massive_position", record.massive_position);
  visit("massive_channel", record.massive_channel);
  visit("direction_stability", record.direction_stability);
  visit("direction_stability_middle", record.direction_stability_middle);
  visit("step_up_layer", record.step_up_layer);
  visit("concentration", record.concentration);
  visit("phase", record.phase);
  visit("excess_slope", record.excess_slope);
  visit("dominant_share", record.dominant_share);
  visit("validation_loss_slope", record.validation_loss_slope);
}

template <class Record, class Visitor>
void visit_event_fields(Record& record, Visitor& visit) {
  visit("step", record.step);
  visit("tokens", record.tokens);
  visit("kind", record.kind);
  visit("message", record.message);
}

}  // namespace

Json to_json(const StepRecord& record) {
  FieldWriter writer(Precision::kDouble);
  visit_step_fields(record, writer);
  return writer.take();
}

Json to_json(const ProbeRecord& record) {
  FieldWriter writer(Precision::kFloat);
  visit_probe_fields(record, writer);
  return writer.take();
}

Json to_json(const EventRecord& record) {
  FieldWriter writer(Precision::kDouble);
  visit_event_fields(record, writer);
  Json json = writer.take();
  Json data;
  try {
    data = parse_json(record.data);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("event '" + record.kind + "': key 'data': " + error.what());
  }
  if (!data.is_object()) fail("data", "the JSON text of an object", data);
  if (!data.empty()) json["data"] = std::move(data);
  return json;
}

StepRecord step_record_from_json(const Json& json) {
  StepRecord record;
  FieldReader reader(json);
  visit_step_fields(record, reader);
  return record;
}

ProbeRecord probe_record_from_json(const Json& json) {
  ProbeRecord record;
  FieldReader reader(json);
  visit_probe_fields(record, reader);
  return record;
}

EventRecord event_record_from_json(const Json& json) {
  EventRecord record;
  FieldReader reader(json);
  visit_event_fields(record, reader);
  const auto data = json.find("data");
  if (data != json.end()) {
    if (!data->is_object()) fail("data", "an object", *data);
    record.data = data->dump();
  }
  return record;
}

}  // namespace sinkscope
