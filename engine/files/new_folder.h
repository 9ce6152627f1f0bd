// Folders that get their name when they are complete. Every error is a std::runtime_error naming the
// folder.
#pragma once

#include <filesystem>
#include <optional>
#include <system_error>

namespace sinkscope {

/// A folder under construction at a fixed place, which replaces another when it is committed; removed
/// with its content otherwise.
class StagingFolder {
 public:
  /// An empty folder at `path`; what an interrupted construction left there is removed.
  explicit StagingFolder(std::filesystem::path path);
  ~StagingFolder();
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Fsyncs the folder and renames it to `target`, whose folder is fsynced too. A folder that stands
  /// at `target` is exchanged for it in one step and then removed; returns why it cannot be.
  std::error_code commit(const std::filesystem::path& target);

 private:
  std::filesystem::path path_;
  bool committed_ = false;
};

/// An advisory lock (flock) on a folder itself, which the kernel takes back when the process ends, however
/// it ends. Never waits; some network file systems lock no folders.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  bool held() const { return descriptor_ >= 0; }
  /// Not held since the folder is gone or another holds the lock.
  bool lost() const { return lost_; }

 private:
  int descriptor_ = -1;
  bool lost_ = false;
};

/// Makes a folder and those above it, where they are not there yet; returns whether it did. Throws std::runtime_error
/// naming the folder.
bool make_folders(const std::filesystem::path& folder);

/// A folder under construction beside `target`, under a name of its own (".TARGET.pending-XXXXXX"), which
/// becomes `target` when it is committed and never replaces anything; removed with its content otherwise.
/// It is locked, so that the next one for the same target removes what a killed process left, and nothing
/// that is in use.
class PendingFolder {
 public:
  /// Makes the folders above `target`. Throws when `target` exists.
  explicit PendingFolder(const std::filesystem::path& target);
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Fsyncs the folder, renames it and fsyncs the folder above. Throws when `target` exists by now.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  std::optional<FolderLock> lock_;
};

}  // namespace sinkscope
