// What CudaOps keeps behind its pointers.
#pragma once

#include <cublasLt.h>

#include <vector>

#include "kernels/cuda/cuda_ops.h"

namespace sinkscope {

/// A matrix product of one shape: descriptors and the algorithm, chosen once and kept, because another algorithm may
/// round differently.
struct CudaOps::Plan {
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan();

  /// Of bias, aux and scales, which are part of the descriptor.
  void set_pointers(const Operands& operands);

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool own_kernel = false;  // and no algorithm
};

/// A stretch of a segment that one block works on.
struct Chunk {
  std::int64_t begin = 0;
  std::int32_t size = 0;
  std::int32_t decay = 0;
};

struct CudaOps::ChunkTable {
  std::vector<Segment> segments;   // what it was made of
  std::int64_t size = 0;           // of the array they lie in
  std::int64_t chunks = 0;
  bool aligned = false;            // every segment, and so every chunk, begins at a multiple of 8 elements
  Buffer device_chunks;            // (chunks) Chunk
  Buffer device_first;             // (S+1) i64: the first chunk of each segment
};

}  // namespace sinkscope
