#include "engine/files/rename.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "engine/files/system_error.h"

namespace sinkscope {

void sync_folder(const std::filesystem::path& folder) {
  const std::filesystem::path name = folder.empty() ? std::filesystem::path(".") : folder;
  const int descriptor = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_system_error(name, "open", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // File systems that cannot sync a folder say so with EINVAL; their renames are durable by themselves.
  if (result != 0 && error != EINVAL) throw_system_error(name, "sync", error);
}

void rename_over(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_system_error(to, "replace", errno);
  sync_folder(to.parent_path());
}

void rename_to_new(const std::filesystem::path& from, const std::filesystem::path& to) {
  require_absent(to);
  int result = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE);
  if (result != 0 && errno == EEXIST) require_absent(to);
  // Some network file systems know only the plain rename; there the check above must do.
  if (result != 0 && (errno == EINVAL || errno == ENOSYS)) result = ::rename(from.c_str(), to.c_str());
  if (result != 0) throw_system_error(to, "put in place", errno);
  sync_folder(to.parent_path());
}

void require_absent(const std::filesystem::path& path, const char* advice) {
  if (std::filesystem::exists(std::filesystem::symlink_status(path)))
    throw std::runtime_error(path.string() + ": exists already" + advice);
}

}  // namespace sinkscope
