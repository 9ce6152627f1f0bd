// Clock and memory of the host.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>

#include "kernels/cpu/cpu_ops.h"

namespace sinkscope {

double CpuOps::time_ms(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

void CpuOps::mark() { marks_.push_back(std::chrono::steady_clock::now()); }

std::vector<double> CpuOps::marked_ms() {
  std::vector<double> times;
  times.reserve(marks_.size());
  for (const auto& point : marks_)
    times.push_back(std::chrono::duration<double, std::milli>(point - marks_.front()).count());
  marks_.clear();
  return times;
}

std::size_t CpuOps::peak_memory() const {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::size_t CpuOps::total_memory() const {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace sinkscope
