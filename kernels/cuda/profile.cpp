// Clock and memory of the GPU, and the ranges that profilers show.
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <type_traits>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"

namespace sinkscope {
namespace {

struct EventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;

Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  return Event(event);
}

}  // namespace

double CudaOps::time_ms(const std::function<void()>& work) {
  const Event begin = make_event(), end = make_event();
  check_cuda(cudaEventRecord(begin.get(), stream_), "cudaEventRecord");
  work();
  check_cuda(cudaEventRecord(end.get(), stream_), "cudaEventRecord");
  check_cuda(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds);
}

std::size_t CudaOps::peak_memory() const {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return std::max(peak_memory_, total - free);
}

std::size_t CudaOps::total_memory() const { return properties_.totalGlobalMem; }

void CudaOps::range_push(const char* name, std::int64_t index) noexcept {
  if (index < 0) {
    nvtxRangePushA(name);
    return;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%s %lld", name, static_cast<long long>(index));
  nvtxRangePushA(text.data());
}

void CudaOps::range_pop() noexcept { nvtxRangePop(); }

}  // namespace sinkscope
