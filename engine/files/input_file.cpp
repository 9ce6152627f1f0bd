#include "engine/files/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <vector>

#include "engine/files/system_error.h"

namespace sinkscope {

InputFile::InputFile(const std::filesystem::path& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) throw_system_error(path_, "open", errno);
  struct stat status = {};
  const int error = ::fstat(descriptor_, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
  if (error != 0) {
    ::close(descriptor_);
    throw_system_error(path_, "read", error);
  }
}

InputFile::~InputFile() { ::close(descriptor_); }

std::span<const std::byte> InputFile::read(std::span<std::byte> buffer) {
  for (;;) {
    const ssize_t count = ::read(descriptor_, buffer.data(), buffer.size());
    if (count >= 0) return buffer.first(static_cast<std::size_t>(count));
    if (errno != EINTR) throw_system_error(path_, "read", errno);
  }
}

std::string read_text_file(const std::filesystem::path& path, std::int64_t limit) {
  InputFile input(path);
  std::string text;
  std::vector<std::byte> buffer(std::size_t{1} << 16);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (static_cast<std::int64_t>(text.size()) > limit)
      throw std::runtime_error(path.string() + ": is larger than " + std::to_string(limit) + " bytes");
  }
  return text;
}

}  // namespace sinkscope
