#include "engine/files/new_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "engine/files/rename.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

constexpr const char* kAdvice = "; the output must be a new folder";

}  // namespace

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

void StagingFolder::commit(const std::filesystem::path& target) {
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
  if (exchanged) {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) throw_system_error(path_, "remove", error.value());
  }
}

PendingFolder::PendingFolder(const std::filesystem::path& target)
    : target_(std::filesystem::absolute(target).lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "data/" is "data"
  require_absent(target_, kAdvice);
  std::filesystem::create_directories(target_.parent_path());
  std::string name = (target_.parent_path() / ".").string();
  name += target_.filename().string();
  name += ".XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw_system_error(name, "create the folder", errno);
  path_ = name;
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
