// The bf16 attention kernels on the tensor cores, as attention_forward.cu, attention_backward.cu and
// attention_statistics.cu launch them. Head dims 32, 64, 96, 128; every pointer aligned to 16 bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {

struct HeadLayout;

/// Sink positions whose sums the forward kernel takes; more go through a kernel of their own.
std::int64_t mma_watched_limit(int head_dim);
/// Rows of queries that share one of the partial sums of the forward and the statistics kernels.
constexpr int kMmaQueryTile = 128;

/// out and lse as in AttentionForward, sink_logits optional. With `watched` = K > 0 also partial sums of the weights on
/// the first keys, (B*H, tiles of queries, K) f32.
void mma_attention_forward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                           const Tensor& sink_logits, const Tensor& out, const Tensor& lse, float* sink_partials,
                           int watched);

/// dqkv as in AttentionBackward; delta (B, H, T) f32 = sum_d out dout.
void mma_attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                            const Tensor& dout, const Tensor& lse, const float* delta, const Tensor& dqkv);

/// Sums over the queries of each tile: partials (B*H, tiles, kStatistics) f64 (attention_statistics.h), and of the
/// weights on every key, key_partials (B*H, tiles, T) f32, of which a tile writes the keys it sees.
void mma_attention_statistics(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                              const Tensor& lse, double* partials, float* key_partials);

}  // namespace sinkscope::cuda
