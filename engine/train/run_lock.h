// One process at a time in a run directory.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>

namespace sinkscope {

/// Another process holds the lock: "DIRECTORY: is in use by process N".
struct RunInUse : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Holds DIRECTORY/lock, an advisory lock (flock) that the kernel takes back when the process ends,
/// however it ends; the file holds the process number. Throws RunInUse when another holds it, and still does after
/// `patience`, and std::runtime_error naming the file where it cannot be opened, locked or written.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& directory, std::chrono::milliseconds patience = {});
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int file_ = -1;
};

/// The process of this machine that holds the lock of DIRECTORY, without touching the lock: the one that its file
/// names, where that has the file open, or may have it but belongs to another user. Nothing where none does: no process
/// holds it, or one of another machine.
std::optional<int> run_lock_holder(const std::filesystem::path& directory);

}  // namespace sinkscope
