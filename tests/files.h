// What tests of anything on disk share: fresh folders, whole files, full disks, the messages of exceptions.
#pragma once

#include <cstddef>
#include <exception>
#include <filesystem>
#include <string>

namespace sinkscope::test {

/// A new empty folder, removed with everything in it at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The whole file. Throws when it cannot be read.
std::string read_file(const std::filesystem::path& path);
/// Writes the whole file, and the folders above it.
void write_file(const std::filesystem::path& path, const std::string& content);

/// The number of files and folders in a folder.
std::size_t entries(const std::filesystem::path& folder);

/// Files of this process end at `bytes` while it lives, as on a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes);
  ~FileSizeLimit();
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  std::size_t before_ = 0;
  void (*handler_)(int) = nullptr;
};

/// Root is another user while it lives, where there is one: root may write to anything.
class Unprivileged {
 public:
  Unprivileged();
  ~Unprivileged();
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;
  /// False where root has remained root.
  bool holds() const;

 private:
  unsigned user_ = 0;
};

bool contains(const std::string& text, const std::string& part);

/// The message of the exception that `action` throws; empty when it throws none.
template <class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace sinkscope::test
