#include "engine/comm/nccl_window.h"

#include "kernels/cuda/error.h"

namespace sinkscope {

bool prefer_copy_engines(ncclConfig_t& config) {
  config.CTAPolicy = NCCL_CTA_POLICY_ZERO;
  return true;
}

bool Window::allocate(ncclComm_t communicator, std::size_t bytes) {
  release(communicator);
  const std::size_t half = (bytes + NCCL_WIN_REQUIRED_ALIGNMENT - 1) / NCCL_WIN_REQUIRED_ALIGNMENT * NCCL_WIN_REQUIRED_ALIGNMENT;
  check_nccl(ncclMemAlloc(reinterpret_cast<void**>(&memory_), 2 * half), "ncclMemAlloc", communicator);
  ncclWindow_t window = nullptr;
  check_nccl(ncclCommWindowRegister(communicator, memory_, 2 * half, &window, NCCL_WIN_COLL_SYMMETRIC), "ncclCommWindowRegister", communicator);
  window_ = window;
  bytes_ = half;
  if (window == nullptr) release(communicator);
  return window != nullptr;
}

void Window::release(ncclComm_t communicator) noexcept {
  if (window_ != nullptr && communicator != nullptr) ncclCommWindowDeregister(communicator, static_cast<ncclWindow_t>(window_));
  window_ = nullptr;
  bytes_ = 0;
  if (memory_ != nullptr) ncclMemFree(memory_);
  memory_ = nullptr;
}

ncclResult_t Window::exchange(std::size_t bytes, ncclComm_t communicator, cudaStream_t stream) const {
  return ncclAlltoAll(sent(), received(), bytes, ncclUint8, communicator, stream);
}

}  // namespace sinkscope
