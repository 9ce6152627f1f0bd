// Gradient of causal attention in bf16 on wgmma and TMA, in two kernels without atomics: one keeps a tile of queries and
// walks the keys, one keeps a tile of keys and values and walks the queries; both recompute the weights from lse. So the
// sums are the same to the bit every time, and score gradients never leave the registers: the second kernel computes
// transposed scores, whose accumulators are the left factors of dV and dK as they stand. Seven products of a tile where
// FlashAttention-3 has five and adds dQ up in memory. Persistent blocks as in attention_forward.cu; each warpgroup has 64
// rows of a tile, takes blocks of 64 and skips those that it does not see.
#include <cmath>

#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/accumulator.cuh"
#include "kernels/cuda/sm90/attention.h"
#include "kernels/cuda/sm90/ptx.cuh"
#include "kernels/cuda/sm90/stages.cuh"
#include "kernels/cuda/sm90/tensor_map.h"
#include "kernels/cuda/sm90/tiles.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda::sm90 {
namespace {

constexpr int kRows = kGroupRows;  // of a block too
constexpr int kTiles = 2;          // in shared memory: one and the next
constexpr int kMatrixBytes = kRows * kRowBytes;  // 64 rows of 64 columns
constexpr int kSteps = kRows / 16;               // of a product over the rows of a block

/// Head dim, warpgroups that compute, stages.
template <int Dim, int Computing, int StageCount>
struct Shape {
  static constexpr int D = Dim, kGroups = Computing, kStages = StageCount;
  static constexpr int kTileRows = kGroups * kRows, kThreads = (kGroups + 1) * kWarpgroup;
  static constexpr int kHalves = D / 64;  // of 64 columns, each a matrix of its own in shared memory
  static constexpr int kTileBytes = kTileRows * kRowBytes;  // of a half
  static constexpr int kFetchRegisters = kGroups == 3 ? 32 : 24, kComputeRegisters = kGroups == 3 ? 160 : 240;
};

template <class S>
using TileMatrix = unsigned char[S::kHalves][S::kTileBytes];
template <class S>
using BlockMatrix = unsigned char[S::kHalves][kMatrixBytes];

struct Arguments {
  HeadLayout layout;
  TileOrder order;
  int* taken;
  const float* lse;
  float2* rows;              // (B*H, padded) of each query, lse log2 e and sum_d out dout
  std::int64_t padded;       // rows of a head in it
  float scale, scale_log2;
};

/// c (64, 64) = a b^T, both of D columns in shared memory; `a_half` and `b_half` bytes from one half to the next.
template <int D>
__device__ void multiply_rows(float* c, std::uint64_t a, int a_half, std::uint64_t b, int b_half) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
    multiply_transposed<64>(c, a + advance(step / 4 * a_half + step % 4 * 32), b + advance(step / 4 * b_half + step % 4 * 32), step > 0);
}
/// c (64, D) += a b, a (64, 64) in registers, b (64, D) in shared memory.
template <int D>
__device__ void add_rows(float* c, const std::uint32_t* a, std::uint64_t b) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) multiply<D>(c, a + 4 * step, b + advance(step * 16 * kRowBytes), true);
}

/// Divides a block's threads: one fetches, warpgroups compute, with the registers of the warpgroup that fetches.
template <class S, class Fetch, class Compute>
__device__ void divide(const Fetch& fetch, const Compute& compute) {
  if (threadIdx.x < kWarpgroup) {
    give_registers<S::kFetchRegisters>();
    if (threadIdx.x < kWarp && elect_one()) fetch();
  } else {
    take_registers<S::kComputeRegisters>();
    compute(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0) - 1);
  }
}

// ---- dQ, and the sums of rows that the other kernel needs ----

template <class S>
struct QueryShared {
  // Of a tile and the next; at the end of a tile the gradients of the queries take their place.
  alignas(1024) TileMatrix<S> queries[kTiles];
  alignas(1024) TileMatrix<S> gradients[kTiles];
  alignas(1024) TileMatrix<S> outs[kTiles];
  alignas(1024) BlockMatrix<S> keys[S::kStages];
  alignas(1024) BlockMatrix<S> values[S::kStages];
  int tile[kTiles];  // their places in the order
  Barrier tile_full[kTiles], tile_empty[kTiles];
  Barrier keys_full[S::kStages], keys_empty[S::kStages], values_full[S::kStages], values_empty[S::kStages];
};

template <class S>
__device__ int last_key_block(const HeadLayout& layout, int tile) {
  return (min((tile + 1) * S::kTileRows, static_cast<int>(layout.length)) - 1) / kRows;
}

template <class S>
__device__ void fetch_keys(QueryShared<S>& shared, const Arguments& args, const CUtensorMap& tile_map, const CUtensorMap& block_map,
                           const CUtensorMap& out_map, const CUtensorMap& gradient_map) {
  const HeadLayout& layout = args.layout;
  int used = 0;  // blocks by the tiles before
  int place = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const Place<kTiles> slot(round);
    wait(&shared.tile_empty[slot.stage], slot.parity ^ 1);
    shared.tile[slot.stage] = place;
    Barrier* tile_full = &shared.tile_full[slot.stage];
    if (place >= args.order.count()) {
      arrive(tile_full);  // no tile is left
      return;
    }
    const Tile tile = args.order[place];
    const int b = tile.head / layout.query_heads, head = tile.head % layout.query_heads, row = tile.index * S::kTileRows;
    arrive_expecting(tile_full, 3 * S::kHalves * S::kTileBytes);
    load_rows<S::D, S::kTileBytes>(shared.queries[slot.stage][0], tile_map, tile_full, head, row, b);
    load_rows<S::D, S::kTileBytes>(shared.gradients[slot.stage][0], gradient_map, tile_full, head, row, b);
    load_rows<S::D, S::kTileBytes>(shared.outs[slot.stage][0], out_map, tile_full, head, row, b);
    place = args.order.next(args.taken);
    for (int block = last_key_block<S>(layout, tile.index); block >= 0; --block) {
      const Place<S::kStages> at(used++);
      const auto fetch = [&](BlockMatrix<S>& block_of, Barrier* full, Barrier* empty, int of_head) {
        wait(empty, at.parity ^ 1);
        arrive_expecting(full, S::kHalves * kMatrixBytes);
        load_rows<S::D, kMatrixBytes>(block_of[0], block_map, full, of_head, block * kRows, b);
      };
      fetch(shared.keys[at.stage], &shared.keys_full[at.stage], &shared.keys_empty[at.stage], layout.key_head(head));
      fetch(shared.values[at.stage], &shared.values_full[at.stage], &shared.values_empty[at.stage], layout.value_head(head));
    }
  }
}

/// sum_d out dout of the thread's two rows, which are those of accumulators. Two threads a row add up half of it each.
template <class S>
__device__ void row_deltas(float (&delta)[2], const TileMatrix<S>& outs, const TileMatrix<S>& gradients, int first_row) {
  const int thread = read_thread() % kWarpgroup, lane = thread % kWarp, row = first_row + thread / 2;
  float sum = 0;
#pragma unroll
  for (int half = 0; half < S::kHalves; ++half)
#pragma unroll
    for (int unit = 0; unit < 4; ++unit) {
      const int at = row * kRowBytes + (((thread % 2 * 4 + unit) ^ row % 8) << 4);
      float x[kVector], dx[kVector];
      load_vector(reinterpret_cast<const bf16*>(outs[half] + at), x);
      load_vector(reinterpret_cast<const bf16*>(gradients[half] + at), dx);
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum += x[j] * dx[j];
    }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
#pragma unroll
  for (int h = 0; h < 2; ++h) delta[h] = __shfl_sync(kAllLanes, sum, (lane / 4 + 8 * h) * 2);
}

template <class S>
__device__ void differentiate_queries(QueryShared<S>& shared, const Arguments& args, const CUtensorMap& result_map, int group) {
  const HeadLayout& layout = args.layout;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  float s[kRows / 2], dp[kRows / 2], dq[S::D / 2];
  std::uint32_t ds[kRows / 4];
  const std::uint64_t keys = describe(shared.keys[0], kMatrixBytes), values = describe(shared.values[0]);
  constexpr std::uint64_t kStage = advance(S::kHalves * kMatrixBytes), kTile = advance(S::kHalves * S::kTileBytes);
  // Each warp by itself: of a block that is skipped one could be done, and the stage full again, before another has looked.
  const auto release = [&](Barrier* barrier) {
    if (thread % kWarp == 0) arrive(barrier);
  };

  int used = 0;  // blocks so far
  for (int round = 0;; ++round) {
    const Place<kTiles> slot(round);
    wait(&shared.tile_full[slot.stage], slot.parity);
    const int place = shared.tile[slot.stage];
    if (place >= args.order.count()) break;
    const Tile tile = args.order[place];
    const int first_row = tile.index * S::kTileRows + group * kRows;
    float delta[2], offset[2];
    row_deltas<S>(delta, shared.outs[slot.stage], shared.gradients[slot.stage], group * kRows);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + thread / kWarp * 16 + thread % kWarp / 4 + 8 * h;
      offset[h] = row < layout.length ? args.lse[std::int64_t{tile.head} * layout.length + row] * kLog2E : 0.0F;
      if (thread % 4 == 0 && row < args.padded) args.rows[tile.head * args.padded + row] = {offset[h], delta[h]};
    }
    const std::uint64_t queries = describe(shared.queries[0][0] + group * kMatrixBytes) + slot.stage * kTile;
    const std::uint64_t gradients = describe(shared.gradients[0][0] + group * kMatrixBytes) + slot.stage * kTile;
    int block = last_key_block<S>(layout, tile.index);
    for (; block * kRows > first_row; --block) {  // beyond the warpgroup's rows
      const Place<S::kStages> at(used++);
      wait(&shared.keys_full[at.stage], at.parity);
      release(&shared.keys_empty[at.stage]);
      wait(&shared.values_full[at.stage], at.parity);
      release(&shared.values_empty[at.stage]);
    }
#pragma unroll
    for (int j = 0; j < S::D / 2; ++j) dq[j] = 0;

    const auto begin_scores = [&](const Place<S::kStages>& at) {
      wait(&shared.keys_full[at.stage], at.parity);
      wait(&shared.values_full[at.stage], at.parity);
      products_begin();
      multiply_rows<S::D>(s, queries, S::kTileBytes, keys + at.stage * kStage, kMatrixBytes);
      multiply_rows<S::D>(dp, gradients, S::kTileBytes, values + at.stage * kStage, kMatrixBytes);
      products_commit();
    };
    const auto begin_result = [&](int stage) {
      products_begin();
      add_rows<S::D>(dq, ds, keys + stage * kStage);
      products_commit();
    };
    /// dp becomes the gradient of the scores.
    const auto differentiate = [&](bool masked) {
#pragma unroll
      for (int j = 0; j < kRows / 2; ++j) {
        const float p = exp2_approximate(s[j] * args.scale_log2 - offset[j / 2 % 2]);
        dp[j] = p * (dp[j] - delta[j / 2 % 2]);
      }
      if (masked) {
        const int id = read_thread() % kWarpgroup, ahead = id / kWarp * 16 + id % kWarp / 4 - id % 4 * 2;
#pragma unroll
        for (int j = 0; j < kRows / 2; ++j)
          if (j / 4 * 8 + j % 2 - j / 2 % 2 * 8 > ahead) dp[j] = 0;
      }
    };
    {
      const Place<S::kStages> at(used++);
      begin_scores(at);
      products_wait<0>();
      hold<kRows / 2>(s);
      hold<kRows / 2>(dp);
      release(&shared.values_empty[at.stage]);
      differentiate(block * kRows == first_row);
      pack<kRows / 2>(ds, dp);
    }
    if (thread == 0 && round > 0) {  // the gradients of the tile before, on their way since
      wait_for_stores();
      arrive(&shared.tile_empty[(round - 1) % kTiles]);
    }
    while (block > 0) {
      --block;
      const Place<S::kStages> before(used - 1), at(used++);
      begin_scores(at);
      begin_result(before.stage);
      products_wait<1>();
      hold<kRows / 2>(s);
      hold<kRows / 2>(dp);
      release(&shared.values_empty[at.stage]);
      differentiate(false);
      products_wait<0>();
      hold<S::D / 2>(dq);
      release(&shared.keys_empty[before.stage]);
      pack<kRows / 2>(ds, dp);
    }
    const Place<S::kStages> last(used - 1);
    begin_result(last.stage);
    products_wait<0>();
    hold<S::D / 2>(dq);
    release(&shared.keys_empty[last.stage]);

    const float scales[2] = {args.scale, args.scale};
    stage_rows<S::D, S::kTileBytes>(shared.queries[slot.stage][0], dq, scales, group * kRows, thread / kWarp, thread % kWarp);
    fence_async();
    barrier_wait(1 + group, kWarpgroup);
    if (thread == 0 && first_row < layout.length) {
      store_rows<S::D, S::kTileBytes>(result_map, shared.queries[slot.stage][0], group * kRows, tile.head % layout.query_heads,
                                      first_row, tile.head / layout.query_heads);
      commit_stores();
    }
  }
  if (thread == 0) wait_for_stores();
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    query_kernel(const __grid_constant__ CUtensorMap tile_map, const __grid_constant__ CUtensorMap block_map,
                 const __grid_constant__ CUtensorMap out_map, const __grid_constant__ CUtensorMap gradient_map,
                 const __grid_constant__ CUtensorMap result_map, const __grid_constant__ Arguments args) {
  extern __shared__ unsigned char memory[];
  auto& shared = aligned<QueryShared<S>>(memory);
  if (threadIdx.x == 0) {
    init(shared.tile_full, shared.tile_empty, S::kGroups);
    init(shared.keys_full, shared.keys_empty, S::kGroups * kWarpgroup / kWarp);
    init(shared.values_full, shared.values_empty, S::kGroups * kWarpgroup / kWarp);
    fence_init();
  }
  __syncthreads();
  divide<S>([&] { fetch_keys<S>(shared, args, tile_map, block_map, out_map, gradient_map); },
            [&](int group) { differentiate_queries<S>(shared, args, result_map, group); });
}

// ---- dK and dV ----

template <class S>
struct KeyShared {
  // Of a tile and the next; at the end of a tile their gradients take their place.
  alignas(1024) TileMatrix<S> keys[kTiles];
  alignas(1024) TileMatrix<S> values[kTiles];
  alignas(1024) BlockMatrix<S> queries[S::kStages];
  alignas(1024) BlockMatrix<S> gradients[S::kStages];
  alignas(16) float2 rows[S::kStages][kRows];
  int tile[kTiles];
  Barrier tile_full[kTiles], tile_empty[kTiles];
  Barrier full[S::kStages], empty[S::kStages];
};

/// A tile of keys in the order of tiles, whose longest are the first ones; its head is b*G + g.
template <class S>
__device__ Tile key_tile(const Arguments& args, int place) {
  const Tile tile = args.order[place];
  return {tile.head, args.order.tiles - 1 - tile.index};
}

template <class S>
__device__ void fetch_queries(KeyShared<S>& shared, const Arguments& args, const CUtensorMap& tile_map, const CUtensorMap& block_map,
                              const CUtensorMap& gradient_map) {
  const HeadLayout& layout = args.layout;
  const int blocks = (static_cast<int>(layout.length) + kRows - 1) / kRows;
  int used = 0;
  int place = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const Place<kTiles> slot(round);
    wait(&shared.tile_empty[slot.stage], slot.parity ^ 1);
    shared.tile[slot.stage] = place;
    Barrier* tile_full = &shared.tile_full[slot.stage];
    if (place >= args.order.count()) {
      arrive(tile_full);
      return;
    }
    const Tile tile = key_tile<S>(args, place);
    const int b = tile.head / layout.kv_heads, kv_head = tile.head % layout.kv_heads, key_head = layout.query_heads + kv_head;
    const int row = tile.index * S::kTileRows;
    arrive_expecting(tile_full, 2 * S::kHalves * S::kTileBytes);
    load_rows<S::D, S::kTileBytes>(shared.keys[slot.stage][0], tile_map, tile_full, key_head, row, b);
    load_rows<S::D, S::kTileBytes>(shared.values[slot.stage][0], tile_map, tile_full, key_head + layout.kv_heads, row, b);
    place = args.order.next(args.taken);
    for (int head = kv_head * layout.group(); head < (kv_head + 1) * layout.group(); ++head)
      for (int block = row / kRows; block < blocks; ++block) {
        const Place<S::kStages> at(used++);
        Barrier* full = &shared.full[at.stage];
        wait(&shared.empty[at.stage], at.parity ^ 1);
        arrive_expecting(full, 2 * S::kHalves * kMatrixBytes + static_cast<int>(sizeof(float2)) * kRows);
        load_rows<S::D, kMatrixBytes>(shared.queries[at.stage][0], block_map, full, head, block * kRows, b);
        load_rows<S::D, kMatrixBytes>(shared.gradients[at.stage][0], gradient_map, full, head, block * kRows, b);
        load_bytes(shared.rows[at.stage], args.rows + (std::int64_t{b} * layout.query_heads + head) * args.padded + block * kRows,
                   static_cast<int>(sizeof(float2)) * kRows, full);
      }
  }
}

template <class S>
__device__ void differentiate_keys(KeyShared<S>& shared, const Arguments& args, const CUtensorMap& result_map, int group) {
  const HeadLayout& layout = args.layout;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int blocks = (static_cast<int>(layout.length) + kRows - 1) / kRows;
  float s[kRows / 2], dp[kRows / 2], dk[S::D / 2], dv[S::D / 2];
  std::uint32_t p[kRows / 4], ds[kRows / 4];
  const std::uint64_t queries = describe(shared.queries[0], kMatrixBytes), gradients = describe(shared.gradients[0], kMatrixBytes);
  constexpr std::uint64_t kStage = advance(S::kHalves * kMatrixBytes), kTile = advance(S::kHalves * S::kTileBytes);
  // Each warp by itself: of a block that is skipped one could be done, and the stage full again, before another has looked.
  const auto release = [&](Barrier* barrier) {
    if (thread % kWarp == 0) arrive(barrier);
  };

  int used = 0;
  for (int round = 0;; ++round) {
    const Place<kTiles> slot(round);
    wait(&shared.tile_full[slot.stage], slot.parity);
    const int place = shared.tile[slot.stage];
    if (place >= args.order.count()) break;
    const Tile tile = key_tile<S>(args, place);
    const int first_block = tile.index * S::kGroups, own = first_block + group;  // own: the first that sees these keys
    const std::uint64_t keys = describe(shared.keys[0][0] + group * kMatrixBytes) + slot.stage * kTile;
    const std::uint64_t values = describe(shared.values[0][0] + group * kMatrixBytes) + slot.stage * kTile;
#pragma unroll
    for (int j = 0; j < S::D / 2; ++j) dk[j] = dv[j] = 0;

    const auto begin_scores = [&](const Place<S::kStages>& at) {
      wait(&shared.full[at.stage], at.parity);
      products_begin();
      multiply_rows<S::D>(s, keys, S::kTileBytes, queries + at.stage * kStage, kMatrixBytes);
      multiply_rows<S::D>(dp, values, S::kTileBytes, gradients + at.stage * kStage, kMatrixBytes);
      products_commit();
    };
    const auto begin_results = [&](int stage) {
      products_begin();
      add_rows<S::D>(dv, p, gradients + stage * kStage);
      add_rows<S::D>(dk, ds, queries + stage * kStage);
      products_commit();
    };
    /// s becomes the weights, keys by queries, and dp the gradient of the scores.
    const auto differentiate = [&](int stage, bool masked) {
      const float2* rows = shared.rows[stage] + thread % 4 * 2;
#pragma unroll
      for (int c = 0; c < kRows / 8; ++c) {
        const float4 pair = *reinterpret_cast<const float4*>(rows + c * 8);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float weight = exp2_approximate(s[4 * c + i] * args.scale_log2 - (i % 2 == 0 ? pair.x : pair.z));
          s[4 * c + i] = weight;
          dp[4 * c + i] = weight * (dp[4 * c + i] - (i % 2 == 0 ? pair.y : pair.w));
        }
      }
      if (masked) {
        // By how much the thread's first query is ahead of its first key.
        const int id = read_thread() % kWarpgroup, ahead = id % 4 * 2 - id / kWarp * 16 - id % kWarp / 4;
#pragma unroll
        for (int j = 0; j < kRows / 2; ++j)
          if (ahead + j / 4 * 8 + j % 2 - j / 2 % 2 * 8 < 0) s[j] = dp[j] = 0;
      }
    };
    int block = first_block;
    const auto skip = [&] {  // blocks before the warpgroup's keys
      for (; block < min(own, blocks); ++block) {
        const Place<S::kStages> at(used++);
        wait(&shared.full[at.stage], at.parity);
        release(&shared.empty[at.stage]);
      }
    };
    const auto release_tile_before = [&] {  // its gradients are on their way since
      if (thread == 0 && round > 0) {
        wait_for_stores();
        arrive(&shared.tile_empty[(round - 1) % kTiles]);
      }
    };
    skip();
    if (own < blocks) {
      {
        const Place<S::kStages> at(used++);
        begin_scores(at);
        products_wait<0>();
        hold<kRows / 2>(s);
        hold<kRows / 2>(dp);
        differentiate(at.stage, true);
        pack<kRows / 2>(p, s);
        pack<kRows / 2>(ds, dp);
      }
      release_tile_before();
      int stage = (used - 1) % S::kStages;  // of the block before
      for (int left = layout.group() * (blocks - own) - 1; left > 0; --left) {
        if (++block == blocks) {  // of the next query head
          block = first_block;
          skip();
        }
        const Place<S::kStages> at(used++);
        begin_scores(at);
        begin_results(stage);
        products_wait<1>();
        hold<kRows / 2>(s);
        hold<kRows / 2>(dp);
        differentiate(at.stage, block == own);
        products_wait<0>();
        hold<S::D / 2>(dk);
        hold<S::D / 2>(dv);
        release(&shared.empty[stage]);
        pack<kRows / 2>(p, s);
        pack<kRows / 2>(ds, dp);
        stage = at.stage;
      }
      begin_results(stage);
      products_wait<0>();
      hold<S::D / 2>(dk);
      hold<S::D / 2>(dv);
      release(&shared.empty[stage]);
    } else {  // keys that do not exist
      for (int head = 1; head < layout.group(); ++head) {
        block = first_block;
        skip();
      }
      release_tile_before();
    }

    const float scales[2] = {args.scale, args.scale}, ones[2] = {1.0F, 1.0F};
    stage_rows<S::D, S::kTileBytes>(shared.keys[slot.stage][0], dk, scales, group * kRows, thread / kWarp, thread % kWarp);
    stage_rows<S::D, S::kTileBytes>(shared.values[slot.stage][0], dv, ones, group * kRows, thread / kWarp, thread % kWarp);
    fence_async();
    barrier_wait(1 + group, kWarpgroup);
    const int first_key = own * kRows;
    if (thread == 0 && first_key < layout.length) {
      const int b = tile.head / layout.kv_heads, key_head = layout.query_heads + tile.head % layout.kv_heads;
      store_rows<S::D, S::kTileBytes>(result_map, shared.keys[slot.stage][0], group * kRows, key_head, first_key, b);
      store_rows<S::D, S::kTileBytes>(result_map, shared.values[slot.stage][0], group * kRows, key_head + layout.kv_heads, first_key, b);
      commit_stores();
    }
  }
  if (thread == 0) wait_for_stores();
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    key_value_kernel(const __grid_constant__ CUtensorMap tile_map, const __grid_constant__ CUtensorMap block_map,
                     const __grid_constant__ CUtensorMap gradient_map, const __grid_constant__ CUtensorMap result_map,
                     const __grid_constant__ Arguments args) {
  extern __shared__ unsigned char memory[];
  auto& shared = aligned<KeyShared<S>>(memory);
  if (threadIdx.x == 0) {
    init(shared.tile_full, shared.tile_empty, S::kGroups);
    init(shared.full, shared.empty, S::kGroups * kWarpgroup / kWarp);
    fence_init();
  }
  __syncthreads();
  divide<S>([&] { fetch_queries<S>(shared, args, tile_map, block_map, gradient_map); },
            [&](int group) { differentiate_keys<S>(shared, args, result_map, group); });
}

constexpr const char* kOp = "attention_backward";

template <class QueryShape, class KeyShape>
void launch(cudaStream_t stream, const HeadLayout& layout, std::int64_t B, int processors, const Tensor& qkv, const Tensor& out,
            const Tensor& dout, const Tensor& lse, int* taken, float* rows, const Tensor& dqkv) {
  constexpr int D = QueryShape::D;
  static_assert(D == KeyShape::D);
  const float scale = 1.0F / std::sqrt(static_cast<float>(D));
  const std::int64_t T = layout.length, R = layout.row_heads(), H = layout.query_heads;
  const auto arguments = [&](std::int64_t heads, std::int64_t tile_rows, int group) {
    return Arguments{.layout = layout,
                     .order = TileOrder(heads, layout.tiles(static_cast<int>(tile_rows)), T, D, group),
                     .taken = taken,
                     .lse = static_cast<const float*>(lse.data),
                     .rows = reinterpret_cast<float2*>(rows),
                     .padded = padded_rows(T),
                     .scale = scale,
                     .scale_log2 = scale * kLog2E};
  };
  const CUtensorMap block = map_heads(kOp, qkv.data, B, T, R, D, kRows), result = map_heads(kOp, dqkv.data, B, T, R, D, kRows);
  const auto run = [&](auto kernel, std::size_t shared, int threads, const Arguments& args, const auto&... maps) {
    const std::size_t bytes = shared + kSlack;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), kOp);
    kernel<<<static_cast<unsigned>(std::min(processors, args.order.count())), threads, bytes, stream>>>(maps..., args);
    check_launch(kOp);
  };
  static_assert(sizeof(QueryShared<QueryShape>) + kSlack <= 227 * 1024 && sizeof(KeyShared<KeyShape>) + kSlack <= 227 * 1024);
  run(query_kernel<QueryShape>, sizeof(QueryShared<QueryShape>), QueryShape::kThreads,
      arguments(B * H, QueryShape::kTileRows, layout.group()), map_heads(kOp, qkv.data, B, T, R, D, QueryShape::kTileRows), block,
      map_heads(kOp, out.data, B, T, H, D, QueryShape::kTileRows), map_heads(kOp, dout.data, B, T, H, D, QueryShape::kTileRows), result);
  run(key_value_kernel<KeyShape>, sizeof(KeyShared<KeyShape>), KeyShape::kThreads,
      arguments(B * layout.kv_heads, KeyShape::kTileRows, 1), map_heads(kOp, qkv.data, B, T, R, D, KeyShape::kTileRows), block,
      map_heads(kOp, dout.data, B, T, H, D, kRows), result);
}

}  // namespace

void attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors, const Tensor& qkv,
                        const Tensor& out, const Tensor& dout, const Tensor& lse, int* taken, float* rows, const Tensor& dqkv) {
  launch<Shape<64, 2, 4>, Shape<64, 2, 4>>(stream, layout, sequences, processors, qkv, out, dout, lse, taken, rows, dqkv);
}

}  // namespace sinkscope::cuda::sm90
