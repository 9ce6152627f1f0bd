#include "engine/files/new_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/files/rename.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

constexpr const char* kAdvice = "; the output must be a new folder";
constexpr std::string_view kRandomPart = "XXXXXX";  // as mkdtemp takes it

/// What the names of the folders that shall become `target` begin with.
std::string pending_prefix(const std::filesystem::path& target) {
  return "." + target.filename().string() + ".pending-";
}

/// Removes what killed processes left of their work on `target`. What cannot be removed, such as
/// another user's, does no harm.
void remove_abandoned(const std::filesystem::path& target) {
  const std::string prefix = pending_prefix(target);
  std::vector<std::filesystem::path> pending;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(target.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.size() == prefix.size() + kRandomPart.size()) pending.push_back(entry.path());
  }
  for (const std::filesystem::path& folder : pending)
    if (const FolderLock lock(folder); lock.held()) std::filesystem::remove_all(folder, ignored);
}

}  // namespace

bool make_folders(const std::filesystem::path& folder) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(folder, error);
  if (error) throw_system_error(folder, "make the folder", error.value());
  return made;
}

StagingFolder::StagingFolder(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) throw_system_error(path_, "remove", error.value());
  if (::mkdir(path_.c_str(), 0755) != 0) throw_system_error(path_, "create", errno);
}

StagingFolder::~StagingFolder() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove_all(path_, ignored);
}

std::error_code StagingFolder::commit(const std::filesystem::path& target) {
  sync_folder(path_);
  bool exchanged = false;
  if (::rename(path_.c_str(), target.c_str()) != 0) {
    // A folder with content cannot be replaced by rename; exchanging the two leaves no moment
    // without one of them.
    if (errno != ENOTEMPTY && errno != EEXIST) throw_system_error(target, "put in place", errno);
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0)
      throw_system_error(target, "replace", errno);
    exchanged = true;
  }
  committed_ = true;
  sync_folder(target.parent_path());
  std::error_code error;
  if (exchanged) std::filesystem::remove_all(path_, error);
  return error;
}

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) {
  if (descriptor_ < 0) {
    lost_ = errno == ENOENT;
    return;
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
    lost_ = !std::filesystem::exists(folder);  // removed since it was opened
    if (!lost_) return;
  } else {
    lost_ = errno == EWOULDBLOCK;
  }
  ::close(std::exchange(descriptor_, -1));
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

PendingFolder::PendingFolder(const std::filesystem::path& target)
    : target_(std::filesystem::absolute(target).lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "data/" is "data"
  require_absent(target_, kAdvice);
  make_folders(target_.parent_path());
  remove_abandoned(target_);
  do {  // until no other process takes the new folder for an abandoned one before it is locked
    std::string name = (target_.parent_path() / pending_prefix(target_)).string();
    name += kRandomPart;
    if (::mkdtemp(name.data()) == nullptr) throw_system_error(name, "create the folder", errno);
    path_ = name;
    lock_.emplace(path_);
  } while (lock_->lost());
  if (::chmod(path_.c_str(), 0755) != 0) {  // mkdtemp's folders are for their owner alone
    const int error = errno;
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
    throw_system_error(path_, "set the permissions", error);
  }
}

PendingFolder::~PendingFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

void PendingFolder::commit() {
  sync_folder(path_);
  require_absent(target_, kAdvice);
  rename_to_new(path_, target_);
  path_.clear();
}

}  // namespace sinkscope
