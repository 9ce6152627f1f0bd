#include "engine/metrics/log_follower.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

constexpr std::size_t kTailBytes = 256;
constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::size_t kPlaceBytes = std::size_t{64} << 10;  // read at once at a place of a sample
// Bytes left out behind each that a sample reads, so that it reads an eighth at most.
constexpr std::int64_t kSampleGap = 7;

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
std::size_t read_at(const std::filesystem::path& path, int descriptor, std::int64_t offset, char* bytes,
                    std::size_t size) {
  std::size_t filled = 0;
  while (filled < size) {
    const ssize_t count =
        ::pread(descriptor, bytes + filled, size - filled, static_cast<off_t>(offset) + static_cast<off_t>(filled));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_system_error(path, "read", errno);
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  return filled;
}

std::string text_at(const std::filesystem::path& path, int descriptor, std::int64_t offset, std::size_t size) {
  std::string text(size, '\0');
  text.resize(read_at(path, descriptor, offset, text.data(), size));
  return text;
}

/// The whole lines of a file from a place on.
class LinesFrom {
 public:
  LinesFrom(const std::filesystem::path& path, int descriptor, std::int64_t offset, std::size_t block_bytes)
      : path_(path), descriptor_(descriptor), position_(offset), block_bytes_(block_bytes) {}

  /// The next line without its newline, which holds until the next call; nothing where no newline follows.
  std::optional<std::string_view> next() {
    std::size_t searched = begin_;
    while (true) {
      const void* const newline =
          end_ == searched ? nullptr : std::memchr(bytes_.get() + searched, '\n', end_ - searched);
      if (newline != nullptr) {
        const std::string_view line(bytes_.get() + begin_, static_cast<const char*>(newline));
        begin_ += line.size() + 1;
        position_ += static_cast<std::int64_t>(line.size() + 1);
        return line;
      }
      const std::size_t rest = end_ - begin_;
      if (!read_more()) return std::nullopt;
      searched = rest;
    }
  }

  std::int64_t position() const { return position_; }  // behind the last line

 private:
  /// Moves what is left to the front and reads a block behind it; false at the end of the file.
  bool read_more() {
    const std::size_t rest = end_ - begin_;
    if (rest + block_bytes_ > room_) {
      const std::size_t room = std::max(rest + block_bytes_, 2 * room_);
      auto bytes = std::make_unique_for_overwrite<char[]>(room);
      if (rest > 0) std::memcpy(bytes.get(), bytes_.get() + begin_, rest);
      bytes_ = std::move(bytes);
      room_ = room;
    } else if (rest > 0) {
      std::memmove(bytes_.get(), bytes_.get() + begin_, rest);
    }
    begin_ = 0;
    const std::size_t count =
        read_at(path_, descriptor_, position_ + static_cast<std::int64_t>(rest), bytes_.get() + rest, block_bytes_);
    end_ = rest + count;
    return count > 0;
  }

  const std::filesystem::path& path_;
  int descriptor_;
  std::int64_t position_;
  std::size_t block_bytes_;
  std::unique_ptr<char[]> bytes_;  // [begin_, end_) was read and not given away, from position_ on
  std::size_t room_ = 0, begin_ = 0, end_ = 0;
};

/// The lines that begin at `begin` or behind it.
LinesFrom lines_behind(const std::filesystem::path& path, int descriptor, std::int64_t begin, std::size_t block_bytes) {
  LinesFrom lines(path, descriptor, std::max<std::int64_t>(begin - 1, 0), block_bytes);
  if (begin > 0) lines.next();  // the end of the line before: its newline alone where a line begins at `begin`
  return lines;
}

}  // namespace

LogFollower::LogFollower(std::filesystem::path path) : path_(std::move(path)) {}

void LogFollower::forget() {
  offset_ = lines_ = sampled_ = 0;
  device_ = file_number_ = 0;
  tail_.clear();
}

LogLook LogFollower::look(const std::function<void()>& began,
                          const std::function<void(std::string_view, std::int64_t)>& visit, std::int64_t limit) {
  LogLook result;
  unread_ = 0;
  const auto begin_again = [&] {
    const bool had_lines = lines_ > 0 || sampled_ > 0;
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
  const bool same = status.st_dev == device_ && status.st_ino == file_number_ &&
                    status.st_size >= std::max(offset_, sampled_) &&
                    text_at(path_, number, offset_ - static_cast<std::int64_t>(tail_.size()), tail_.size()) == tail_;
  if (!same) begin_again();
  device_ = status.st_dev;
  file_number_ = status.st_ino;

  std::int64_t taken = 0;
  LinesFrom lines(path_, number, offset_, kBlockBytes);
  while (const auto line = lines.next()) {
    if (taken >= limit) {
      unread_ = status.st_size - offset_;
      break;
    }
    taken += lines.position() - offset_;
    offset_ = lines.position();
    tail_.append(line->substr(line->size() - std::min(line->size(), kTailBytes))).push_back('\n');
    tail_.erase(0, tail_.size() - std::min(tail_.size(), kTailBytes));
    ++result.lines;
    visit(*line, ++lines_);
  }
  return result;
}

bool LogFollower::sample(std::size_t places, std::int64_t least,
                         const std::function<bool(std::string_view, std::size_t)>& visit) {
  const int number = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) return false;
  const Descriptor file(number);
  struct stat status = {};
  if (::fstat(number, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  const std::int64_t size = status.st_size;
  const bool same = status.st_dev == device_ && status.st_ino == file_number_;
  if (places == 0 || size - offset_ < least || (lines_ > 0 && !same)) return false;
  device_ = status.st_dev;
  file_number_ = status.st_ino;

  std::int64_t end = 0;          // behind the last line that was visited
  std::int64_t place_bytes = 0;  // of the place before, and the most of any
  std::int64_t most_bytes = 0;
  std::size_t most_lines = 1;
  for (std::size_t place = 0; place < places; ++place) {
    const std::int64_t even = size / static_cast<std::int64_t>(places) * static_cast<std::int64_t>(place);
    const std::int64_t begin = place == 0 ? 0 : std::max(even, end + kSampleGap * place_bytes);
    if (begin >= size) break;
    LinesFrom lines = lines_behind(path_, number, begin, kPlaceBytes);
    std::size_t count = 0;
    bool more = true;
    while (more) {
      const auto line = lines.next();
      if (!line) break;
      end = lines.position();
      more = visit(*line, count++);
    }
    place_bytes = lines.position() - begin;
    most_bytes = std::max(most_bytes, place_bytes);
    most_lines = std::max(most_lines, count);
  }
  // The last lines, as many as of any place: looked for from the end backwards.
  for (std::int64_t window = std::max<std::int64_t>(2 * most_bytes, kPlaceBytes);; window *= 2) {
    const std::int64_t begin = std::max(end, size - window);
    std::size_t count = 0;
    for (LinesFrom lines = lines_behind(path_, number, begin, kBlockBytes); lines.next();) ++count;
    if (count < most_lines && begin > end) continue;
    LinesFrom lines = lines_behind(path_, number, begin, kBlockBytes);
    for (std::size_t i = 0, left_out = count - std::min(count, most_lines); i < count; ++i) {
      const auto line = lines.next();
      if (!line) break;
      if (i < left_out) continue;
      end = lines.position();
      visit(*line, i - left_out);
    }
    break;
  }
  sampled_ = end;
  return true;
}

}  // namespace sinkscope
