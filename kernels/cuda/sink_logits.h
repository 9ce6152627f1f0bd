// What sink logits need beside the attention kernels, as attention_backward.cu and attention_statistics.cu launch it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {

/// sum_d out dout of every query, in blocks of `block` queries that begin `block_stride` apart: that of query t of b*H
/// + h at values[(b*H + h) * head_stride + t / block * block_stride + t % block].
struct RowDeltas {
  const float* values;
  std::int64_t head_stride;
  std::int64_t block;
  std::int64_t block_stride;
};

/// dsink_logits as in AttentionBackward, out of lse (B, H, T); `sums` is room for (B, H) f64.
void sink_logit_gradient(cudaStream_t stream, const Tensor& sink_logits, const Tensor& lse, const RowDeltas& deltas,
                         double* sums, const Tensor& dsink_logits);

/// sink_logit_mass as in AttentionStatistics, out of lse (B, H, T).
void sink_logit_mass(cudaStream_t stream, const Tensor& sink_logits, const Tensor& lse, const Tensor& mass);

}  // namespace sinkscope::cuda
