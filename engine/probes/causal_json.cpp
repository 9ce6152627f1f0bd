// A CausalRecord read back from the event or the probe.json that holds it.
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/metrics/json_lines.h"
#include "engine/probes/causal.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

const Json& member(const Json& json, const char* key) {
  if (!json.is_object())
    throw std::runtime_error(std::string("expected an object with the key '") + key + "', found " + json.type_name());
  const auto found = json.find(key);
  if (found == json.end()) throw std::runtime_error(std::string("key '") + key + "' is missing");
  return *found;
}

void read(const Json& json, const char* key, double& value) { value = number_from_json(key, member(json, key)); }

/// A string, an integer or a truth value.
template <class Value>
void read(const Json& json, const char* key, Value& value) {
  try {
    member(json, key).get_to(value);
  } catch (const Json::type_error& error) {
    throw std::runtime_error(std::string("key '") + key + "': " + error.what());
  }
}

void read(const Json& json, const char* key, std::optional<std::int64_t>& value) {
  value.reset();
  if (!member(json, key).is_null()) read(json, key, value.emplace());
}

void read(const Json& json, const char* key, Estimate& value) {
  const Json& from = member(json, key);
  read(from, "value", value.value);
  read(from, "low", value.low);
  read(from, "high", value.high);
}

void read(const Json& json, const char* key, SinkEstimates& value) {
  const Json& from = member(json, key);
  read(from, "score", value.score);
  read(from, "excess", value.excess);
  read(from, "rate", value.rate);
  read(from, "ratio", value.ratio);
}

const Json& list(const Json& json, const char* key) {
  const Json& found = member(json, key);
  if (!found.is_array())
    throw std::runtime_error(std::string("key '") + key + "': expected an array, found " + found.type_name());
  return found;
}

}  // namespace

CausalRecord causal_record_from_json(const nlohmann::ordered_json& json) {
  CausalRecord record;
  read(json, "set", record.set);
  read(json, "length", record.length);
  read(json, "sequences", record.sequences);
  read(json, "with_bos", record.with_bos);
  read(json, "position", record.position);
  read(json, "sink_threshold", record.sink_threshold);
  read(json, "confidence", record.confidence);
  read(json, "resamples", record.resamples);
  read(json, "sink_formed", record.sink_formed);
  read(json, "step_up_layer", record.step_up_layer);
  read(json, "source_layer", record.source_layer);
  for (const Json& from : list(json, "tests")) {
    CausalTest& test = record.tests.emplace_back();
    read(from, "kind", test.kind);
    read(from, "layer", test.layer);
    read(from, "first", test.first);
    read(from, "other", test.other);
    read(from, "loss", test.loss);
    read(from, "score_change", test.score_change);
    read(from, "other_score_change", test.other_score_change);
    read(from, "loss_change", test.loss_change);
    read(from, "removed", test.removed);
    read(from, "moved", test.moved);
    if (!test.layer && test.kind != "none") throw std::runtime_error("key 'layer': expected an integer, found null");
  }
  if (record.tests.empty() || record.tests.front().kind != "none")
    throw std::runtime_error("key 'tests': expected the pass without edit first");
  for (const Json& from : list(json, "controls")) {
    CausalControl& control = record.controls.emplace_back();
    read(from, "set", control.set);
    read(from, "length", control.length);
    read(from, "sequences", control.sequences);
    read(from, "with_bos", control.with_bos);
    read(from, "first", control.first);
    read(from, "loss", control.loss);
  }
  return record;
}

}  // namespace sinkscope
