#include "kernels/cuda/sm90/tensor_map.h"

#include <cuda_runtime_api.h>

#include <array>
#include <stdexcept>
#include <string>

#include "kernels/cuda/error.h"

namespace sinkscope::cuda::sm90 {
namespace {

/// The driver's function, found at run time: nothing links to the driver, which a machine without a GPU lacks.
decltype(&cuTensorMapEncodeTiled) encoder(const char* op) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
             op);
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw std::runtime_error(std::string(op) +
                             ": the driver has no cuTensorMapEncodeTiled; expected one of CUDA 12 or later");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

constexpr std::int64_t kBytes = 2, kHalf = 64;

cuuint64_t u64(std::int64_t n) { return static_cast<cuuint64_t>(n); }

/// Of bf16, under a swizzle of as many bytes as a row of the box has, 64 or 128.
template <std::size_t Rank>
CUtensorMap encode(const char* op, const void* data, const std::array<cuuint64_t, Rank>& extents,
                   const std::array<cuuint64_t, Rank - 1>& strides, const std::array<cuuint32_t, Rank>& box) {
  static const auto encode_tiled = encoder(op);
  std::array<cuuint32_t, Rank> steps;
  steps.fill(1);
  CUtensorMap map;
  const CUresult status =
      encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, Rank, const_cast<void*>(data), extents.data(),
                   strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                   box[0] == kHalf ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::string shape;
    for (const cuuint64_t extent : extents) shape = std::to_string(extent) + (shape.empty() ? "" : ", ") + shape;
    throw std::runtime_error(std::string(op) + ": cuTensorMapEncodeTiled refuses a (" + shape +
                             ") bf16 tensor: error " + std::to_string(static_cast<int>(status)));
  }
  return map;
}

}  // namespace

CUtensorMap map_heads(const char* op, const void* data, std::int64_t B, std::int64_t T, std::int64_t R, std::int64_t D,
                      int rows, std::int64_t columns) {
  return encode<5>(op, data, {u64(kHalf), u64(R), u64(T), u64(D / kHalf), u64(B)},
                   {u64(D * kBytes), u64(R * D * kBytes), u64(kHalf * kBytes), u64(T * R * D * kBytes)},
                   {kHalf, 1, static_cast<cuuint32_t>(rows), static_cast<cuuint32_t>(columns / kHalf), 1});
}

CUtensorMap map_slabs(const char* op, const void* data, std::int64_t slabs, std::int64_t rows, std::int64_t columns,
                      std::int64_t row_stride, std::int64_t slab_stride, int box_rows, int box_columns) {
  return encode<3>(op, data, {u64(columns), u64(rows), u64(slabs)},
                   {u64(row_stride * kBytes), u64(slab_stride * kBytes)},
                   {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows), 1});
}

}  // namespace sinkscope::cuda::sm90
