#include "engine/metrics/log_follower.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

constexpr std::size_t kTailBytes = 256;
constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

/// Up to `size` bytes from `offset` on; fewer at the end of the file.
std::string read_at(const std::filesystem::path& path, int descriptor, std::int64_t offset, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t count = ::pread(descriptor, bytes.data() + filled, size - filled,
                                  static_cast<off_t>(offset) + static_cast<off_t>(filled));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_system_error(path, "read", errno);
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  bytes.resize(filled);
  return bytes;
}

}  // namespace

LogFollower::LogFollower(std::filesystem::path path) : path_(std::move(path)) {}

void LogFollower::forget() {
  offset_ = lines_ = 0;
  device_ = file_number_ = 0;
  tail_.clear();
}

LogLook LogFollower::look(const std::function<void()>& began,
                          const std::function<void(std::string_view, std::int64_t)>& visit, std::int64_t limit) {
  LogLook result;
  unread_ = 0;
  const auto begin_again = [&] {
    const bool had_lines = lines_ > 0;
    forget();
    if (!had_lines) return;
    result.began_again = true;
    began();
  };

  const int number = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) {
    if (errno != ENOENT && errno != ENOTDIR) throw_system_error(path_, "open", errno);
    begin_again();
    return result;
  }
  const Descriptor file(number);
  struct stat status = {};
  if (::fstat(number, &status) != 0) throw_system_error(path_, "inspect", errno);
  if (!S_ISREG(status.st_mode)) throw_system_error(path_, "read", S_ISDIR(status.st_mode) ? EISDIR : EINVAL);
  const bool same = status.st_dev == device_ && status.st_ino == file_number_ && status.st_size >= offset_ &&
                    read_at(path_, number, offset_ - static_cast<std::int64_t>(tail_.size()), tail_.size()) == tail_;
  if (!same) begin_again();
  device_ = status.st_dev;
  file_number_ = status.st_ino;

  // `pending` holds what was read and not visited: from offset_ on.
  std::string pending;
  std::int64_t taken = 0;
  while (true) {
    const std::string block = read_at(path_, number, offset_ + static_cast<std::int64_t>(pending.size()), kBlockBytes);
    if (block.empty()) break;
    const std::size_t before = pending.size();
    pending += block;
    std::size_t begin = 0;
    std::size_t end = pending.find('\n', before);
    while (end != std::string::npos) {
      if (taken >= limit) {
        unread_ = status.st_size - offset_;
        return result;
      }
      const std::string_view line = std::string_view(pending).substr(begin, end - begin);
      const auto bytes = static_cast<std::int64_t>(line.size() + 1);
      const std::size_t kept = std::min(line.size() + 1, kTailBytes);
      tail_.append(pending, end + 1 - kept, kept);
      tail_.erase(0, tail_.size() - std::min(tail_.size(), kTailBytes));
      offset_ += bytes;
      taken += bytes;
      begin = end + 1;
      ++result.lines;
      visit(line, ++lines_);
      end = pending.find('\n', begin);
    }
    pending.erase(0, begin);
  }
  return result;
}

}  // namespace sinkscope
