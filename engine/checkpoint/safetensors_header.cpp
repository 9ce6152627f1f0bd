#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "engine/checkpoint/safetensors.h"
#include "engine/config/json_text.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxRank = 16;

constexpr std::array<std::pair<std::string_view, std::int64_t>, 15> kDtypeBytes = {{
    {"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
    {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"F64", 8}, {"I64", 8}, {"U64", 8},
}};

/// Follows the parser's events; any that the format has no place for ends the reading with an
/// error, so neither nesting nor repeated keys cost memory.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool /*value*/) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t /*value*/) override { unexpected("a negative integer"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != Level::list) unexpected("an integer");
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) unexpected("a huge integer");
    if (numbers_->size() == kMaxRank) unexpected("a list of more than " + std::to_string(kMaxRank) + " integers");
    numbers_->push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_float(number_float_t /*value*/, const string_t& /*literal*/) override { unexpected("a fraction"); }
  bool binary(binary_t& /*value*/) override { unexpected("binary data"); }
  bool string(string_t& value) override {
    if (level_ == Level::metadata) {
      if (!header_.metadata.emplace(key_, value).second) fail("duplicate key " + in_quotes(key_) + " in __metadata__");
      return true;
    }
    if (level_ != Level::tensor || key_ != "dtype") unexpected("a string");
    tensor_.dtype = std::move(value);
    return true;
  }
  bool key(string_t& value) override {
    key_ = std::move(value);
    if (level_ == Level::root) {
      name_ = key_;
      return true;
    }
    if (level_ == Level::metadata) return true;
    const std::size_t field = key_ == "dtype" ? 0 : key_ == "shape" ? 1 : key_ == "data_offsets" ? 2 : 3;
    if (field == 3) fail("tensor " + name_ + ": unknown key " + in_quotes(key_));
    if (std::exchange(seen_[field], true)) fail("tensor " + name_ + ": duplicate key " + in_quotes(key_));
    return true;
  }
  bool start_object(std::size_t /*elements*/) override {
    if (level_ == Level::start) {
      level_ = Level::root;
    } else if (level_ == Level::root && key_ == "__metadata__") {
      if (std::exchange(has_metadata_, true)) fail("duplicate key \"__metadata__\"");
      level_ = Level::metadata;
    } else if (level_ == Level::root) {
      level_ = Level::tensor;
      tensor_ = {};
      offsets_.clear();
      seen_ = {};
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool end_object() override {
    if (level_ == Level::tensor) {
      for (std::size_t i = 0; i < seen_.size(); ++i)
        if (!seen_[i]) fail("tensor " + name_ + ": no \"" + std::array{"dtype", "shape", "data_offsets"}[i] + "\"");
      if (offsets_.size() != 2) fail("tensor " + name_ + ": data_offsets must be two integers");
      tensor_.begin = offsets_[0];
      tensor_.end = offsets_[1];
      if (!header_.tensors.emplace(name_, std::move(tensor_)).second) fail("tensor " + name_ + " is listed twice");
    }
    level_ = level_ == Level::root ? Level::start : Level::root;
    return true;
  }
  bool start_array(std::size_t /*elements*/) override {
    if (level_ != Level::tensor || key_ == "dtype") unexpected("a list");
    level_ = Level::list;
    numbers_ = key_ == "shape" ? &tensor_.shape : &offsets_;
    return true;
  }
  bool end_array() override {
    level_ = Level::tensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    fail("is no valid JSON at byte " + std::to_string(position));
  }

 private:
  enum class Level : std::uint8_t { start, root, metadata, tensor, list };

  [[noreturn]] void fail(const std::string& problem) const { throw std::runtime_error(file_ + ": header: " + problem); }

  [[noreturn]] void unexpected(const std::string& found) const {
    switch (level_) {
      case Level::start: fail("expected an object, found " + found);
      case Level::root: fail(in_quotes(name_) + ": expected an object, found " + found);
      case Level::metadata: fail("__metadata__: " + in_quotes(key_) + ": expected a string, found " + found);
      case Level::tensor:
        fail("tensor " + name_ + ": " + key_ + ": expected " + (key_ == "dtype" ? "a string" : "a list") + ", found " +
             found);
      case Level::list: break;
    }
    fail("tensor " + name_ + ": " + key_ + ": expected integers of at least 0, found " + found);
  }

  const std::string& file_;
  SafetensorsHeader header_;
  Level level_ = Level::start;
  std::string key_;   // the last one
  std::string name_;  // the last one of the outer object
  SafetensorsHeader::Tensor tensor_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::int64_t>* numbers_ = nullptr;
  std::array<bool, 3> seen_{};
  bool has_metadata_ = false;
};

/// Bytes of a tensor, or -1 when they do not fit 64 bits.
std::int64_t byte_size(const SafetensorsHeader::Tensor& tensor, std::int64_t element_bytes) {
  std::int64_t bytes = element_bytes;
  for (const std::int64_t extent : tensor.shape)
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  return bytes;
}

}  // namespace

std::string format_safetensors_header(const SafetensorsHeader& header, const std::vector<std::string>& order) {
  std::string text = "{";
  if (!header.metadata.empty()) text += "\"__metadata__\":" + Json(header.metadata).dump();
  for (const std::string& name : order) {
    const SafetensorsHeader::Tensor& tensor = header.tensors.at(name);
    if (text.size() > 1) text += ",";
    text += Json(name).dump() + ":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":" + Json(tensor.shape).dump() +
            ",\"data_offsets\":[" + std::to_string(tensor.begin) + "," + std::to_string(tensor.end) + "]}";
  }
  return text + "}";
}

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file) {
  HeaderReader reader(file);
  Json::sax_parse(text, &reader);
  return reader.take();
}

void check_safetensors_header(const SafetensorsHeader& header, std::int64_t data_bytes, const std::string& file) {
  const auto fail = [&](const std::string& name, const std::string& problem) {
    throw std::runtime_error(file + ": tensor " + name + ": " + problem);
  };
  std::vector<std::pair<const std::string*, const SafetensorsHeader::Tensor*>> ordered;
  for (const auto& [name, tensor] : header.tensors) {
    const auto* found = std::find_if(kDtypeBytes.begin(), kDtypeBytes.end(),
                                     [&dtype = tensor.dtype](const auto& entry) { return entry.first == dtype; });
    if (found == kDtypeBytes.end()) fail(name, "unknown dtype " + in_quotes(tensor.dtype));
    // Appended piece by piece: GCC 12 warns without cause of "[" + a temporary.
    std::string offsets = "[";
    offsets.append(std::to_string(tensor.begin)).append(", ").append(std::to_string(tensor.end)).append(")");
    if (tensor.begin > tensor.end) fail(name, "data_offsets " + offsets + " run backwards");
    if (tensor.end > data_bytes)
      fail(name, "data_offsets " + offsets + " lie outside the file's " + std::to_string(data_bytes) +
                     " bytes of data (truncated?)");
    if (byte_size(tensor, found->second) != tensor.end - tensor.begin)
      fail(name, "data_offsets " + offsets + " do not fit dtype " + tensor.dtype + " and shape " +
                     describe_shape(tensor.shape));
    ordered.emplace_back(&name, &tensor);
  }
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::int64_t covered = 0;
  const std::string* before = nullptr;
  for (const auto& [name, tensor] : ordered) {
    if (tensor->begin < covered) fail(*name, "its data overlap those of " + *before);
    if (tensor->begin > covered)
      fail(*name, std::to_string(tensor->begin - covered) + " bytes before its data belong to no tensor");
    covered = tensor->end;
    before = name;
  }
  if (covered != data_bytes)
    throw std::runtime_error(file + ": " + std::to_string(data_bytes - covered) +
                             " bytes at the end belong to no tensor");
}

}  // namespace sinkscope
