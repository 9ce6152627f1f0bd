#include "engine/train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "engine/files/system_error.h"

namespace sinkscope {

RunLock::RunLock(const std::filesystem::path& directory, std::chrono::milliseconds patience) {
  const std::filesystem::path path = directory / "lock";
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) throw_system_error(path, "open", errno);
  const auto end = std::chrono::steady_clock::now() + patience;
  while (flock(file_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if (reason == EWOULDBLOCK && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    char holder[32] = {};
    const ssize_t size = pread(file_, holder, sizeof holder - 1, 0);
    close(file_);
    if (reason != EWOULDBLOCK) throw_system_error(path, "lock", reason);
    const std::string number(holder, size > 0 ? static_cast<std::size_t>(size) : 0);
    throw RunInUse(directory.string() + ": is in use by " +
                   (number.empty() ? "another process" : "process " + number.substr(0, number.find('\n'))) +
                   "; wait for it to end, or stop it");
  }
  const std::string number = std::to_string(getpid()) + "\n";
  if (ftruncate(file_, 0) != 0 || pwrite(file_, number.data(), number.size(), 0) < 0) {
    const int reason = errno;
    close(file_);
    throw_system_error(path, "write", reason);
  }
}

RunLock::~RunLock() { close(file_); }

std::optional<int> run_lock_holder(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "lock";
  struct stat lock = {};
  if (stat(path.c_str(), &lock) != 0) return std::nullopt;
  int process = 0;
  if (!(std::ifstream(path) >> process) || process <= 0) return std::nullopt;
  std::error_code error;
  const std::filesystem::path open_files = "/proc/" + std::to_string(process) + "/fd";
  std::filesystem::directory_iterator entries(open_files, error);
  if (error) return error == std::errc::permission_denied ? std::optional(process) : std::nullopt;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    struct stat opened = {};
    if (stat(entries->path().c_str(), &opened) == 0 && opened.st_dev == lock.st_dev && opened.st_ino == lock.st_ino)
      return process;
  }
  return std::nullopt;
}

}  // namespace sinkscope
