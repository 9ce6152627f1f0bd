// New files that are on the disk, whole, before anything depends on them. Every error is a
// std::runtime_error naming the file, what was tried, and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "engine/files/digest.h"

namespace sinkscope {

/// A file under construction, removed again unless `finish` succeeds. It stands under its own name
/// from the start: what must never be seen unfinished is written by a FileReplacement or a PendingFile,
/// or inside a folder under construction.
class NewFile {
 public:
  /// Throws when the file exists.
  explicit NewFile(const std::filesystem::path& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  /// Adds all of `bytes` at the end.
  void write(std::span<const std::byte> bytes);
  /// Puts `bytes` over what was written at `offset`, e.g. a header whose numbers are known last.
  /// Throws std::invalid_argument when they would reach beyond the end.
  void overwrite(std::int64_t offset, std::span<const std::byte> bytes);
  /// fsync and close; nothing may follow.
  void finish();
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
  bool finished_ = false;
};

/// A NewFile written from front to back and hashed on the way.
class HashedFile {
 public:
  explicit HashedFile(const std::filesystem::path& path) : file_(path) {}

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// As NewFile's. The digest is of what was handed to `write`.
  FileDigest finish();
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  NewFile file_;
  DigestStream digest_;
};

FileDigest write_new_file(const std::filesystem::path& path, std::string_view content);
/// The copy's permissions are those of a new file, not those of `from`.
FileDigest copy_to_new_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace sinkscope
