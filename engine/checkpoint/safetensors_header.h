// The JSON header of a safetensors file. Internal to this folder.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

struct SafetensorsHeader {
  struct Tensor {
    std::string dtype;                // "F32", ...
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0;           // bytes from the end of the header
    std::int64_t end = 0;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Compact JSON text, the tensors in `order`.
std::string format_safetensors_header(const SafetensorsHeader& header, const std::vector<std::string>& order);

/// Accepts exactly what the format allows: an object of tensors, each with dtype, shape and
/// data_offsets, and string metadata; no key twice. `file` leads the messages.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file);

/// Every tensor's bytes must fit its dtype and shape, and together they must cover the data once.
void check_safetensors_header(const SafetensorsHeader& header, std::int64_t data_bytes, const std::string& file);

}  // namespace sinkscope
