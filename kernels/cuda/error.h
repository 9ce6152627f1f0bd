// Every CUDA and cuBLAS call is checked: a failure is a std::runtime_error with the call and the reason.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

namespace sinkscope {

/// Throws "WHAT: the CUDA runtime's name and text of the error" unless `status` is success.
void check_cuda(cudaError_t status, const char* what);
void check_blas(cublasStatus_t status, const char* what);

/// Whether the last kernel launch was accepted; errors inside a kernel show at the next wait.
inline void check_launch(const char* op) { check_cuda(cudaGetLastError(), op); }

}  // namespace sinkscope
