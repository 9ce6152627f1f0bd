#include "engine/files/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/files/input_file.h"
#include "engine/files/system_error.h"

namespace sinkscope {

NewFile::NewFile(const std::filesystem::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) throw_system_error(path_, "create", errno);
}

NewFile::~NewFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!finished_) ::unlink(path_.c_str());
}

void NewFile::write(std::span<const std::byte> bytes) {
  write_at(size_, bytes);
  size_ += static_cast<std::int64_t>(bytes.size());
}

void NewFile::overwrite(std::int64_t offset, std::span<const std::byte> bytes) {
  const auto count = static_cast<std::int64_t>(bytes.size());
  if (offset < 0 || count > size_ || offset > size_ - count)
    throw std::invalid_argument(path_.string() + ": bytes [" + std::to_string(offset) + ", " +
                                std::to_string(offset + count) + ") are not among the " + std::to_string(size_) +
                                " written");
  write_at(offset, bytes);
}

void NewFile::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_system_error(path_, "write", written < 0 ? errno : EIO);
    offset += written;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void NewFile::finish() {
  if (::fsync(descriptor_) != 0) throw_system_error(path_, "sync", errno);
  // Some file systems report a full disk on close only.
  if (::close(std::exchange(descriptor_, -1)) != 0) throw_system_error(path_, "close", errno);
  finished_ = true;
}

void HashedFile::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
  digest_.add(bytes);
}

FileDigest HashedFile::finish() {
  file_.finish();
  return digest_.digest();
}

FileDigest write_new_file(const std::filesystem::path& path, std::string_view content) {
  HashedFile file(path);
  file.write(content);
  return file.finish();
}

FileDigest copy_to_new_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  InputFile input(from);
  HashedFile output(to);
  std::vector<std::byte> buffer(kCopyBytes);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) output.write(bytes);
  return output.finish();
}

}  // namespace sinkscope
