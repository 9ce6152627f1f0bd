// Files that get their name when they are complete: written beside it, fsynced, renamed, the folder
// fsynced, so that a crash at any moment leaves the target as it was or whole. Every error is a
// std::runtime_error naming the file.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "engine/files/new_file.h"

namespace sinkscope {

/// New content for a file, existing or not. A symbolic link keeps pointing at the file it names.
/// Without `commit` the old content stays, and the new one is removed.
class FileReplacement {
 public:
  /// The content grows in the target's folder as `temporary_name`, or else as "NAME.partial"; what an
  /// interrupted replacement left there is removed. Throws when the target is no regular file.
  explicit FileReplacement(const std::filesystem::path& target, const std::string& temporary_name = {});
  ~FileReplacement();
  FileReplacement(const FileReplacement&) = delete;
  FileReplacement& operator=(const FileReplacement&) = delete;

  HashedFile& file() { return file_; }
  void write(std::string_view text) { file_.write(text); }
  void commit();

 private:
  std::filesystem::path target_;
  HashedFile file_;
  bool committed_ = false;
};

/// A new file, which never replaces anything. Without `commit` nothing is left.
class PendingFile {
 public:
  /// The content grows as "NAME.partial" beside the target; what an interrupted process left there is
  /// removed. Throws when the target exists.
  explicit PendingFile(const std::filesystem::path& target);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void write(std::string_view text) { file_.write(text); }
  /// Throws when the target exists by now.
  void commit();

 private:
  std::filesystem::path target_;
  HashedFile file_;
  bool committed_ = false;
};

}  // namespace sinkscope
