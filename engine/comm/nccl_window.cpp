#include "engine/comm/nccl_window.h"

#include "engine/comm/nccl_error.h"

namespace sinkscope {

bool prefer_copy_engines(ncclConfig_t& config) {
  config.CTAPolicy = NCCL_CTA_POLICY_ZERO;
  return true;
}

ncclResult_t all_to_all(const void* sent, void* received, std::size_t bytes, ncclComm_t communicator,
                        cudaStream_t stream) {
  return ncclAlltoAll(sent, received, bytes, ncclUint8, communicator, stream);
}

bool Window::allocate(ncclComm_t communicator, std::size_t bytes) {
  check_nccl(ncclMemAlloc(reinterpret_cast<void**>(&data_), bytes), "ncclMemAlloc", communicator);
  ncclWindow_t window = nullptr;
  check_nccl(ncclCommWindowRegister(communicator, data_, bytes, &window, NCCL_WIN_COLL_SYMMETRIC),
             "ncclCommWindowRegister", communicator);
  window_ = window;
  bytes_ = bytes;
  if (window == nullptr) release(communicator);
  return window != nullptr;
}

void Window::release(ncclComm_t communicator) noexcept {
  if (window_ != nullptr && communicator != nullptr)
    ncclCommWindowDeregister(communicator, static_cast<ncclWindow_t>(window_));
  window_ = nullptr;
  bytes_ = 0;
  if (data_ != nullptr) ncclMemFree(data_);
  data_ = nullptr;
}

}  // namespace sinkscope
