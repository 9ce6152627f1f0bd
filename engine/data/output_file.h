// Files written whole and synced, for folders that are renamed into place when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace sinkscope {

/// A new file. Every error throws std::runtime_error naming it.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);  // refuses one that exists
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// All of `bytes` at `offset`, counted from the start of the file.
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);
  /// Syncs and closes; nothing may follow.
  void finish();

 private:
  [[noreturn]] void fail(const char* what) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
};

void write_new_file(const std::filesystem::path& path, std::string_view content);
void sync_dataset_folder(const std::filesystem::path& folder);

/// A folder next to `target`, renamed to it by `publish`; removed with its content otherwise.
class PendingFolder {
 public:
  /// Throws std::runtime_error when `target` exists.
  explicit PendingFolder(const std::filesystem::path& target);
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void publish();

 private:
  void require_absent() const;

  std::filesystem::path target_;
  std::filesystem::path path_;
};

}  // namespace sinkscope
