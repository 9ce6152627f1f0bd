// Descriptions of tensors for the bulk tensor copy engine of compute capability 9.0.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace sinkscope::cuda::sm90 {

/// Of a (B, T, R, D) bf16 tensor whose boxes are `rows` of T by `columns` of D, 64 or all, of one head. In shared memory they
/// are matrices of rows of 64 columns, 128 bytes, under a swizzle of 128, one after the other. The coordinates of a box are
/// (0, head, t, d / 64, b). `data` is aligned to 16 bytes.
/// Throws std::runtime_error, naming `op`, where the driver refuses.
CUtensorMap map_heads(const char* op, const void* data, std::int64_t B, std::int64_t T, std::int64_t R, std::int64_t D, int rows, std::int64_t columns);

}  // namespace sinkscope::cuda::sm90
