// What ranks on GPUs of one host send one another by copy engines, which NCCL has from 2.28 on.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>

namespace sinkscope {

/// Whether this NCCL has them; a communicator made with `config` takes them where a call's arrays lie in windows.
bool prefer_copy_engines(ncclConfig_t& config);

/// ncclAlltoAll: row r of `sent`, of so many bytes, becomes row `rank` of what rank r receives.
ncclResult_t all_to_all(const void* sent, void* received, std::size_t bytes, ncclComm_t communicator,
                        cudaStream_t stream);

/// Memory of every rank, as much on each, that all of them write to. Nobody may use it any more when it goes.
class Window {
 public:
  Window() = default;
  ~Window() { release(nullptr); }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  /// Collective. False, and none, where NCCL has no windows; where it has, but these GPUs do not reach one another's
  /// memory, its kernels carry what should go by copy engines.
  bool allocate(ncclComm_t communicator, std::size_t bytes);
  /// Null where the communicator is no more.
  void release(ncclComm_t communicator) noexcept;

  std::size_t bytes() const { return bytes_; }
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* window_ = nullptr;
};

}  // namespace sinkscope
