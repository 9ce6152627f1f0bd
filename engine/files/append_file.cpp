#include "engine/files/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

int open_for_appending(const std::filesystem::path& path, AppendFile::Mode mode) {
  int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
  if (mode == AppendFile::Mode::kCreate) flags |= O_EXCL;
  const int descriptor = ::open(path.c_str(), flags, 0666);
  if (descriptor < 0) throw_system_error(path, mode == AppendFile::Mode::kCreate ? "create" : "open", errno);
  return descriptor;
}

}  // namespace

AppendFile::AppendFile(std::filesystem::path path, Mode mode)
    : path_(std::move(path)), descriptor_(open_for_appending(path_, mode)) {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) {
    const int error = errno;
    ::close(descriptor_);
    throw_system_error(path_, "inspect", error);
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
        throw_system_error(path_, "write (and the last line is incomplete)", error);
      }
      throw_system_error(path_, "write", error);
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  size_ += static_cast<std::int64_t>(bytes.size());
}

void AppendFile::sync() {
  // Pipes and terminals cannot be synced and say so with EINVAL.
  if (is_regular_ && ::fsync(descriptor_) != 0) throw_system_error(path_, "sync", errno);
}

}  // namespace sinkscope
