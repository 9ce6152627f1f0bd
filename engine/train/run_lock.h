// One process at a time in a run directory.
#pragma once

#include <filesystem>

namespace sinkscope {

/// Holds DIRECTORY/lock, an advisory lock (flock) that the kernel takes back when the process ends,
/// however it ends; the file holds the process number. Throws std::runtime_error "DIRECTORY: is in use
/// by process N" when another holds it.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int file_ = -1;
};

}  // namespace sinkscope
