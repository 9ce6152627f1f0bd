#include "engine/data/output_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace sinkscope {

OutputFile::OutputFile(const std::filesystem::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail("cannot create");
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("cannot write");
    offset += written;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void OutputFile::finish() {
  if (::fsync(descriptor_) != 0) fail("cannot sync");
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) fail("cannot close");
}

void OutputFile::fail(const char* what) const {
  const int error = errno;
  throw std::runtime_error(path_.string() + ": " + what + ": " + std::strerror(error));
}

void write_new_file(const std::filesystem::path& path, std::string_view content) {
  OutputFile file(path);
  file.write_at(0, std::as_bytes(std::span(content)));
  file.finish();
}

void sync_dataset_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw std::runtime_error(folder.string() + ": cannot open: " + std::strerror(errno));
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (result != 0) throw std::runtime_error(folder.string() + ": cannot sync: " + std::strerror(error));
}

PendingFolder::PendingFolder(const std::filesystem::path& target)
    : target_(std::filesystem::absolute(target).lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "data/" is "data"
  require_absent();
  std::filesystem::create_directories(target_.parent_path());
  std::string name = (target_.parent_path() / ".").string();
  name += target_.filename().string();
  name += ".XXXXXX";
  if (::mkdtemp(name.data()) == nullptr)
    throw std::runtime_error(name + ": cannot create the folder: " + std::strerror(errno));
  path_ = name;
  if (::chmod(path_.c_str(), 0755) != 0)  // mkdtemp's folders are for their owner alone
    throw std::runtime_error(name + ": cannot set its permissions: " + std::strerror(errno));
}

PendingFolder::~PendingFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

void PendingFolder::publish() {
  sync_dataset_folder(path_);
  require_absent();
  std::filesystem::rename(path_, target_);
  path_.clear();
  sync_dataset_folder(target_.parent_path());
}

void PendingFolder::require_absent() const {
  if (std::filesystem::exists(std::filesystem::symlink_status(target_)))
    throw std::runtime_error(target_.string() + ": exists already; the output must be a new folder");
}

}  // namespace sinkscope
