// Descriptions of tensors for the bulk tensor copy engine of compute capability 9.0.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace sinkscope::cuda::sm90 {

/// Of a (B, T, R, D) bf16 tensor whose boxes are `rows` of T by `columns` of D, 64 or all, of one head. In shared
/// memory they are matrices of rows of 64 columns, 128 bytes, under a swizzle of 128, one after the other. The
/// coordinates of a box are (0, head, t, d / 64, b). `data` is aligned to 16 bytes. Throws std::runtime_error, naming
/// `op`, where the driver refuses.
CUtensorMap map_heads(const char* op, const void* data, std::int64_t B, std::int64_t T, std::int64_t R, std::int64_t D,
                      int rows, std::int64_t columns);

/// Of `slabs` matrices of (rows, columns) bf16 whose rows are `row_stride` and which are `slab_stride` elements apart,
/// in boxes of `box_rows` rows of 64 columns of one, in shared memory as above, or of 32, where rows of 64 bytes are
/// under a swizzle of 64. The coordinates of a box are (column, row, slab). Columns and strides are multiples of 8,
/// `data` is aligned to 16 bytes.
CUtensorMap map_slabs(const char* op, const void* data, std::int64_t slabs, std::int64_t rows, std::int64_t columns,
                      std::int64_t row_stride, std::int64_t slab_stride, int box_rows, int box_columns = 64);

}  // namespace sinkscope::cuda::sm90
