#include "engine/comm/nccl_error.h"

#include <stdexcept>
#include <string>

namespace sinkscope {

void check_nccl(ncclResult_t status, const char* call, ncclComm_t communicator) {
  if (status == ncclSuccess) return;
  const char* detail = ncclGetLastError(communicator);
  throw std::runtime_error(std::string(call) + ": " + ncclGetErrorString(status) +
                           (detail != nullptr && *detail != '\0' ? std::string(": ") + detail : std::string()));
}

}  // namespace sinkscope
