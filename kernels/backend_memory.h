// What a GPU backend takes for itself, beside the buffers that its callers allocate: a function of extents
// alone, so that it is known without a GPU. Symbols as in kernels/ops.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope {

/// B sequences of T positions.
struct BatchExtents {
  std::int64_t sequences = 0;
  std::int64_t length = 0;
};

/// A linear map of I inputs to O outputs.
struct LinearShape {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
};

/// The largest extents of all that a backend will be asked for.
struct BackendExtents {
  BatchExtents training;                    // goes forward and back; smaller ones need less
  bool training_statistics = false;         // attention_statistics of it too
  std::vector<BatchExtents> probed;         // go forward and through the operations of probe passes
  std::int64_t query_heads = 0, kv_heads = 0, head_dim = 0;  // H, G, D
  DType compute = DType::bf16;              // of activations and products
  std::int64_t layers = 0;                  // L
  std::int64_t channels = 0;                // C
  std::int64_t bias_outputs = 0;            // O or I of the widest linear_backward with dbias or dx_sums
  bool qkv_sums = false;                    // attention_backward has dqkv_sums
  std::vector<LinearShape> fp8{};         // linear maps with FP8 products
  std::int64_t positions = 0;               // K
  double rope_theta = 0;                    // 0: no rotary embedding
  std::int64_t rotary_dim = 0;              // R of it; 0: D
  std::vector<Segment> segments;            // of the flat arrays
  std::int64_t flat_size = 0;               // P

  std::int64_t longest() const;             // T of any batch
  std::int64_t rotary_pairs() const { return (rotary_dim == 0 ? head_dim : rotary_dim) / 2; }
};

/// Bytes of each part.
struct BackendMemory {
  std::size_t workspace = 0;  // of matrix products
  std::size_t scratch = 0;    // of the operation that needs most
  std::size_t rotary = 0;     // cos and sin of every position
  std::size_t chunks = 0;     // what each block of the optimizer's kernels works on
  std::size_t code = 0;       // kernels are loaded when first used: an allowance
};

constexpr std::size_t kCudaWorkspace = std::size_t{64} << 20;
constexpr std::int64_t kOptimizerChunk = 16384;  // elements
constexpr std::int64_t kEmbeddingPiece = 128;    // rows of a token that a warp adds up
constexpr std::int64_t kBiasRows = 128;          // rows of an output gradient that a block adds up
constexpr std::int64_t kOwnSumRows = 64;         // the same where a matrix product of our own adds up what it writes
constexpr std::int64_t kAbsStatisticsScratch = std::int64_t{128} << 10;  // of a matrix of any size

/// FP8 operands of a linear map of N rows: x and weight; (N, O) dout, (O, P) dout^T, (I, O) weight^T and (I, P) x^T, P
/// being N rounded up to a multiple of kFp8Multiple.
std::int64_t fp8_forward_bytes(std::int64_t rows, std::int64_t inputs, std::int64_t outputs);
std::int64_t fp8_backward_bytes(std::int64_t rows, std::int64_t inputs, std::int64_t outputs);

/// What the CUDA backend takes at most; on the CPU backend nothing is planned.
BackendMemory cuda_memory(const BackendExtents& extents);

}  // namespace sinkscope
