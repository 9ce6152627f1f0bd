#include "engine/checkpoint/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

namespace sinkscope {
namespace {

constexpr std::size_t kCopyBytes = std::size_t{1} << 20;

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& action, int error) {
  throw std::runtime_error(path.string() + ": cannot " + action + ": " + std::generic_category().message(error));
}

std::string hexadecimal(const XXH128_hash_t& hash) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

/// A file open for reading.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail(path_, "open", errno);
    struct stat status = {};
    const int error = ::fstat(descriptor_, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error != 0) {
      ::close(descriptor_);
      fail(path_, "read", error);
    }
  }
  ~InputFile() { ::close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// The next bytes, at most `buffer.size()`; none at the end.
  std::span<const std::byte> read(std::span<std::byte> buffer) {
    for (;;) {
      const ssize_t count = ::read(descriptor_, buffer.data(), buffer.size());
      if (count >= 0) return buffer.first(static_cast<std::size_t>(count));
      if (errno != EINTR) fail(path_, "read", errno);
    }
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace

struct DurableFile::Hash {
  Hash() : state(XXH3_createState(), &XXH3_freeState) {
    if (state == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state.get());
  }
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state;
};

DurableFile::DurableFile(const std::filesystem::path& path)
    : path_(path), hash_(std::make_unique<Hash>()) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(path_, "create", errno);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void DurableFile::write(std::span<const std::byte> bytes) {
  XXH3_128bits_update(hash_->state.get(), bytes.data(), bytes.size());
  size_ += static_cast<std::int64_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(path_, "write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

FileDigest DurableFile::finish() {
  if (::fsync(descriptor_) != 0) fail(path_, "sync", errno);
  // Some file systems report a full disk on close only.
  if (::close(std::exchange(descriptor_, -1)) != 0) fail(path_, "close", errno);
  return {size_, hexadecimal(XXH3_128bits_digest(hash_->state.get()))};
}

StagingFolder::StagingFolder(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (error) fail(path_, "remove", error.value());
  if (::mkdir(path_.c_str(), 0755) != 0) fail(path_, "create", errno);
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
    if (errno != ENOTEMPTY && errno != EEXIST) fail(target, "put in place", errno);
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0)
      fail(target, "replace", errno);
    exchanged = true;
  }
  committed_ = true;
  sync_folder(target.parent_path());
  if (exchanged) {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) fail(path_, "remove", error.value());
  }
}

void sync_folder(const std::filesystem::path& folder) {
  const std::filesystem::path name = folder.empty() ? std::filesystem::path(".") : folder;
  const int descriptor = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(name, "open", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // File systems that cannot sync a folder say so with EINVAL; their renames are durable by themselves.
  if (result != 0 && error != EINVAL) fail(name, "sync", error);
}

FileDigest write_text_file(const std::filesystem::path& path, std::string_view text) {
  DurableFile file(path);
  file.write(text);
  return file.finish();
}

FileDigest copy_file_synced(const std::filesystem::path& from, const std::filesystem::path& to) {
  InputFile input(from);
  DurableFile output(to);
  std::vector<std::byte> buffer(kCopyBytes);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) output.write(bytes);
  return output.finish();
}

FileDigest digest_file(const std::filesystem::path& path) {
  InputFile input(path);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (state == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  FileDigest digest;
  std::vector<std::byte> buffer(kCopyBytes);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) {
    XXH3_128bits_update(state.get(), bytes.data(), bytes.size());
    digest.size += static_cast<std::int64_t>(bytes.size());
  }
  digest.xxh3_128 = hexadecimal(XXH3_128bits_digest(state.get()));
  return digest;
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t limit) {
  InputFile input(path);
  std::string text;
  std::vector<std::byte> buffer(std::size_t{1} << 16);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (static_cast<std::int64_t>(text.size()) > limit)
      throw std::runtime_error(path.string() + ": larger than the " + std::to_string(limit) +
                               " bytes expected at most");
  }
  return text;
}

std::string hash_text(std::string_view text) { return hexadecimal(XXH3_128bits(text.data(), text.size())); }

}  // namespace sinkscope
