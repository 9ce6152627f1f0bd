#include "kernels/cuda/sm90/tensor_map.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "kernels/cuda/error.h"

namespace sinkscope::cuda::sm90 {
namespace {

/// The driver's function, found at run time: nothing links to the driver, which a machine without a GPU lacks.
decltype(&cuTensorMapEncodeTiled) encoder(const char* op) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found), op);
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw std::runtime_error(std::string(op) + ": the driver has no cuTensorMapEncodeTiled; expected one of CUDA 12 or later");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

CUtensorMap map_heads(const char* op, const void* data, std::int64_t B, std::int64_t T, std::int64_t R, std::int64_t D, int rows, std::int64_t columns) {
  static const auto encode = encoder(op);
  constexpr int kRank = 5;
  constexpr std::int64_t kBytes = 2, kHalf = 64;
  const auto u64 = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t extents[kRank] = {u64(kHalf), u64(R), u64(T), u64(D / kHalf), u64(B)};
  const cuuint64_t strides[kRank - 1] = {u64(D * kBytes), u64(R * D * kBytes), u64(kHalf * kBytes), u64(T * R * D * kBytes)};
  const cuuint32_t box[kRank] = {kHalf, 1, static_cast<cuuint32_t>(rows), static_cast<cuuint32_t>(columns / kHalf), 1};
  const cuuint32_t steps[kRank] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(data), extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error(std::string(op) + ": cuTensorMapEncodeTiled refuses a (" + std::to_string(B) + ", " +
                             std::to_string(T) + ", " + std::to_string(R) + ", " + std::to_string(D) + ") bf16 tensor: error " +
                             std::to_string(static_cast<int>(status)));
  return map;
}

}  // namespace sinkscope::cuda::sm90
