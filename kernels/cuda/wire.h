// What travels between GPUs in bf16 and is added up in f32. Arrays of any alignment; all on the stream they are given.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sinkscope::cuda {

/// wire (n) bf16 = x (n) f32, rounded to nearest; and x = wire.
void to_wire(cudaStream_t stream, void* wire, const float* x, std::int64_t n);
void from_wire(cudaStream_t stream, float* x, const void* wire, std::int64_t n);

/// own (n) f32 becomes the sum over `ranks` in rank order, in f32: its own value at place `mine`, for the others the rows of
/// `received` (ranks - 1, n) bf16 in their order.
void add_in_rank_order(cudaStream_t stream, float* own, const void* received, std::int64_t n, int ranks, int mine);

}  // namespace sinkscope::cuda
