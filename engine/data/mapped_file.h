// A whole file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace sinkscope {

class MappedFile {
 public:
  /// Throws std::runtime_error naming the file when it cannot be opened or mapped.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }  // bytes

 private:
  void release() noexcept;

  const std::byte* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace sinkscope
