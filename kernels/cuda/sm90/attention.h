// The attention kernels for compute capability 9.0 (wgmma, TMA), as attention_forward.cu launches them. Head dims 64
// and 128, bf16; every pointer aligned to 16 bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {
struct HeadLayout;
struct Rotary;
}

namespace sinkscope::cuda::sm90 {

/// Keys that the forward kernel can watch.
constexpr int kMostWatched = 32;
/// Of so many heads times keys the forward kernel can watch, in sequences of so many tokens.
constexpr std::int64_t kMostSums = 8 * 65535, kLongestWatched = 64 * 65535;
/// Of counters on the device that are 0 between kernels: one of tiles, then sums.
constexpr std::size_t kCounterBytes = (1 + kMostSums) * 8;

/// Sink scores of the first keys. The weights on a key are summed in fixed point, which does not depend on the order,
/// in a word that counts what was added in its low bits.
struct Watch {
  int keys = 0;                        // K; 0: none
  float* sink = nullptr;               // (B*H, K)
  unsigned long long* sums = nullptr;  // (B*H, K), 0 before and after
};

/// out, lse and `sink_logits` as in AttentionForward. Runs on `processors` multiprocessors. `taken` is a counter on the
/// device that is 0 before and after.
void attention_forward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                       const Tensor& qkv, const Tensor& out, const Tensor& lse, int* taken, const Watch& watch,
                       const Tensor& sink_logits);

/// Queries of a block in the scratch memory of attention_backward.
constexpr std::int64_t kRowsOfBlock = 64;

/// Bytes of scratch memory of attention_backward.
constexpr std::int64_t backward_scratch(std::int64_t heads, std::int64_t length, std::int64_t head_dim) {
  return heads * ((length + kRowsOfBlock - 1) / kRowsOfBlock) * (kRowsOfBlock * (2 + head_dim) + 1) * 4;
}

/// Partial column sums of dqkv (B, T, R, D), for each of ceil(T / 16) rows of a sequence, or more where the last are
/// none.
constexpr std::int64_t kRowsOfSum = 16;
constexpr std::int64_t column_sum_parts(std::int64_t sequences, std::int64_t length) {
  return sequences * ((length + kRowsOfBlock - 1) / kRowsOfBlock) * (kRowsOfBlock / kRowsOfSum);
}

/// dqkv as in AttentionBackward, rotated back where `rotary` has pairs, all of a head's; column_sums
/// (column_sum_parts(), R D) f32 or null. `scratch` has backward_scratch() bytes and begins with (B*H, ceil(T / 64), 2,
/// 64) f32, log2 e times lse and sum_d out dout of each query, zero beyond T; the rest is for sums of dQ and turns.
/// `taken` as above.
void attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                        const Tensor& qkv, const Tensor& out, const Tensor& dout, const Tensor& lse, int* taken,
                        void* scratch, const Tensor& dqkv, float* column_sums, const Rotary& rotary);

}  // namespace sinkscope::cuda::sm90
