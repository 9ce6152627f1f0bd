// Clock and memory of the GPU, and the ranges that profilers show.
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"

namespace sinkscope {
namespace {

CudaEvent make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  return CudaEvent(event);
}

double milliseconds_between(const CudaEvent& begin, const CudaEvent& end) {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds);
}

}  // namespace

double CudaOps::time_ms(const std::function<void()>& work) {
  const CudaEvent begin = make_event(), end = make_event();
  check_cuda(cudaEventRecord(begin.get(), stream_), "cudaEventRecord");
  work();
  check_cuda(cudaEventRecord(end.get(), stream_), "cudaEventRecord");
  check_cuda(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
  return milliseconds_between(begin, end);
}

void CudaOps::mark() {
  if (marks_ == mark_events_.size()) mark_events_.push_back(make_event());
  check_cuda(cudaEventRecord(mark_events_[marks_].get(), stream_), "cudaEventRecord");
  ++marks_;
}

std::vector<double> CudaOps::marked_ms() {
  std::vector<double> times(marks_);
  if (marks_ == 0) return times;
  check_cuda(cudaEventSynchronize(mark_events_[marks_ - 1].get()), "cudaEventSynchronize");
  // Each from the first: an f32 of milliseconds is good to 0.1 us in a second.
  for (std::size_t i = 0; i < marks_; ++i) times[i] = milliseconds_between(mark_events_.front(), mark_events_[i]);
  marks_ = 0;
  return times;
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
