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

class HashedFile;

/// A tensor to write: fp32, row-major, contiguous. With `transposed`, `shape` is (rows, columns) as
/// in the file and `data` holds its transpose, (columns, rows). With `rows`, row i of the file is row rows[i]
/// of `data`.
struct SafetensorsEntry {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> data;
  bool transposed = false;
  std::vector<std::int64_t> rows{};
};

/// Writes fp32 tensors in the given order, the data section aligned to 64 bytes (the format allows
/// no gaps between tensors), with string metadata (e.g. {"format", "pt"}), then fsyncs and puts the
/// file in place in one step. Throws std::runtime_error naming the file, std::invalid_argument for
/// a name given twice or data that do not fit their shape.
void write_safetensors(const std::filesystem::path& file, const std::vector<SafetensorsEntry>& tensors,
                       const std::map<std::string, std::string>& metadata);

/// The same content into a file that the caller finishes.
void write_safetensors(HashedFile& file, const std::vector<SafetensorsEntry>& tensors,
                       const std::map<std::string, std::string>& metadata);

/// "(2, 3)", for messages.
std::string describe_shape(std::span<const std::int64_t> shape);

/// A safetensors file opened by mmap. Headers are checked in full: sizes, overlaps, gaps, bounds.
/// Throws std::runtime_error naming the file, and the tensor where one is at fault.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  const std::filesystem::path& path() const;
  std::vector<std::string> names() const;  // in alphabetical order
  bool contains(const std::string& name) const;
  /// Throws std::runtime_error naming file and tensor when there is none of this name.
  const std::vector<std::int64_t>& shape(const std::string& name) const;
  /// Converts F32, BF16 or F16 to fp32. Throws std::runtime_error naming file and tensor.
  void read(const std::string& name, std::span<float> out) const;
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sinkscope
