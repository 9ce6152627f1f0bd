// The attention kernels for compute capability 9.0 (wgmma, TMA), as attention_forward.cu launches them. Head dims 64 and
// 128, bf16; every pointer aligned to 16 bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {
struct HeadLayout;
}

namespace sinkscope::cuda::sm90 {

/// Sink positions whose sums the forward kernel takes.
constexpr int kMostWatched = 128;
/// Rows of queries that share one of its partial sums.
constexpr int kRowsOfPartial = 64;

/// out and lse as in AttentionForward. With `watched` = K > 0 also partial sums of the weights on the first keys,
/// (B*H, ceil(T / kRowsOfPartial), K) f32. Runs on `processors` multiprocessors. `taken` is a counter on the
/// device that is 0 before and after.
void attention_forward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                       const Tensor& qkv, const Tensor& out, const Tensor& lse, int* taken, float* sink_partials,
                       int watched);

/// Rows of a head in the scratch memory of attention_backward.
constexpr std::int64_t padded_rows(std::int64_t length) { return (length + 127) / 128 * 128; }

/// dqkv as in AttentionBackward, head dim 64. `rows` is room for (B*H, padded_rows(T), 2) f32; `taken` as above.
void attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                        const Tensor& qkv, const Tensor& out, const Tensor& dout, const Tensor& lse, int* taken, float* rows,
                        const Tensor& dqkv);

}  // namespace sinkscope::cuda::sm90
