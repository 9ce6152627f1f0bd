// Gradient of causal attention in bf16 on wgmma and TMA in one pass over the scores, five products of a block (after
// FlashAttention-3, Shah et al. 2024). A block keeps a tile of keys and values and walks the queries. It computes
// transposed scores, whose accumulators are the left factors of dV and dK as they stand; score gradients go through
// shared memory for dQ, which tiles of keys add up in fp32 in memory. They do so in turn: for a block of queries the
// tile at the diagonal comes first, the tile of the first keys last. That is the order in which tiles are taken, so
// nobody waits long, and the sums are the same to the bit every time.
#include <cmath>

#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/accumulator.cuh"
#include "kernels/cuda/sm90/accumulator_rows.cuh"
#include "kernels/cuda/sm90/attention.h"
#include "kernels/cuda/sm90/ptx.cuh"
#include "kernels/cuda/sm90/stages.cuh"
#include "kernels/cuda/sm90/tensor_map.h"
#include "kernels/cuda/sm90/tiles.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda::sm90 {
namespace {

constexpr int kGroups = 2, kThreads = (kGroups + 1) * kWarpgroup;
constexpr int kRows = kRowsOfBlock;              // of a block of queries, and keys of a warpgroup
static_assert(kRows == kGroupRows);
constexpr int kTileRows = kGroups * kRows;       // keys of a tile
constexpr int kMatrixBytes = kRows * kRowBytes;  // 64 rows of 64 columns
constexpr int kTileBytes = kTileRows * kRowBytes;
constexpr int kSteps = kRows / 16, kTileSteps = kTileRows / 16;  // of a product over the rows
constexpr int kPartFloats = kRows * 64, kPartBytes = kPartFloats * 4;  // of dQ
constexpr int kBuffers = 2;                      // of dQ in shared memory, for blocks in turn
constexpr int kRoles = kBuffers + 1;             // of threads that follow the tiles

/// Head dim, stages of queries and of output gradients, tiles in shared memory.
template <int Dim, int QueryStages, int GradientStages, int TileCount>
struct Shape {
  // dQ of a block is computed 64 columns at a time, narrower products are slow: by both warpgroups or by each in turn.
  static constexpr bool kSplit = Dim == 128;
  static constexpr int kParts = kSplit ? kGroups : 1;
  static constexpr int kScoreBuffers = kSplit ? 1 : 2;  // of score gradients: two save a barrier, where there is room
  static constexpr int D = Dim, kQueryStages = QueryStages, kGradientStages = GradientStages, kTiles = TileCount;
  static constexpr int kHalves = D / 64;  // of 64 columns, each a matrix of its own in shared memory
  static constexpr int kFetchRegisters = 24, kComputeRegisters = 240;
};

/// Of a block of queries.
struct RowSums {
  float lse[kRows];    // log2 e times it
  float delta[kRows];  // sum_d out dout
};

template <class S>
struct Shared {
  alignas(1024) unsigned char keys[S::kTiles][S::kHalves][kTileBytes];
  alignas(1024) unsigned char values[S::kTiles][S::kHalves][kTileBytes];
  alignas(1024) unsigned char queries[S::kQueryStages][S::kHalves][kMatrixBytes];
  alignas(1024) unsigned char gradients[S::kGradientStages][S::kHalves][kMatrixBytes];
  alignas(1024) unsigned char score_gradients[S::kScoreBuffers][kTileBytes];  // keys by queries
  alignas(1024) float query_gradients[kBuffers][S::kParts][kPartFloats];  // as the threads hold them
  alignas(16) RowSums rows[S::kQueryStages];
  int tile[S::kTiles];  // their places in the order
  Barrier tile_full[S::kTiles], tile_empty[S::kTiles];
  Barrier queries_full[S::kQueryStages], queries_empty[S::kQueryStages];
  Barrier gradients_full[S::kGradientStages], gradients_empty[S::kGradientStages];
  Barrier added_full[kBuffers], added_empty[kBuffers];
};

struct Arguments {
  HeadLayout layout;
  TileOrder order;  // of key and value heads
  int* taken;
  const RowSums* rows;  // (B*H, blocks)
  float* sums;          // (B*H, blocks, D / 64, 64 x 64) of dQ, as the threads hold them
  int* turns;           // (B*H, blocks) tiles that have added theirs
  bf16* dqkv;
  float* column_sums;   // of it (column_sum_parts(), R D), or null
  Rotary rotary;        // without pairs dqkv is not rotated
  float scale, scale_log2;

  __device__ int blocks() const { return (static_cast<int>(layout.length) + kRows - 1) / kRows; }
};

/// A tile of keys: of sequence b, key and value head `head`.
struct KeyTile {
  int b, head, index;
  __device__ KeyTile(const Arguments& args, int place) {
    const Tile tile = args.order[place];
    b = tile.head / args.layout.kv_heads;
    head = tile.head % args.layout.kv_heads;
    index = tile.index;
  }
  __device__ int first_block() const { return index * kGroups; }
};

template <class S>
__device__ void fetch(Shared<S>& shared, const Arguments& args, const CUtensorMap& tile_map,
                      const CUtensorMap& block_map) {
  const HeadLayout& layout = args.layout;
  int used = 0;
  for (int round = 0;; ++round) {
    const int place = args.order.take(args.taken);
    const Place<S::kTiles> slot(round);
    wait(&shared.tile_empty[slot.stage], slot.parity ^ 1);
    shared.tile[slot.stage] = place;
    Barrier* tile_full = &shared.tile_full[slot.stage];
    if (place >= args.order.count()) {
      arrive(tile_full);  // no tile is left
      return;
    }
    const KeyTile tile(args, place);
    const int key_head = layout.query_heads + tile.head, row = tile.index * kTileRows;
    arrive_expecting(tile_full, 2 * S::kHalves * kTileBytes);
    load_box(shared.keys[slot.stage][0], &tile_map, tile_full, key_head, row, tile.b);
    load_box(shared.values[slot.stage][0], &tile_map, tile_full, key_head + layout.kv_heads, row, tile.b);
    int head = tile.head * layout.group();
    for (int left = layout.group(); left > 0; --left, ++head) {
      const int rows = (tile.b * layout.query_heads + head) * args.blocks();
      for (int block = tile.first_block(); block < args.blocks(); ++block) {
        const Place<S::kQueryStages> query(used++);
        Barrier* full = &shared.queries_full[query.stage];
        wait(&shared.queries_empty[query.stage], query.parity ^ 1);
        arrive_expecting(full, S::kHalves * kMatrixBytes + static_cast<int>(sizeof(RowSums)));
        load_box(shared.queries[query.stage][0], &block_map, full, head, block * kRows, tile.b);
        load_bytes(&shared.rows[query.stage], args.rows + (rows + block), static_cast<int>(sizeof(RowSums)), full);
      }
    }
  }
}

template <class S>
__device__ void fetch_gradients(Shared<S>& shared, const CUtensorMap& gradient_map, int b, int head, int block,
                                int used) {
  const Place<S::kGradientStages> at(used);
  Barrier* full = &shared.gradients_full[at.stage];
  wait(&shared.gradients_empty[at.stage], at.parity ^ 1);
  arrive_expecting(full, S::kHalves * kMatrixBytes);
  load_box(shared.gradients[at.stage][0], &gradient_map, full, head, block * kRows, b);
}

/// Adds dQ of a block of queries to memory, `part` of args.sums, when it is the tile's turn.
template <class S>
__device__ void add(Shared<S>& shared, const Arguments& args, int part, int turn, int used) {
  const Place<kBuffers> at(used);
  constexpr int kBytes = S::kParts * kPartBytes;
  const float* results = shared.query_gradients[at.stage][0];
  float* sums = args.sums + std::int64_t{part} * S::kParts * kPartFloats;
  wait(&shared.added_full[at.stage], at.parity);
  if (turn == 0) {
    store_bytes(sums, results, kBytes);
  } else {
    while (load_acquire(args.turns + part) != turn) {
    }
    fence_async_global();
    add_floats(sums, results, kBytes);
  }
  commit_stores();
  wait_for_stores();
  arrive(&shared.added_empty[at.stage]);
  wait_for_stores_done();
  fence_async_global();
  add_release(args.turns + part, 1);
}

/// One thread for each `role`: the first ones add dQ of every block to memory, each those in its buffer, the last
/// fetches output gradients.
template <class S>
__device__ void follow(Shared<S>& shared, const Arguments& args, const CUtensorMap& gradient_map, int role) {
  const HeadLayout& layout = args.layout;
  int used = 0;
  for (int round = 0;; ++round) {
    const Place<S::kTiles> slot(round);
    wait(&shared.tile_full[slot.stage], slot.parity);
    const int place = shared.tile[slot.stage];
    arrive(&shared.tile_empty[slot.stage]);
    if (place >= args.order.count()) return;
    const KeyTile tile(args, place);
    int head = tile.head * layout.group();
#pragma unroll 1
    for (int left = layout.group(); left > 0; --left, ++head)
#pragma unroll 1
      for (int block = tile.first_block(); block < args.blocks(); ++block, ++used)
        if (role == kBuffers) {
          fetch_gradients<S>(shared, gradient_map, tile.b, head, block, used);
        } else if (used % kBuffers == role) {
          add<S>(shared, args, (tile.b * layout.query_heads + head) * args.blocks() + block,
                 block / kGroups - tile.index, used);
        }
  }
}

/// Column sums of a warp's rows of a block of 64.
__device__ float* sums_of(float* column_sums, const HeadLayout& layout, int b, int block, int warp) {
  const std::int64_t part =
      (std::int64_t{b} * ((layout.length + kRows - 1) / kRows) + block) * (kRows / kRowsOfSum) + warp;
  return column_sums + part * layout.row_heads() * layout.head_dim;
}

/// c (64 keys, 64 queries) = tile block^T, both of D columns.
template <int D>
__device__ void multiply_rows(float* c, std::uint64_t tile, std::uint64_t block) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
    multiply_transposed<64>(c, tile + advance(step / 4 * kTileBytes + step % 4 * 32),
                            block + advance(step / 4 * kMatrixBytes + step % 4 * 32), step > 0);
}

template <class S>
__device__ void differentiate(Shared<S>& shared, const Arguments& args, int group) {
  constexpr int D = S::D;
  const HeadLayout& layout = args.layout;
  float s[kRows / 2], dp[kRows / 2], dk[D / 2], dv[D / 2];
  float own_dq[D == 64 ? kRows / 2 : 1];
  float* dq = D == 64 ? own_dq : dp;  // where registers are short both live in turn
  std::uint32_t p[kRows / 4], ds[kRows / 4];
  const std::uint64_t queries = describe(shared.queries[0], kMatrixBytes),
                      gradients = describe(shared.gradients[0], kMatrixBytes);
  const std::uint64_t score_gradients = describe(shared.score_gradients[0]);
  constexpr std::uint64_t kStage = advance(S::kHalves * kMatrixBytes), kTile = advance(S::kHalves * kTileBytes);
  const auto release = [&](Barrier* barrier) {
    if (read_thread() % kWarpgroup == 0) arrive(barrier);
  };
  // The numbers of barriers of a warpgroup, at which the other one arrives: when it has written score gradients, of
  // blocks in turn, and when it is done with those of a block.
  constexpr int kWritten = 1, kMayWrite = kWritten + 2 * kGroups;
  const auto tell_other = [&](int barrier) { barrier_arrive(barrier + 1 - group, kGroups * kWarpgroup); };
  const auto wait_for_other = [&](int barrier) { barrier_wait(barrier + group, kGroups * kWarpgroup); };
  if constexpr (S::kScoreBuffers == 1) tell_other(kMayWrite);
  int used = 0;
  for (int round = 0;; ++round) {
    const Place<S::kTiles> slot(round);
    wait(&shared.tile_full[slot.stage], slot.parity);
    int place = shared.tile[slot.stage];
    if (place >= args.order.count()) break;
    const KeyTile tile(args, place);
    const int own_blocks = args.blocks() - tile.first_block() - group;
    const std::uint64_t keys = describe(shared.keys[0][0] + group * kMatrixBytes) + slot.stage * kTile;
    const std::uint64_t values = describe(shared.values[0][0] + group * kMatrixBytes) + slot.stage * kTile;
    // Of all keys of the tile the columns of dQ that this warpgroup computes.
    const std::uint64_t key_columns =
        describe(shared.keys[0][0] + (S::kSplit ? group * kTileBytes : 0)) + slot.stage * kTile;
#pragma unroll
    for (int j = 0; j < D / 2; ++j) dk[j] = dv[j] = 0;

    const auto begin_scores = [&](int ahead) {  // of the block to come, or of a later one
      const Place<S::kQueryStages> at(used + ahead);
      wait(&shared.queries_full[at.stage], at.parity);
      products_begin();
      multiply_rows<D>(s, keys, queries + at.stage * kStage);
      products_commit();
    };
    // Those of the block before.
    const auto release_queries = [&] { release(&shared.queries_empty[Place<S::kQueryStages>(used - 1).stage]); };
    const auto tell_staged = [&](int buffer) {  // of dQ that this warp has written
      fence_async();
      __syncwarp();
      if (read_thread() % kWarp == 0) arrive(&shared.added_full[buffer]);
    };
    /// Writes the gradients of a block's scores, `ds`, to where dQ takes them from, when both warpgroups are done with
    /// the last.
    const auto share_scores = [&] {
      if constexpr (S::kScoreBuffers == 1) wait_for_other(kMayWrite);
      const int id = read_thread() % kWarpgroup, lane = id % kWarp, row = group * kRows + id / kWarp * 16 + lane % 16;
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        store_matrices(shared_address(shared.score_gradients[used % S::kScoreBuffers] + row * kRowBytes +
                                      (((step * 2 + lane / 16) ^ row % 8) << 4)),
                       reinterpret_cast<const std::uint32_t(&)[4]>(ds[4 * step]));
      fence_async();
      const int written = kWritten + used % 2 * kGroups;
      tell_other(written);
      wait_for_other(written);
    };
    const auto begin_dq = [&](std::uint64_t scored) {
      products_begin();
#pragma unroll
      for (int step = 0; step < kTileSteps; ++step)
        multiply_shared<64, true, true>(dq, scored + advance(step * 16 * kRowBytes),
                                        key_columns + advance(step * 16 * kRowBytes), step > 0);
      products_commit();
    };
    const auto stage_dq = [&](int buffer, std::uint32_t parity) {
      hold<kRows / 2>(dq);
      wait(&shared.added_empty[buffer], parity ^ 1);
      auto* part =
          reinterpret_cast<float4*>(shared.query_gradients[buffer][S::kSplit ? group : 0]) + read_thread() % kWarpgroup;
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j)
        part[j * kWarpgroup] = make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
    };
    int block = 0;  // of those of a head that see the warpgroup's keys
    /// The first block of the second warpgroup, none of whose keys it sees: there is only its part of dQ to compute.
    const auto skip = [&](bool first) {
      if (!first) {
        products_wait<0>();
        hold<D / 2>(dk);
        release_queries();
        if (S::kSplit || used % kBuffers != group) tell_staged(used % kBuffers ^ 1);
      }
      const Place<S::kQueryStages> query(used);
      const Place<S::kGradientStages> gradient(used);
      // Before the barrier, which no warp passes until all have looked: afterwards the stages could be full again.
      wait(&shared.queries_full[query.stage], query.parity);
      wait(&shared.gradients_full[gradient.stage], gradient.parity);
#pragma unroll
      for (int j = 0; j < kRows / 4; ++j) ds[j] = 0;
      share_scores();
      const int buffer = used % kBuffers;
      const std::uint32_t parity = Place<kBuffers>(used).parity;
      const std::uint64_t scored = score_gradients + used++ % S::kScoreBuffers * advance(kTileBytes);
      if (S::kSplit || buffer == group) {
        begin_dq(scored);
        products_wait<0>();
        stage_dq(buffer, parity);
        tell_staged(buffer);
      }
      if constexpr (S::kScoreBuffers == 1) tell_other(kMayWrite);
      release_queries();
      release(&shared.gradients_empty[gradient.stage]);
    };
    /// A block whose scores are done. Unless it is the `first` of the tile, or of a head, the product of dK with the
    /// block before is on its way, and so may be dQ of that.
    const auto next = [&]<bool Last>(bool first) {
      const int stage = Place<S::kQueryStages>(used).stage, buffer = used % kBuffers;
      const Place<S::kGradientStages> gradient(used);
      wait(&shared.gradients_full[gradient.stage], gradient.parity);
      products_begin();
      multiply_rows<D>(dp, values, gradients + gradient.stage * kStage);
      products_commit();
      if (!first && (S::kSplit || buffer != group)) tell_staged(buffer ^ 1);
      const int column = read_thread() % 4 * 2;
#pragma unroll
      for (int c = 0; c < kRows / 8; ++c) {
        const float2 pair = *reinterpret_cast<const float2*>(shared.rows[stage].lse + column + c * 8);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          s[4 * c + i] = exp2_approximate(s[4 * c + i] * args.scale_log2 - (i % 2 == 0 ? pair.x : pair.y));
      }
      if (block == 0) {
        // By how much the thread's first query is ahead of its first key.
        const int id = read_thread() % kWarpgroup, ahead = id % 4 * 2 - id / kWarp * 16 - id % kWarp / 4;
#pragma unroll
        for (int j = 0; j < kRows / 2; ++j)
          if (ahead + j / 4 * 8 + j % 2 - j / 2 % 2 * 8 < 0) s[j] = 0;
      }
      products_wait<1>();
      hold<D / 2>(dk);
      if (!first) release_queries();
      pack<kRows / 2>(p, s);
      products_begin();
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        multiply<D>(dv, p + 4 * step, gradients + gradient.stage * kStage + advance(step * 16 * kRowBytes), true);
      products_commit();
      products_wait<1>();
      hold<kRows / 2>(dp);
#pragma unroll
      for (int c = 0; c < kRows / 8; ++c) {
        const float2 pair = *reinterpret_cast<const float2*>(shared.rows[stage].delta + column + c * 8);
#pragma unroll
        for (int i = 0; i < 4; ++i) dp[4 * c + i] = s[4 * c + i] * (dp[4 * c + i] - (i % 2 == 0 ? pair.x : pair.y));
        if (c % 2 == 0) continue;
        pack<8>(ds + 2 * (c - 1), dp + 4 * (c - 1));
        asm volatile("" ::: "memory");  // no sums of later rows are loaded before, for lack of registers
      }
      share_scores();
      const std::uint32_t parity = Place<kBuffers>(used).parity;
      const std::uint64_t scored = score_gradients + used++ % S::kScoreBuffers * advance(kTileBytes);
      const bool mine = S::kSplit || buffer == group;
      if constexpr (!Last) begin_scores(group > 0 && block + 1 == own_blocks ? 1 : 0);
      if (mine) begin_dq(scored);
      products_begin();
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        if constexpr (D == 128) {  // from shared memory, for lack of registers
          multiply_shared<D, false, true>(dk, scored + advance(group * kMatrixBytes + step * 32),
                                          queries + stage * kStage + advance(step * 16 * kRowBytes), true);
        } else {
          multiply<D>(dk, ds + 4 * step, queries + stage * kStage + advance(step * 16 * kRowBytes), true);
        }
      products_commit();
      products_wait<1>();
      hold<kRows / 2>(s);
      hold<D / 2>(dv);
      release(&shared.gradients_empty[gradient.stage]);
      if constexpr (S::kScoreBuffers == 1) tell_other(kMayWrite);
      if (mine) {
        stage_dq(buffer, parity);
        if constexpr (Last) tell_staged(buffer);
      }
    };
    if (group > 0) skip(true);
    if (own_blocks > 0) {
      begin_scores(0);
      products_wait<0>();
      hold<kRows / 2>(s);
      bool first = true;
      for (int left = layout.group() * own_blocks; left > 1; --left) {
        next.template operator()<false>(first);
        first = false;
        if (++block < own_blocks) continue;
        block = 0;  // of the next query head
        if (group > 0) {
          skip(false);
          first = true;
        }
      }
      next.template operator()<true>(first);
      products_wait<0>();
      hold<D / 2>(dk);
      hold<D / 2>(dv);
      release_queries();
    } else {  // keys that do not exist
      for (int heads = layout.group(); heads > 1; --heads) skip(true);
    }
    release(&shared.tile_empty[slot.stage]);
    asm volatile("" : "+r"(place));  // where it is is found anew, which takes no register before
    const KeyTile done(args, place);
    const int first_key = (done.first_block() + group) * kRows, count = static_cast<int>(layout.length) - first_key;
    bf16* rows = args.dqkv + layout.offset(done.b, layout.query_heads + done.head) + first_key * layout.stride();
    const int warp = read_thread() % kWarpgroup / kWarp, lane = read_thread() % kWarp;
    write_rows<D>(rows + std::int64_t{layout.kv_heads} * D, layout.stride(), dv, 1.0F, count, warp, lane);
    if (args.rotary.half > 0) rotate_rows<D>(dk, args.rotary, first_key, count, warp, lane);
    write_rows<D>(rows, layout.stride(), dk, args.scale, count, warp, lane);
    if (args.column_sums != nullptr && count > 0) {
      float* sums = sums_of(args.column_sums, layout, done.b, done.first_block() + group, warp) +
                    (layout.query_heads + done.head) * D;
#pragma unroll
      for (int half = 0; half < S::kHalves; ++half) {
        sum_rows(sums + half * 64, dk + half * 32, args.scale, count - warp * 16, lane);
        sum_rows(sums + layout.kv_heads * D + half * 64, dv + half * 32, 1.0F, count - warp * 16, lane);
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ CUtensorMap tile_map, const __grid_constant__ CUtensorMap block_map,
                    const __grid_constant__ CUtensorMap gradient_map, const __grid_constant__ Arguments args) {
  extern __shared__ unsigned char memory[];
  auto& shared = aligned<Shared<S>>(memory);
  if (threadIdx.x == 0) {
    init(shared.tile_full, shared.tile_empty, kGroups + kRoles);
    init(shared.queries_full, shared.queries_empty, kGroups);
    init(shared.gradients_full, shared.gradients_empty, kGroups);
    for (int buffer = 0; buffer < kBuffers; ++buffer) {
      init(&shared.added_full[buffer], S::kParts * kWarpgroup / kWarp);
      init(&shared.added_empty[buffer], 1);
    }
    fence_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_registers<S::kFetchRegisters>();
    const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
    if (!elect_one()) return;
    if (warp == 0) {
      fetch<S>(shared, args, tile_map, block_map);
    } else {
      follow<S>(shared, args, gradient_map, warp - 1);
    }
  } else {
    take_registers<S::kComputeRegisters>();
    differentiate<S>(shared, args, __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0) - 1);
  }
}

/// Block (head, block of queries, b), of which the first is the fastest: RowSums of a block of queries, zero beyond T.
/// Sets its turn to 0.
template <int D>
__global__ void __launch_bounds__(256) row_kernel(HeadLayout layout, const bf16* out, const bf16* dout,
                                                  const float* lse, RowSums* rows, int blocks, int* turns) {
  constexpr int kLanes = D / kVector, kAtATime = 256 / kLanes;
  const int head = static_cast<int>(blockIdx.x) % layout.query_heads,
            place = static_cast<int>(blockIdx.x) / layout.query_heads;
  const int block = place % blocks, b = place / blocks, lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t head_of_all = std::int64_t{b} * layout.query_heads + head, at = head_of_all * blocks + block;
  if (threadIdx.x == 0) turns[at] = 0;
#pragma unroll
  for (int first = 0; first < kRows; first += kAtATime) {
    const int row = first + static_cast<int>(threadIdx.x) / kLanes;
    const std::int64_t t = std::int64_t{block} * kRows + row;
    float sum = 0;
    if (t < layout.length) {
      const std::int64_t element = layout.out_offset(b, head) + t * layout.out_stride() + lane * kVector;
      float x[kVector], dx[kVector];
      load_vector(out + element, x);
      load_vector(dout + element, dx);
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum += x[j] * dx[j];
    }
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (lane > 0) continue;
    rows[at].lse[row] = t < layout.length ? lse[head_of_all * layout.length + t] * kLog2E : 0.0F;
    rows[at].delta[row] = sum;
  }
}

/// dQ in bf16 from its sums; block (of 64 queries, b*H + h).
template <int D>
__global__ void __launch_bounds__(kWarpgroup)
    dq_kernel(HeadLayout layout, const float* sums, bf16* dqkv, float* column_sums, Rotary rotary, float scale) {
  constexpr int kParts = D / 64;
  const int row = static_cast<int>(blockIdx.x) * kRows, thread = static_cast<int>(threadIdx.x);
  const int b = static_cast<int>(blockIdx.y) / layout.query_heads,
            head = static_cast<int>(blockIdx.y) % layout.query_heads;
  const auto* parts = reinterpret_cast<const float4*>(sums + (std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x) *
                                                                 kParts * kPartFloats) +
                      thread;
  float c[D / 2];
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
    const float4 four = parts[j * kWarpgroup];
    c[4 * j] = four.x, c[4 * j + 1] = four.y, c[4 * j + 2] = four.z, c[4 * j + 3] = four.w;
  }
  const int count = static_cast<int>(layout.length) - row, warp = thread / kWarp, lane = thread % kWarp;
  if (rotary.half > 0) rotate_rows<D>(c, rotary, row, count, warp, lane);
  write_rows<D>(dqkv + layout.offset(b, head) + row * layout.stride(), layout.stride(), c, scale, count, warp, lane);
  if (column_sums == nullptr) return;
  float* of_block = sums_of(column_sums, layout, b, row / kRows, warp) + head * D;
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    sum_rows(of_block + part * 64, c + part * kRows / 2, scale, count - warp * 16, lane);
}

constexpr const char* kOp = "attention_backward";

template <class S>
void launch(cudaStream_t stream, const HeadLayout& layout, std::int64_t B, int processors, const Tensor& qkv,
            const Tensor& out, const Tensor& dout, const Tensor& lse, int* taken, void* scratch, const Tensor& dqkv,
            float* column_sums, const Rotary& rotary) {
  constexpr int D = S::D;
  constexpr int kBytes = sizeof(Shared<S>) + kSlack;
  static_assert(kBytes <= 227 * 1024);
  const float scale = 1.0F / std::sqrt(static_cast<float>(D));
  const std::int64_t T = layout.length, R = layout.row_heads(), H = layout.query_heads, blocks = layout.tiles(kRows);
  auto* rows = static_cast<RowSums*>(scratch);
  auto* sums = reinterpret_cast<float*>(rows + B * H * blocks);
  auto* turns = reinterpret_cast<int*>(sums + B * H * blocks * kRows * D);
  auto* dq = static_cast<bf16*>(dqkv.data);
  row_kernel<D><<<static_cast<unsigned>(B * blocks * H), 256, 0, stream>>>(
      layout, static_cast<const bf16*>(out.data), static_cast<const bf16*>(dout.data),
      static_cast<const float*>(lse.data), rows, static_cast<int>(blocks), turns);
  check_launch(kOp);
  const Arguments args{.layout = layout,
                       .order = TileOrder(B * layout.kv_heads, layout.tiles(kTileRows), T, D, 1),
                       .taken = taken,
                       .rows = rows,
                       .sums = sums,
                       .turns = turns,
                       .dqkv = dq,
                       .column_sums = column_sums,
                       .rotary = rotary,
                       .scale = scale,
                       .scale_log2 = scale * kLog2E};
  const auto kernel = backward_kernel<S>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kOp);
  kernel<<<static_cast<unsigned>(std::min(processors, args.order.count())), kThreads, kBytes, stream>>>(
      map_heads(kOp, qkv.data, B, T, R, D, kTileRows, D), map_heads(kOp, qkv.data, B, T, R, D, kRows, D),
      map_heads(kOp, dout.data, B, T, H, D, kRows, D), args);
  check_launch(kOp);
  dq_kernel<D><<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(B * H)), kWarpgroup, 0, stream>>>(
      layout, sums, dq, column_sums, rotary, scale);
  check_launch(kOp);
}

}  // namespace

void attention_backward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                        const Tensor& qkv, const Tensor& out, const Tensor& dout, const Tensor& lse, int* taken,
                        void* scratch, const Tensor& dqkv, float* column_sums, const Rotary& rotary) {
  const auto launch_with = [&]<class S>(S) {
    launch<S>(stream, layout, sequences, processors, qkv, out, dout, lse, taken, scratch, dqkv, column_sums, rotary);
  };
  if (layout.head_dim == 128) {
    launch_with(Shape<128, 3, 2, 1>());
  } else {
    launch_with(Shape<64, 4, 4, 2>());
  }
}

}  // namespace sinkscope::cuda::sm90
