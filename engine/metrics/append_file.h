// Files that only grow, and the replacement of a whole file in one step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace sinkscope {

/// A file open for appending, without a buffer of its own: each `append` is one write(2), so a killed
/// process leaves at most the last piece incomplete. Errors are std::runtime_error naming the file.
class AppendFile {
 public:
  enum class Mode {
    kCreate,    // the file must not exist
    kContinue,  // created when missing, otherwise continued at its end
    kReplace,   // created when missing, otherwise emptied
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
  std::int64_t size_ = 0;        // bytes; the place to cut back to after a failed append
  bool is_regular_ = false;
};

/// New content for a file: written beside it under a temporary name and put in its place by rename,
/// so that a crash leaves either the old content or the new. A symbolic link keeps pointing at the
/// file it names. Without `commit` the old content stays.
class FileReplacement {
 public:
  /// `temporary_name`: file name, in the target's folder, of the content while it grows.
  FileReplacement(const std::filesystem::path& path, const std::string& temporary_name);
  ~FileReplacement();
  FileReplacement(const FileReplacement&) = delete;
  FileReplacement& operator=(const FileReplacement&) = delete;

  void append(std::string_view bytes) { file_.append(bytes); }
  /// fsync, rename, fsync of the folder.
  void commit();

 private:
  std::filesystem::path target_;
  AppendFile file_;
  bool committed_ = false;
};

/// Makes the names in a folder durable (fsync of the folder).
void sync_directory(const std::filesystem::path& directory);

}  // namespace sinkscope
