// Files that only grow: logs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace sinkscope {

/// A file open for appending, without a buffer of its own: each `append` is one write(2), so a killed
/// process leaves at most the last piece incomplete. Errors are std::runtime_error naming the file.
class AppendFile {
 public:
  enum class Mode {
    kCreate,    // the file must not exist
    kContinue,  // created when missing, otherwise continued at its end
  };

  AppendFile(std::filesystem::path path, Mode mode);
  ~AppendFile();
  AppendFile(AppendFile&& other) noexcept;
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  AppendFile& operator=(AppendFile&&) = delete;

  /// Appends all of `bytes`, or throws and takes back what was written of them.
  void append(std::string_view bytes);
  /// Waits until the data are on the disk (fsync).
  void sync();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;  // bytes; the place to cut back to after a failed append
  bool is_regular_ = false;
};

}  // namespace sinkscope
