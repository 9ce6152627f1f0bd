// Files that must be on the disk, whole, before anything depends on them. Internal to this folder.
// Every error is a std::runtime_error naming the file, what was tried, and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sinkscope {

/// Size and XXH3-128 (canonical form, 32 lowercase hexadecimal digits) of a file's content.
struct FileDigest {
  std::int64_t size = 0;
  std::string xxh3_128;
};

/// A new file that is written once, from front to back, and hashed on the way.
class DurableFile {
 public:
  /// Throws when the file exists.
  explicit DurableFile(const std::filesystem::path& path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// fsync and close. The digest is of what was handed to write().
  FileDigest finish();

 private:
  struct Hash;
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
  std::unique_ptr<Hash> hash_;
};

/// A folder under construction, removed with its content unless it is committed.
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

/// Makes the names in a folder durable.
void sync_folder(const std::filesystem::path& folder);

FileDigest write_text_file(const std::filesystem::path& path, std::string_view text);
FileDigest copy_file_synced(const std::filesystem::path& from, const std::filesystem::path& to);
FileDigest digest_file(const std::filesystem::path& path);

/// The whole content. Throws when the file is missing or larger than `limit` bytes.
std::string read_text_file(const std::filesystem::path& path, std::int64_t limit = std::int64_t{64} << 20);

/// XXH3-128 of a text, as in FileDigest.
std::string hash_text(std::string_view text);

}  // namespace sinkscope
