// Gradient of causal attention in bf16, two kernels without atomics: one keeps a tile of keys and values
// and walks the queries, one keeps a tile of queries and walks the keys; both recompute the weights from lse.
// The first computes transposed scores (keys by queries), so that weights and score gradients are left
// factors of dV and dK as they stand in registers.
#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/error.h"

namespace sinkscope::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kStep = 64;  // queries (or keys) of a stage
constexpr int kSub = 32;   // of which a warp holds the scores at once

// The tiles of keys and values, whose two gradients stay in registers.
template <int D>
inline constexpr int kKeyRowTiles = D <= 64 ? 2 : 1;
template <int D>
inline constexpr int kKeys = kWarps * 16 * kKeyRowTiles<D>;
template <int D>
constexpr std::size_t kKeyShared = (2 * kKeys<D> + 4 * kStep) * kPitch<D> * sizeof(bf16) + 4 * kStep * sizeof(float);

// The tiles of queries.
constexpr int kQueryRowTiles = 2, kQueries = kWarps * 16 * kQueryRowTiles;
template <int D>
constexpr std::size_t kQueryShared = (2 * kQueries + 4 * kStep) * kPitch<D> * sizeof(bf16);

/// p = exp(score - lse) = 2^(score scale_log2 - lse log2 e), in place.
template <int RowTiles, int Columns, class NegativeLse>
__device__ void to_weights(float (&p)[RowTiles][Columns][4], float scale_log2, const NegativeLse& negative_lse) {
#pragma unroll
  for (int t = 0; t < RowTiles; ++t)
#pragma unroll
    for (int c = 0; c < Columns; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[t][c][i] = exp2_approximate(p[t][c][i] * scale_log2 + negative_lse(t, c, i));
}

/// Block (key tile, b*G + g): dK and dV, over the group's query heads and the queries from the tile on.
template <int D>
__global__ void __launch_bounds__(kThreads) key_value_kernel(HeadLayout layout, const bf16* qkv, const bf16* dout,
                                                             const float* lse, const float* delta, bf16* dqkv,
                                                             float scale) {
  constexpr int kRowTiles = kKeyRowTiles<D>, kStage = kStep * kPitch<D>;
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* keys = reinterpret_cast<bf16*>(shared);
  bf16* values = keys + kKeys<D> * kPitch<D>;
  bf16* queries = values + kKeys<D> * kPitch<D>;  // two stages
  bf16* gradients = queries + 2 * kStage;         // two stages
  float* row_lse = reinterpret_cast<float*>(gradients + 2 * kStage);  // two stages
  float* row_delta = row_lse + 2 * kStep;                             // two stages
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = blockIdx.y / layout.kv_heads, k0 = std::int64_t{blockIdx.x} * kKeys<D>;
  const int kv_head = static_cast<int>(blockIdx.y % layout.kv_heads), first_head = kv_head * layout.group();
  const int key_head = layout.query_heads + kv_head, value_head = key_head + layout.kv_heads;
  const std::int64_t first_key = k0 + warp * kRowTiles * 16, last_key = first_key + kRowTiles * 16 - 1;
  const int first_step = static_cast<int>(k0 / kStep),
            steps_per_head = static_cast<int>((layout.length + kStep - 1) / kStep) - first_step;
  const auto fetch = [&](int step) {
    const int head = first_head + step / steps_per_head, stage = step % 2;
    const std::int64_t q0 = std::int64_t{first_step + step % steps_per_head} * kStep;
    copy_rows_async<D, kStep, kThreads>(queries + stage * kStage, qkv + layout.offset(b, head), layout.stride(), q0,
                                        layout.length);
    copy_rows_async<D, kStep, kThreads>(gradients + stage * kStage, dout + layout.out_offset(b, head),
                                        layout.out_stride(), q0, layout.length);
    static_assert(kThreads == 2 * kStep);
    const int row = static_cast<int>(threadIdx.x) % kStep;
    const bool valid = q0 + row < layout.length;
    const std::int64_t at = (b * layout.query_heads + head) * layout.length + (valid ? q0 + row : 0);
    copy_4_async(shared_address((threadIdx.x < kStep ? row_lse : row_delta) + stage * kStep + row),
                 (threadIdx.x < kStep ? lse : delta) + at, valid);
  };

  const float scale_log2 = scale * kLog2E;
  const int own_rows = warp * kRowTiles * 16 * kPitch<D>;
  LeftRows<D, kRowTiles, false> key_rows(keys + own_rows), value_rows(values + own_rows);
  float dk[kRowTiles][D / 8][4], dv[kRowTiles][D / 8][4];
  clear(dk);
  clear(dv);
  copy_rows_async<D, kKeys<D>, kThreads>(keys, qkv + layout.offset(b, key_head), layout.stride(), k0, layout.length);
  copy_rows_async<D, kKeys<D>, kThreads>(values, qkv + layout.offset(b, value_head), layout.stride(), k0,
                                         layout.length);
  fetch(0);
  const int steps = steps_per_head * layout.group();
  for (int step = 0; step < steps; ++step) {
    copy_wait();
    __syncthreads();  // the stage is here, and everybody is done with the other
    if (step + 1 < steps) fetch(step + 1);
    const std::int64_t q0 = std::int64_t{first_step + step % steps_per_head} * kStep;
#pragma unroll
    for (int sub = 0; sub < kStep / kSub; ++sub) {
      const std::int64_t q = q0 + sub * kSub;
      if (q + kSub - 1 < first_key || q >= layout.length) continue;
      const int at = (step % 2 * kStep + sub * kSub) * kPitch<D>, column = step % 2 * kStep + sub * kSub + lane % 4 * 2;
      float p[kRowTiles][kSub / 8][4], ds[kRowTiles][kSub / 8][4];
      multiply_by_transpose<D>(p, key_rows, queries + at);
      // Rows of queries that do not exist are zeros, and so is what they add.
      to_weights(p, scale_log2, [&](int, int c, int i) { return -kLog2E * row_lse[column + c * 8 + i % 2]; });
      if (q < last_key) {
        const auto difference = static_cast<int>(first_key - q) + lane / 4 - lane % 4 * 2;
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int c = 0; c < kSub / 8; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (difference + t * 16 + i / 2 * 8 > c * 8 + i % 2) p[t][c][i] = 0.0F;
      }
      multiply_by_transpose<D>(ds, value_rows, gradients + at);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int c = 0; c < kSub / 8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) ds[t][c][i] = p[t][c][i] * (ds[t][c][i] - row_delta[column + c * 8 + i % 2]);
      add_product<D>(dv, p, gradients + at);
      add_product<D>(dk, ds, queries + at);
    }
  }

  float scales[kRowTiles][2], ones[kRowTiles][2];
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h) scales[t][h] = scale, ones[t][h] = 1.0F;
  const std::int64_t count = layout.length - first_key, row_at = first_key * layout.stride();
  store_rows<D>(dqkv + layout.offset(b, key_head) + row_at, layout.stride(), count, dk, scales, keys + own_rows);
  store_rows<D>(dqkv + layout.offset(b, value_head) + row_at, layout.stride(), count, dv, ones, values + own_rows);
}

/// Block (query tile, b*H + h), long tiles first: dQ, over the keys up to the tile.
template <int D>
__global__ void __launch_bounds__(kThreads)
    query_kernel(HeadLayout layout, const bf16* qkv, const bf16* dout, const float* lse, const float* delta, bf16* dqkv,
                 float scale) {
  constexpr int kRowTiles = kQueryRowTiles, kStage = kStep * kPitch<D>;
  constexpr bool kHeld = D <= 64;
  extern __shared__ __align__(16) unsigned char shared[];
  bf16* queries = reinterpret_cast<bf16*>(shared);
  bf16* gradients = queries + kQueries * kPitch<D>;
  bf16* keys = gradients + kQueries * kPitch<D>;  // two stages
  bf16* values = keys + 2 * kStage;               // two stages
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = blockIdx.y / layout.query_heads, q0 = std::int64_t{gridDim.x - 1 - blockIdx.x} * kQueries;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  const std::int64_t first_row = q0 + warp * kRowTiles * 16, last_row = first_row + kRowTiles * 16 - 1;
  const bf16* key_rows = qkv + layout.offset(b, layout.key_head(head));
  const bf16* value_rows = qkv + layout.offset(b, layout.value_head(head));
  const auto fetch = [&](int step) {
    const std::int64_t first = std::int64_t{step} * kStep;
    copy_rows_async<D, kStep, kThreads>(keys + step % 2 * kStage, key_rows, layout.stride(), first, layout.length);
    copy_rows_async<D, kStep, kThreads>(values + step % 2 * kStage, value_rows, layout.stride(), first, layout.length);
  };

  const float scale_log2 = scale * kLog2E;
  const int own_rows = warp * kRowTiles * 16 * kPitch<D>;
  LeftRows<D, kRowTiles, kHeld> query_rows(queries + own_rows), gradient_rows(gradients + own_rows);
  float dq[kRowTiles][D / 8][4], negative_lse[kRowTiles][2], row_delta[kRowTiles][2], scales[kRowTiles][2];
  clear(dq);
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first_row + t * 16 + h * 8 + lane / 4,
                         at = std::int64_t{blockIdx.y} * layout.length + row;
      const bool valid = row < layout.length;
      negative_lse[t][h] = valid ? -kLog2E * lse[at] : 0.0F;
      row_delta[t][h] = valid ? delta[at] : 0.0F;
      scales[t][h] = scale;
    }
  copy_rows_async<D, kQueries, kThreads>(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length);
  copy_rows_async<D, kQueries, kThreads>(gradients, dout + layout.out_offset(b, head), layout.out_stride(), q0,
                                         layout.length);
  fetch(0);
  const int steps = (static_cast<int>(min(q0 + kQueries, layout.length)) - 1) / kStep + 1;
  for (int step = 0; step < steps; ++step) {
    copy_wait();
    __syncthreads();  // the stage is here, and everybody is done with the other
    if (step + 1 < steps) fetch(step + 1);
    if (step == 0) {
      query_rows.read();
      gradient_rows.read();
    }
#pragma unroll
    for (int sub = 0; sub < kStep / kSub; ++sub) {
      const int k0 = step * kStep + sub * kSub, at = (step % 2 * kStep + sub * kSub) * kPitch<D>;
      if (k0 > last_row) continue;
      float p[kRowTiles][kSub / 8][4], ds[kRowTiles][kSub / 8][4];
      multiply_by_transpose<D>(p, query_rows, keys + at);
      to_weights(p, scale_log2, [&](int t, int, int i) { return negative_lse[t][i / 2]; });
      if (k0 + kSub - 1 > first_row) {
        const auto difference = k0 - static_cast<int>(first_row) + lane % 4 * 2 - lane / 4;
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
          for (int c = 0; c < kSub / 8; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (difference + c * 8 + i % 2 > t * 16 + i / 2 * 8) p[t][c][i] = 0.0F;
      }
      multiply_by_transpose<D>(ds, gradient_rows, values + at);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int c = 0; c < kSub / 8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) ds[t][c][i] = p[t][c][i] * (ds[t][c][i] - row_delta[t][i / 2]);
      add_product<D>(dq, ds, keys + at);
    }
  }
  store_rows<D>(dqkv + layout.offset(b, head) + first_row * layout.stride(), layout.stride(), layout.length - first_row,
                dq, scales, queries + own_rows);
}

}  // namespace

void mma_attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                            const Tensor& dout, const Tensor& lse, const float* delta, const Tensor& dqkv) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(layout.head_dim));
  const auto launch = [&](auto kernel, int rows, int heads, std::size_t bytes) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
               "attention_backward");
    const dim3 grid(static_cast<unsigned>(layout.tiles(rows)), static_cast<unsigned>(sequences * heads));
    kernel<<<grid, kThreads, bytes, stream>>>(layout, pointer<const bf16>(qkv), pointer<const bf16>(dout),
                                              pointer<const float>(lse), delta, pointer<bf16>(dqkv), scale);
    check_launch("attention_backward");
  };
  with_head_dim(layout.head_dim, [&]<int D>() {
    launch(key_value_kernel<D>, kKeys<D>, layout.kv_heads, kKeyShared<D>);
    launch(query_kernel<D>, kQueries, layout.query_heads, kQueryShared<D>);
  });
}

}  // namespace sinkscope::cuda
