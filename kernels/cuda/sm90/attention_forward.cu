// Causal attention forward in bf16 on wgmma and TMA (after FlashAttention-3, Shah et al. 2024). A persistent block has
// one warpgroup whose warps fetch and store, and some that compute, each 64 queries of a tile. They walk the keys
// downwards: the next scores are computed while the weights of the last ones multiply their values, and the warpgroups
// take turns at the tensor cores, so that one's exponentials run beside another's products. The first keys come last,
// when every row's sum is final, and their weights make the sink scores.
#include <bit>
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

constexpr int kTiles = 2;  // in shared memory: one and the next
// One more, so that those of a tile may still be read when its queries are released.
constexpr int kWatchedTiles = kTiles + 1;

/// Head dim, warpgroups that compute, keys of a stage, stages.
template <int Dim, int Computing, int KeyCount, int StageCount>
struct Shape {
  static constexpr int D = Dim, kGroups = Computing, kKeys = KeyCount, kStages = StageCount;
  static constexpr int kQueries = kGroups * kGroupRows, kThreads = (kGroups + 1) * kWarpgroup;
  static constexpr int kHalves = D / 64;  // of 64 columns, each a matrix of its own in shared memory
  static constexpr int kQueryBytes = kQueries * kRowBytes, kKeyBytes = kKeys * kRowBytes;  // of a half
  static constexpr int kFetchRegisters = kGroups == 3 ? 32 : 40, kComputeRegisters = kGroups == 3 ? 160 : 232;
  // To whose multiples the last tile's rows are padded: a warpgroup's first block of keys is then its only masked one.
  static constexpr int kPadded = kQueries % kKeys == 0 ? kQueries : kGroupRows;
};

/// Weights of a warpgroup's rows on the watched keys, sums of a thread's two rows, as the threads hold them: of each
/// warp eight keys at a time.
using Watched = float2[kWarpgroup / kWarp][kMostWatched / 8][kWarp];

template <class S>
struct Shared {
  // Of a tile and the next; when a warpgroup is done with its queries its outputs take their place.
  alignas(1024) unsigned char queries[kTiles][S::kHalves][S::kQueryBytes];
  alignas(1024) unsigned char keys[S::kStages][S::kHalves][S::kKeyBytes];
  alignas(1024) unsigned char values[S::kStages][S::kHalves][S::kKeyBytes];
  Tile tile[kTiles];  // a head below zero: no tile is left
  Barrier queries_full[kTiles], queries_empty[kTiles];
  Barrier keys_full[S::kStages], keys_empty[S::kStages], values_full[S::kStages], values_empty[S::kStages];
  Watched watched[S::kGroups][kWatchedTiles];
};

struct Arguments {
  HeadLayout layout;
  TileOrder order;
  int first_row;  // of tile 0; below zero where the first tile is not whole, whose rows then are not all there
  int* taken;  // counts the tiles beyond the first of each block; 0 between launches
  const bf16* sink_logits;  // (H), or none
  float* lse;
  Watch watch;
  float scale, scale_log2;
  float unit;  // of sums of weights in fixed point, 2^n
};

/// The first of a warpgroup's rows of a tile, and the last block of keys that the tile sees: that of its last
/// warpgroup.
template <class S>
__device__ int first_row(const Arguments& args, int tile, int group) {
  return args.first_row + tile * S::kQueries + group * kGroupRows;
}
template <class S>
__device__ int last_block(const Arguments& args, int tile) {
  return first_row<S>(args, tile, S::kGroups - 1) / S::kKeys;
}

/// One thread: copies of every tile's queries, keys and values, in the order in which they are used.
template <class S>
__device__ void fetch(Shared<S>& shared, const Arguments& args, const CUtensorMap& query_map,
                      const CUtensorMap& key_map) {
  const HeadLayout& layout = args.layout;
  int used = 0;  // blocks of keys, and of values, by the tiles before
  int place = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const Place<kTiles> queries(round);
    wait(&shared.queries_empty[queries.stage], queries.parity ^ 1);
    Barrier* full = &shared.queries_full[queries.stage];
    if (place >= args.order.count()) {
      shared.tile[queries.stage].head = -1;
      arrive(full);
      return;
    }
    const Tile tile = shared.tile[queries.stage] = args.order[place];
    const int b = tile.head / layout.query_heads, head = tile.head % layout.query_heads,
              last = last_block<S>(args, tile.index);
    const auto fetch_keys = [&](int block) {
      const Place<S::kStages> at(used + last - block);
      wait(&shared.keys_empty[at.stage], at.parity ^ 1);
      Barrier* full = &shared.keys_full[at.stage];
      arrive_expecting(full, S::kHalves * S::kKeyBytes);
      load_box(shared.keys[at.stage][0], &key_map, full, layout.key_head(head), block * S::kKeys, b);
    };
    const auto fetch_values = [&](int block) {
      const Place<S::kStages> at(used + last - block);
      wait(&shared.values_empty[at.stage], at.parity ^ 1);
      Barrier* full = &shared.values_full[at.stage];
      arrive_expecting(full, S::kHalves * S::kKeyBytes);
      load_box(shared.values[at.stage][0], &key_map, full, layout.value_head(head), block * S::kKeys, b);
    };
    arrive_expecting(full, S::kHalves * S::kQueryBytes);
    load_box(shared.queries[queries.stage][0], &query_map, full, head, first_row<S>(args, tile.index, 0), b);
    place = args.order.next(args.taken);
    fetch_keys(last);
    for (int block = last - 1; block >= 0; --block) {
      fetch_keys(block);
      fetch_values(block + 1);
    }
    fetch_values(0);
    used += last + 1;
  }
}

/// The two rows of a thread: the score that weights are relative to, and its own part of their sum.
struct Rows {
  float base[2], sum[2];
};

/// Scores to weights, exp2 of their distance from the row's base in units of 1 / scale_log2. The base is the largest
/// score at first, later a new one only when some row of the warp has a score beyond it by kBaseSlack: fp32 and bf16
/// hold weights of 2^kBaseSlack as well as those below 1, and rows need no rescaling for what is about as large.
/// Returns whether the base is new; earlier weights must then be multiplied by `rescale`.
constexpr float kBaseSlack = 8;
template <bool First, int Count>
__device__ bool weigh(float* s, Rows& rows, float (&rescale)[2], float scale_log2) {
  float highest[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top[2] = {fmaxf(s[2 * h], s[2 * h + 1]), fmaxf(s[4 + 2 * h], s[4 + 2 * h + 1])};
#pragma unroll
    for (int c = 2; c < Count / 4; ++c) top[c % 2] = fmaxf(top[c % 2], fmaxf(s[4 * c + 2 * h], s[4 * c + 2 * h + 1]));
    highest[h] = quad_max(fmaxf(top[0], top[1]));
  }
  bool moved = First;
  if constexpr (!First) {
    const bool beyond =
        (highest[0] - rows.base[0]) * scale_log2 > kBaseSlack || (highest[1] - rows.base[1]) * scale_log2 > kBaseSlack;
    moved = __any_sync(kAllLanes, beyond);
    if (moved) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        highest[h] = fmaxf(highest[h], rows.base[h]);
        rescale[h] = exp2_approximate((rows.base[h] - highest[h]) * scale_log2);
        rows.base[h] = highest[h];
        rows.sum[h] *= rescale[h];
      }
    }
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) rows.base[h] = highest[h], rows.sum[h] = 0;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float offset = rows.base[h] * scale_log2;
    float sum[2] = {};
#pragma unroll
    for (int c = 0; c < Count / 4; ++c) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; ++i) s[4 * c + i] = exp2_approximate(s[4 * c + i] * scale_log2 - offset);
      sum[c % 2] += s[4 * c + 2 * h] + s[4 * c + 2 * h + 1];
    }
    rows.sum[h] += sum[0] + sum[1];
  }
  return moved;
}

// The numbers of barriers: a warpgroup's turn at the tensor cores; its outputs are staged, of tiles in turn.
constexpr int kTurn = 1;
template <class S>
__device__ int staged(int round, int group) {
  return kTurn + S::kGroups + round % kTiles * S::kGroups + group;
}
constexpr int kStagedThreads = kWarpgroup + kWarp;

// A sum in fixed point: how many were added, the sum, whether one was not finite.
constexpr int kCountBits = 16;
constexpr unsigned long long kCount = (1ULL << kCountBits) - 1, kNotFinite = 1ULL << 63;

/// A warp for each warpgroup that computes: stores its outputs and adds up its weights on the watched keys. Who adds
/// the last ones of a head writes their sink score.
template <class S>
__device__ void finish(Shared<S>& shared, const Arguments& args, const CUtensorMap& out_map, int group) {
  const HeadLayout& layout = args.layout;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, length = static_cast<int>(layout.length),
            keys = args.watch.keys;
  for (int round = 0;; ++round) {
    const int stage = round % kTiles;
    barrier_wait(staged<S>(round, group), kStagedThreads);
    const Tile tile = shared.tile[stage];
    if (tile.head < 0) break;
    const int row = first_row<S>(args, tile.index, group);
    const bool has_rows = row >= 0 && row < length;
    __syncwarp();  // all have read the tile
    if (lane == 0) {
      if (has_rows)
        store_rows<S::D, S::kQueryBytes>(out_map, shared.queries[stage][0], group * kGroupRows,
                                         tile.head % layout.query_heads, row, tile.head / layout.query_heads);
      commit_stores();
      wait_for_stores();
      arrive(&shared.queries_empty[stage]);
    }
    __syncwarp();
    if (!has_rows) continue;
    for (int first = 0; first < keys; first += 8) {
      // A lane for each of eight keys and each warp of the warpgroup, then over the warps.
      const int key = first + lane % 8;
      const float2* weights = shared.watched[group][round % kWatchedTiles][lane / 8][first / 8] + lane % 8 / 2;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += lane % 2 == 0 ? weights[i * 4].x : weights[i * 4].y;
      sum += __shfl_xor_sync(kAllLanes, sum, 8);
      sum += __shfl_xor_sync(kAllLanes, sum, 16);
      if (lane >= 8 || key >= keys) continue;
      const std::int64_t at = std::int64_t{tile.head} * keys + key;
      const bool finite = isfinite(sum);
      if (!finite) atomicOr(args.watch.sums + at, kNotFinite);
      const unsigned long long added = (finite ? __float2ull_rn(sum * args.unit) << kCountBits : 0) | 1;
      const unsigned long long before = atomicAdd(args.watch.sums + at, added);
      if ((before & kCount) != (length - 1) / kGroupRows) continue;
      args.watch.sums[at] = 0;
      const float total = (before & kNotFinite) != 0 ? NAN : static_cast<float>((before + added) >> kCountBits);
      args.watch.sink[at] = total / (args.unit * static_cast<float>(length - key));
    }
  }
  if (lane == 0) wait_for_stores();
}

/// A warpgroup that computes.
template <class S>
__device__ void compute(Shared<S>& shared, const Arguments& args, int group) {
  const HeadLayout& layout = args.layout;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, warp = __shfl_sync(kAllLanes, thread / kWarp, 0);

  float s[S::kKeys / 2], out[S::D / 2];
  std::uint32_t p[S::kKeys / 4];
  const auto take_turn = [&] { barrier_wait(kTurn + group, S::kGroups * kWarpgroup); };
  const auto end_turn = [&] {
#pragma unroll
    for (int other = 1; other < S::kGroups; ++other)
      barrier_arrive(kTurn + (group + other) % S::kGroups, S::kGroups * kWarpgroup);
  };
  // The first turn of a warpgroup waits for those before it alone: the ones behind it have come already.
#pragma unroll
  for (int other = 0; other < S::kGroups - 1; ++other)
    if (other < group) barrier_arrive(kTurn + other, S::kGroups * kWarpgroup);

  std::uint64_t queries[S::kHalves], keys[S::kHalves];
#pragma unroll
  for (int half = 0; half < S::kHalves; ++half) {
    queries[half] = describe(shared.queries[0][half] + group * kGroupRows * kRowBytes);
    keys[half] = describe(shared.keys[0][half]);
  }
  const std::uint64_t values = describe(shared.values[0][0], S::kKeyBytes);
  constexpr int kScores = S::kKeys / 2, kOuts = S::D / 2;
  const auto add_scores = [&](int round, int stage) {
    const std::uint64_t tile = static_cast<std::uint64_t>(round % kTiles) * advance(S::kHalves * S::kQueryBytes);
    products_begin();
#pragma unroll
    for (int step = 0; step < S::D / 16; ++step)
      multiply_transposed<S::kKeys>(s, queries[step / 4] + tile + advance(step % 4 * 32),
                                    keys[step / 4] + advance(step % 4 * 32) +
                                        static_cast<std::uint64_t>(stage) * advance(S::kHalves * S::kKeyBytes),
                                    step > 0);
    products_commit();
  };
  const auto add_values = [&](int stage) {
    products_begin();
#pragma unroll
    for (int step = 0; step < S::kKeys / 16; ++step)
      multiply<S::D>(out, p + 4 * step,
                     values + advance(step * 16 * kRowBytes) +
                         static_cast<std::uint64_t>(stage) * advance(S::kHalves * S::kKeyBytes),
                     true);
    products_commit();
  };
  const auto release = [&](Barrier* barrier) {
    if (thread == 0) arrive(barrier);
  };
  const auto tell_finisher = [&](int round) { barrier_arrive(staged<S>(round, group), kStagedThreads); };

  int used = 0;  // blocks of keys so far; the weights of the last one wait for their values
  for (int round = 0;; ++round) {
    const Place<kTiles> queries_of(round);
    wait(&shared.queries_full[queries_of.stage], queries_of.parity);
    const Tile tile = shared.tile[queries_of.stage];
    if (tile.head < 0) {
      tell_finisher(round);
      return;
    }
    // Rows below zero, whose outputs nobody stores, see what row 0 on would see.
    const int row = first_row<S>(args, tile.index, group), seeing = max(row, 0);
    int block = last_block<S>(args, tile.index);
    if (seeing / S::kKeys < block) {  // the tile's last block, which none of the rows see
      const Place<S::kStages> skipped(used++);
      wait(&shared.keys_full[skipped.stage], skipped.parity);
      wait(&shared.values_full[skipped.stage], skipped.parity);
      take_turn();  // all four warps have seen both by then, so that none misses a phase
      end_turn();
      release(&shared.keys_empty[skipped.stage]);
      release(&shared.values_empty[skipped.stage]);
      --block;
    }
    const Place<S::kStages> first(used++);
    wait(&shared.keys_full[first.stage], first.parity);
    take_turn();
    add_scores(round, first.stage);
    end_turn();
    products_wait<0>();
    hold<kScores>(s);
    release(&shared.keys_empty[first.stage]);
    {
      const int id = read_thread() % kWarpgroup;
      // By how much the thread's first row is ahead of its first key.
      const int ahead = seeing + id / kWarp * 16 + id % kWarp / 4 - block * S::kKeys - id % 4 * 2;
#pragma unroll
      for (int j = 0; j < kScores; ++j)
        if (j / 4 * 8 + j % 2 - j / 2 % 2 * 8 > ahead) s[j] = -INFINITY;
    }
    Rows rows;
    float rescale[2];
    weigh<true, kScores>(s, rows, rescale, args.scale_log2);
    pack<kScores>(p, s);
#pragma unroll
    for (int j = 0; j < kOuts; ++j) out[j] = 0;
    for (; block > 0; --block) {
      const Place<S::kStages> values_of(used - 1), keys_of(used++);
      wait(&shared.keys_full[keys_of.stage], keys_of.parity);
      take_turn();
      add_scores(round, keys_of.stage);
      wait(&shared.values_full[values_of.stage], values_of.parity);
      add_values(values_of.stage);
      end_turn();
      products_wait<1>();
      hold<kScores>(s);
      release(&shared.keys_empty[keys_of.stage]);
      const bool moved = weigh<false, kScores>(s, rows, rescale, args.scale_log2);
      products_wait<0>();
      hold<kOuts>(out);
      release(&shared.values_empty[values_of.stage]);
      if (moved) {
#pragma unroll
        for (int j = 0; j < kOuts; ++j) out[j] *= rescale[j / 2 % 2];
      }
      pack<kScores>(p, s);
    }
    const Place<S::kStages> values_of(used - 1);
    wait(&shared.values_full[values_of.stage], values_of.parity);
    add_values(values_of.stage);
    const int id = read_thread() % kWarpgroup, lane = id % kWarp, own = row + id / kWarp * 16 + lane / 4;
    float total[2], inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[h] = quad_sum(rows.sum[h]);
      float highest = rows.base[h] * args.scale, factor = 1;
      if (args.sink_logits != nullptr) {  // stands beside the scores of every query
        const float logit = to_float(args.sink_logits[tile.head % layout.query_heads]), score = highest;
        highest = fmaxf(score, logit);
        factor = expf(score - highest);
        total[h] = total[h] * factor + expf(logit - highest);
      }
      inverse[h] = factor / total[h];
      if (lane % 4 == 0 && own + h * 8 >= 0 && own + h * 8 < layout.length)
        args.lse[std::int64_t{tile.head} * layout.length + own + h * 8] = highest + logf(total[h]);
    }
    if (args.watch.keys > 0) {
      Watched& watched = shared.watched[group][round % kWatchedTiles];
      float weight_of[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) weight_of[h] = own + h * 8 < layout.length ? inverse[h] : 0.0F;
#pragma unroll
      for (int c = 0; c < kMostWatched / 8; ++c) {
        if (c * 8 >= args.watch.keys) break;
        watched[warp][c][lane] = {s[4 * c] * weight_of[0] + s[4 * c + 2] * weight_of[1],
                                  s[4 * c + 1] * weight_of[0] + s[4 * c + 3] * weight_of[1]};
      }
    }
    products_wait<0>();
    hold<kOuts>(out);
    if (row < S::kKeys) {
      // Rows of few keys have the largest outputs, so that their weights' rounding would be most of the whole error.
      pack_rest<kScores>(p, s);
      add_values(values_of.stage);
      products_wait<0>();
      hold<kOuts>(out);
    }
    release(&shared.values_empty[values_of.stage]);
    stage_rows<S::D, S::kQueryBytes>(shared.queries[queries_of.stage][0], out, inverse, group * kGroupRows, warp, lane);
    fence_async();
    tell_finisher(round);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    forward_kernel(const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap key_map,
                   const __grid_constant__ CUtensorMap out_map, const __grid_constant__ Arguments args) {
  extern __shared__ unsigned char memory[];
  auto& shared = aligned<Shared<S>>(memory);
  if (threadIdx.x == 0) {
    prefetch(&query_map);
    prefetch(&key_map);
    prefetch(&out_map);
    init(shared.queries_full, shared.queries_empty, S::kGroups);
    init(shared.keys_full, shared.keys_empty, S::kGroups);
    init(shared.values_full, shared.values_empty, S::kGroups);
    fence_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_registers<S::kFetchRegisters>();
    const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
    if (warp == 0) {
      if (elect_one()) fetch<S>(shared, args, query_map, key_map);
    } else if (warp <= S::kGroups) {
      finish<S>(shared, args, out_map, warp - 1);
    }
  } else {
    take_registers<S::kComputeRegisters>();
    // The same in every lane, so that what follows from it can be in uniform registers.
    compute<S>(shared, args, __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0) - 1);
  }
}

template <class S>
void launch(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors, const Tensor& qkv,
            const Tensor& out, const Tensor& lse, int* taken, const Watch& watch, const Tensor& sink_logits) {
  constexpr const char* kOp = "attention_forward";
  constexpr int kBytes = sizeof(Shared<S>) + kSlack;
  static_assert(kBytes <= 227 * 1024);
  const float scale = 1.0F / std::sqrt(static_cast<float>(S::D));
  const std::int64_t tiles = layout.tiles(S::kQueries), padded = layout.tiles(S::kPadded) * S::kPadded;
  const auto length_bits = std::bit_width(static_cast<std::uint64_t>(layout.length));
  const Arguments args{
      .layout = layout, .order = TileOrder(sequences * layout.query_heads, tiles, layout.length, S::D, layout.group()),
      .first_row = static_cast<int>(padded - tiles * S::kQueries), .taken = taken,
      .sink_logits = reinterpret_cast<const bf16*>(sink_logits.data), .lse = reinterpret_cast<float*>(lse.data),
      .watch = watch, .scale = scale, .scale_log2 = scale * kLog2E,
      .unit = std::exp2(static_cast<float>(63 - kCountBits - length_bits))};
  const CUtensorMap queries =
      map_heads(kOp, qkv.data, sequences, layout.length, layout.row_heads(), S::D, S::kQueries, S::D);
  const CUtensorMap keys = map_heads(kOp, qkv.data, sequences, layout.length, layout.row_heads(), S::D, S::kKeys, S::D);
  const CUtensorMap outs = map_heads(kOp, out.data, sequences, layout.length, layout.query_heads, S::D, kGroupRows, 64);
  const auto kernel = forward_kernel<S>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kOp);
  kernel<<<static_cast<unsigned>(std::min(processors, args.order.count())), S::kThreads, kBytes, stream>>>(
      queries, keys, outs, args);
  check_launch(kOp);
}

}  // namespace

void attention_forward(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, int processors,
                       const Tensor& qkv, const Tensor& out, const Tensor& lse, int* taken, const Watch& watch,
                       const Tensor& sink_logits) {
  const auto launch_with = [&]<class S>(S) {
    launch<S>(stream, layout, sequences, processors, qkv, out, lse, taken, watch, sink_logits);
  };
  if (layout.head_dim == 128) {
    launch_with(Shape<128, 2, 128, 2>());
  } else {
    launch_with(Shape<64, 3, 128, 3>());
  }
}

}  // namespace sinkscope::cuda::sm90
