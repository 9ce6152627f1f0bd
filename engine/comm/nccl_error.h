// Every NCCL call is checked.
#pragma once

#include <nccl.h>

namespace sinkscope {

/// Throws std::runtime_error naming the call, with what NCCL says, unless `status` is success.
void check_nccl(ncclResult_t status, const char* call, ncclComm_t communicator = nullptr);

}  // namespace sinkscope
