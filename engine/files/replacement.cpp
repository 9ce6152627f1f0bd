#include "engine/files/replacement.h"

#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "engine/files/rename.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

/// The file behind a link, so that the link stays one. A rename would replace even a device.
std::filesystem::path replaceable(const std::filesystem::path& target) {
  if (!std::filesystem::exists(target)) return target;
  if (!std::filesystem::is_regular_file(target))
    throw std::runtime_error(target.string() + ": exists and is not a regular file");
  return std::filesystem::canonical(target);
}

std::filesystem::path absent(const std::filesystem::path& target) {
  require_absent(target);
  return target;
}

/// Where the content of `target` grows, cleared.
std::filesystem::path beside(const std::filesystem::path& target, const std::string& temporary_name) {
  const std::string name = temporary_name.empty() ? target.filename().string() + ".partial" : temporary_name;
  const std::filesystem::path path = target.parent_path() / name;
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_system_error(path, "remove", errno);
  return path;
}

}  // namespace

FileReplacement::FileReplacement(const std::filesystem::path& target, const std::string& temporary_name)
    : target_(replaceable(target)), file_(beside(target_, temporary_name)) {}

// Once finished, a file no longer removes itself.
FileReplacement::~FileReplacement() {
  if (!committed_) ::unlink(file_.path().c_str());
}

void FileReplacement::commit() {
  file_.finish();
  rename_over(file_.path(), target_);
  committed_ = true;
}

PendingFile::PendingFile(const std::filesystem::path& target) : target_(absent(target)), file_(beside(target_, {})) {}

PendingFile::~PendingFile() {
  if (!committed_) ::unlink(file_.path().c_str());
}

void PendingFile::commit() {
  file_.finish();
  rename_to_new(file_.path(), target_);
  committed_ = true;
}

}  // namespace sinkscope
