#include "engine/metrics/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace sinkscope {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& action, int error) {
  throw std::runtime_error(path.string() + ": cannot " + action + ": " +
                           std::generic_category().message(error));
}

int open_for_appending(const std::filesystem::path& path, AppendFile::Mode mode) {
  int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
  if (mode == AppendFile::Mode::kCreate) flags |= O_EXCL;
  if (mode == AppendFile::Mode::kReplace) flags |= O_TRUNC;
  const int descriptor = ::open(path.c_str(), flags, 0644);
  if (descriptor < 0) fail(path, mode == AppendFile::Mode::kCreate ? "create" : "open", errno);
  return descriptor;
}

std::filesystem::path follow_link(const std::filesystem::path& path) {
  return std::filesystem::exists(path) ? std::filesystem::canonical(path) : path;
}

}  // namespace

AppendFile::AppendFile(std::filesystem::path path, Mode mode)
    : path_(std::move(path)), descriptor_(open_for_appending(path_, mode)) {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) {
    const int error = errno;
    ::close(descriptor_);
    fail(path_, "inspect", error);
  }
  is_regular_ = S_ISREG(status.st_mode);
  size_ = status.st_size;
}

AppendFile::~AppendFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      is_regular_(other.is_regular_) {}

void AppendFile::append(std::string_view bytes) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0) {
      const int error = errno;
      if (error == EINTR) continue;
      // A half-written line must not stand before the lines of a later, successful append.
      if (is_regular_ && rest.size() != bytes.size() && ::ftruncate(descriptor_, size_) != 0) {
        fail(path_, "write (and the last line is incomplete)", error);
      }
      fail(path_, "write", error);
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  size_ += static_cast<std::int64_t>(bytes.size());
}

void AppendFile::sync() {
  // Pipes and terminals cannot be synced and say so with EINVAL.
  if (is_regular_ && ::fsync(descriptor_) != 0) fail(path_, "sync", errno);
}

FileReplacement::FileReplacement(const std::filesystem::path& path, const std::string& temporary_name)
    : target_(follow_link(path)),
      file_(target_.parent_path() / temporary_name, AppendFile::Mode::kReplace) {}

FileReplacement::~FileReplacement() {
  if (!committed_) ::unlink(file_.path().c_str());
}

void FileReplacement::commit() {
  file_.sync();
  if (::rename(file_.path().c_str(), target_.c_str()) != 0) fail(target_, "replace", errno);
  committed_ = true;
  sync_directory(target_.parent_path());
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path name = directory.empty() ? std::filesystem::path(".") : directory;
  const int descriptor = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(name, "open", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some file systems cannot sync a folder and say so with EINVAL; their renames are durable by themselves.
  if (result != 0 && error != EINVAL) fail(name, "sync", error);
}

}  // namespace sinkscope
