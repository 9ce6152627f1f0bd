// The safetensors file format: u64 header length, JSON header, data. Little-endian.
// Format: https://github.com/huggingface/safetensors (README, "Format").
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace sinkscope {

/// A tensor to write: fp32, row-major, contiguous; or gathered by a callback for transposed ones.
struct SafetensorsEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> data;
};

/// Writes fp32 tensors in the given order, data aligned to 64 bytes, with string metadata
/// (e.g. {"format", "pt"}), then fsyncs. Throws std::runtime_error naming the file.
void write_safetensors(const std::filesystem::path& file, const std::vector<SafetensorsEntry>& tensors,
                       const std::map<std::string, std::string>& metadata);

/// A safetensors file opened by mmap. Headers are checked in full: sizes, overlaps, bounds.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;
  const std::vector<std::int64_t>& shape(const std::string& name) const;
  /// Converts F32, BF16 or F16 to fp32. Throws std::runtime_error naming file and tensor.
  void read(const std::string& name, std::span<float> out) const;
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sinkscope
