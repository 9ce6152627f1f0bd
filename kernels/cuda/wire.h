// What travels between GPUs, in f32 or rounded to bf16, and is added up in f32. Arrays of any alignment; all on the
// stream they are given.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {

/// wire (n) bf16 = x (n) f32, rounded to nearest; and x = wire.
void to_wire(cudaStream_t stream, void* wire, const float* x, std::int64_t n);
void from_wire(cudaStream_t stream, float* x, const void* wire, std::int64_t n);

/// What ranks send one another of an array: row r is for rank r, or from it.
struct WireRows {
  void* data;
  DType dtype;         // f32 or bf16
  std::int64_t pitch;  // elements from row to row
  int ranks, mine;
};

/// Row r = x's elements [r * part, (r + 1) * part), as far as x (n) f32 has them; that of `mine` is left alone.
void pack_parts(cudaStream_t stream, const WireRows& rows, const float* x, std::int64_t n, std::int64_t part);

/// x (n) of the rows' dtype: elements [r * part, (r + 1) * part) of it, as far as there are so many, = row r, that of
/// `mine` too.
void unpack_parts(cudaStream_t stream, void* x, std::int64_t n, std::int64_t part, const WireRows& rows);

/// sum (n) f32 = the addends of all ranks in rank order: row r's first n, for rank `mine` own (n) f32, which may be
/// sum.
void add_in_rank_order(cudaStream_t stream, float* sum, const float* own, const WireRows& rows, std::int64_t n);

}  // namespace sinkscope::cuda
