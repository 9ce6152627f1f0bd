// Stands where the CUDA backend would: a build without the CUDA toolkit says so.
#include <stdexcept>

#include "kernels/ops.h"

namespace sinkscope {

std::string cuda_description() { return {}; }

std::vector<std::string> cuda_devices(std::string* why_none) {
  if (why_none != nullptr) *why_none = "this build has no CUDA backend";
  return {};
}

std::unique_ptr<Ops> make_cuda_ops(const CudaOptions& options) {
  throw std::runtime_error("make_cuda_ops: GPU " + std::to_string(options.device) +
                           " was asked for, and this build has no CUDA backend (configure with the cuda preset)");
}

}  // namespace sinkscope
