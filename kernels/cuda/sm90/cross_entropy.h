// Softmax cross-entropy of bf16 logits for compute capability 9.0 (bulk copies), as ../cross_entropy.cu launches it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sinkscope::cuda::sm90 {

/// Columns that fit, a multiple of 8: two rows lie in the shared memory of a multiprocessor at once.
constexpr std::int64_t kLongestRow = 57344;
/// From so many on this kernel is faster than one that reads a row twice.
constexpr std::int64_t kShortestRow = 4096;

/// As CrossEntropy; logits (N, V) aligned to 16 bytes, and a scale that is not negative.
void cross_entropy(cudaStream_t stream, int processors, void* logits, const std::int32_t* targets, float* losses,
                   std::int64_t N, std::int64_t V, bool gradient, float scale);

}  // namespace sinkscope::cuda::sm90
