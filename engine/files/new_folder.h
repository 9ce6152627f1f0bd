// Folders that get their name when they are complete. Every error is a std::runtime_error naming the
// folder.
#pragma once

#include <filesystem>

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
  /// at `target` is exchanged for it in one step and then removed.
  void commit(const std::filesystem::path& target);

 private:
  std::filesystem::path path_;
  bool committed_ = false;
};

/// A folder under construction beside `target`, under a name of its own, which becomes `target` when it
/// is committed and never replaces anything; removed with its content otherwise.
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
};

}  // namespace sinkscope
