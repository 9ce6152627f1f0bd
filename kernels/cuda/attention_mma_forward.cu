// Causal attention forward in bf16 (FlashAttention-2, Dao 2023): a block has 128 queries of one head, a
// warp 32 of them, and walks the keys downwards in stages of 64. So the first keys come last, when every
// row's maximum and sum are final, and their weights are the sink scores.
#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/error.h"

namespace sinkscope::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRowTiles = 2;
constexpr int kQueries = kWarps * kRowTiles * 16, kKeys = 64;
static_assert(kQueries == kMmaQueryTile);

/// Keys whose scores a warp holds at once.
template <int D>
inline constexpr int kSub = D <= 64 ? 64 : 32;

template <int D>
constexpr std::size_t kShared = (kQueries + 4 * kKeys) * kPitch<D> * sizeof(bf16);

/// Block (query tile, b*H + h), long tiles first.
template <int D>
__global__ void __launch_bounds__(kThreads) forward_kernel(HeadLayout layout, const bf16* qkv, const bf16* sink_logits,
                                                           bf16* out, float* lse, float* sink_partials, int watched,
                                                           float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float column_sums[kWarps][kSub<D>];
  bf16* queries = reinterpret_cast<bf16*>(shared);
  bf16* keys = queries + kQueries * kPitch<D>;  // two stages
  bf16* values = keys + 2 * kKeys * kPitch<D>;  // two stages
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = blockIdx.y / layout.query_heads, tile = gridDim.x - 1 - blockIdx.x, q0 = tile * kQueries;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  const std::int64_t first_row = q0 + warp * kRowTiles * 16, last_row = first_row + kRowTiles * 16 - 1;
  const bf16* key_rows = qkv + layout.offset(b, layout.key_head(head));
  const bf16* value_rows = qkv + layout.offset(b, layout.value_head(head));
  const auto fetch = [&](int block) {
    const int at = block % 2 * kKeys * kPitch<D>;
    copy_rows_async<D, kKeys, kThreads>(keys + at, key_rows, layout.stride(), std::int64_t{block} * kKeys,
                                        layout.length);
    copy_rows_async<D, kKeys, kThreads>(values + at, value_rows, layout.stride(), std::int64_t{block} * kKeys,
                                        layout.length);
  };

  const float scale_log2 = scale * kLog2E;
  LeftRows<D, kRowTiles, D <= 64> left(queries + warp * kRowTiles * 16 * kPitch<D>);
  float acc[kRowTiles][D / 8][4], highest[kRowTiles][2], sum[kRowTiles][2];
  clear(acc);
  // A sink logit is a score that is there before any key and has no value; `highest` is of scores before scaling, `sum`
  // is spread over the four lanes of a row.
  const float first = sink_logits == nullptr ? -INFINITY : to_float(sink_logits[head]) / scale;
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      highest[t][h] = first, sum[t][h] = sink_logits == nullptr || lane % 4 != 0 ? 0.0F : 1.0F;

  const auto last_key = static_cast<int>(min(q0 + kQueries, layout.length)) - 1;
  const int last_block = last_key / kKeys;
  copy_rows_async<D, kQueries, kThreads>(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length);
  fetch(last_block);
  for (int block = last_block; block >= 0; --block) {
    copy_wait();
    __syncthreads();  // the stage is here, and everybody is done with the other
    if (block > 0) fetch(block - 1);
    if (block == last_block) left.read();
#pragma unroll
    for (int sub = kKeys / kSub<D> - 1; sub >= 0; --sub) {
      const int k0 = block * kKeys + sub * kSub<D>;
      if (k0 > last_row) continue;
      const int at = (block % 2 * kKeys + sub * kSub<D>) * kPitch<D>;
      float p[kRowTiles][kSub<D> / 8][4];
      multiply_by_transpose<D>(p, left, keys + at);
      if (k0 + kSub<D> - 1 > first_row) {
        const auto first = static_cast<int>(first_row) + lane / 4, k = k0 + lane % 4 * 2;
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int c = 0; c < kSub<D> / 8; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (k + c * 8 + i % 2 > first + t * 16 + i / 2 * 8) p[t][c][i] = -INFINITY;
      }
      float rescale[kRowTiles][2], offset[kRowTiles][2];
      bool moved = false;
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float top = highest[t][h];
#pragma unroll
          for (int c = 0; c < kSub<D> / 8; ++c) top = fmaxf(top, fmaxf(p[t][c][2 * h], p[t][c][2 * h + 1]));
          top = quad_max(top);
          offset[t][h] = top == -INFINITY ? 0.0F : top * scale_log2;  // a row that has seen no key yet
          rescale[t][h] = exp2_approximate(highest[t][h] * scale_log2 - offset[t][h]);
          moved = moved || top != highest[t][h];
          highest[t][h] = top;
        }
      if (__any_sync(kAllLanes, moved)) {
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            sum[t][h] *= rescale[t][h];
#pragma unroll
            for (int d = 0; d < D / 8; ++d) {
              acc[t][d][2 * h] *= rescale[t][h];
              acc[t][d][2 * h + 1] *= rescale[t][h];
            }
          }
      }
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int c = 0; c < kSub<D> / 8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            p[t][c][i] = exp2_approximate(p[t][c][i] * scale_log2 - offset[t][i / 2]);
            sum[t][i / 2] += p[t][c][i];
          }
      if (k0 == 0 && watched > 0) {
        float inverse[kRowTiles][2];
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float total = quad_sum(sum[t][h]);
            inverse[t][h] = first_row + t * 16 + h * 8 + lane / 4 < layout.length ? 1.0F / total : 0.0F;
          }
#pragma unroll
        for (int c = 0; c < kSub<D> / 8; ++c) {
          if (c * 8 >= watched) break;
          float weight[2] = {};
#pragma unroll
          for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) weight[i % 2] += p[t][c][i] * inverse[t][i / 2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int lanes = 4; lanes < kWarp; lanes *= 2) weight[i] += __shfl_xor_sync(kAllLanes, weight[i], lanes);
            if (lane < 4) column_sums[warp][c * 8 + lane * 2 + i] = weight[i];
          }
        }
      }
      add_product<D>(acc, p, values + at);
    }
  }

  float factor[kRowTiles][2];
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float total = quad_sum(sum[t][h]);
      factor[t][h] = 1.0F / total;
      const std::int64_t row = first_row + t * 16 + h * 8 + lane / 4;
      if (lane % 4 == 0 && row < layout.length)
        lse[std::int64_t{blockIdx.y} * layout.length + row] = highest[t][h] * scale + logf(total);
    }
  store_rows<D>(out + layout.out_offset(b, head) + first_row * layout.out_stride(), layout.out_stride(),
                layout.length - first_row, acc, factor, queries + warp * kRowTiles * 16 * kPitch<D>);
  if (watched == 0) return;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= watched) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += column_sums[w][threadIdx.x];
  sink_partials[(std::int64_t{blockIdx.y} * gridDim.x + tile) * watched + threadIdx.x] = total;
}

}  // namespace

std::int64_t mma_watched_limit(int head_dim) { return head_dim <= 64 ? kSub<64> : kSub<128>; }

void mma_attention_forward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                           const Tensor& sink_logits, const Tensor& out, const Tensor& lse, float* sink_partials,
                           int watched) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(layout.head_dim));
  const dim3 grid(static_cast<unsigned>(layout.tiles(kQueries)), static_cast<unsigned>(sequences * layout.query_heads));
  with_head_dim(layout.head_dim, [&]<int D>() {
    check_cuda(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kShared<D>)), "attention_forward");
    forward_kernel<D><<<grid, kThreads, kShared<D>, stream>>>(layout, pointer<const bf16>(qkv),
                                                              pointer<const bf16>(sink_logits), pointer<bf16>(out),
                                                              pointer<float>(lse), sink_partials, watched, scale);
  });
  check_launch("attention_forward");
}

}  // namespace sinkscope::cuda
