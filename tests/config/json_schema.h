// JSON Schema (2020-12), as far as configs/schema.json uses it: an independent reading of what the
// parser accepts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sinkscope::test {

/// What `value` violates, each as "/pointer: keyword"; empty when it conforms. Throws
/// std::runtime_error for a schema keyword that this validator does not know.
std::vector<std::string> schema_violations(const nlohmann::ordered_json& root, const nlohmann::ordered_json& value);

}  // namespace sinkscope::test
