#include "engine/metrics/json_lines.h"

#include <cerrno>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "engine/files/replacement.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaximumDepth = 64;  // of nested objects and arrays; the logs themselves use three

std::int64_t step_of(const Json& json) {
  const auto step = json.find("step");
  if (step == json.end()) throw std::runtime_error("key 'step' is missing");
  if (!step->is_number_integer()) throw std::runtime_error("key 'step': expected an integer");
  return step->get<std::int64_t>();
}

}  // namespace

std::string to_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Json number_to_json(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

Json parse_json(const std::string& text) {
  const auto limit_depth = [](int depth, Json::parse_event_t event, Json&) {
    using Event = Json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && depth >= kMaximumDepth) {
      throw std::runtime_error("JSON is nested deeper than " + std::to_string(kMaximumDepth) + " levels");
    }
    return true;
  };
  try {
    return Json::parse(text, limit_depth);
  } catch (const Json::exception& error) {
    throw std::runtime_error(std::string("not valid JSON: ") + error.what());
  }
}

bool for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const Json&, const std::string&)>& visit) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error(path.string() + ": cannot open: " + std::generic_category().message(errno));
  }
  std::string line;
  std::int64_t number = 0;
  bool ends_well = true;
  while (std::getline(file, line)) {
    ++number;
    ends_well = !file.eof();  // getline met the end of the file before a newline
    try {
      Json json;
      try {
        json = parse_json(line);
        if (!json.is_object()) throw std::runtime_error("expected a JSON object");
      } catch (const std::exception&) {
        if (!ends_well) break;
        throw;
      }
      visit(json, line);
    } catch (const std::exception& error) {
      throw std::runtime_error(path.string() + ":" + std::to_string(number) + ": " + error.what());
    }
  }
  if (file.bad()) throw std::runtime_error(path.string() + ": cannot read after line " + std::to_string(number));
  return ends_well;
}

void drop_later_lines(const std::filesystem::path& path, std::int64_t last_step) {
  bool drops = false;
  const bool ends_well = for_each_json_line(
      path, [&](const Json& json, const std::string&) { drops = drops || step_of(json) > last_step; });
  if (!drops && ends_well) return;

  FileReplacement replacement(path);
  std::string block;
  constexpr std::size_t kBlockBytes = 1 << 20;
  for_each_json_line(path, [&](const Json& json, const std::string& line) {
    if (step_of(json) > last_step) return;
    block += line;
    block += '\n';
    if (block.size() >= kBlockBytes) {
      replacement.write(block);
      block.clear();
    }
  });
  replacement.write(block);
  replacement.commit();
}

}  // namespace sinkscope
