// Matrix products whose epilogue is an activation or its derivative, in bf16 on wgmma and TMA. A persistent block has
// one warpgroup whose threads fetch, and two or three that compute tiles in turn: while one multiplies, at the full
// rate of the tensor cores, the others go through their epilogues. Of wide tiles two blocks of a cluster compute those
// one below the other, whose factor of columns each fetches a half of for both: what goes through the L2 cache takes
// power, which sets the clock. An epilogue works in boxes of 64 rows in shared memory: what it reads was fetched there
// ahead, its results take that place, and the copy engine stores them.
#include <algorithm>

#include "kernels/backend_memory.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/accumulator.cuh"
#include "kernels/cuda/sm90/activated_product.h"
#include "kernels/cuda/sm90/ptx.cuh"
#include "kernels/cuda/sm90/stages.cuh"
#include "kernels/cuda/sm90/tensor_map.h"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda::sm90 {
namespace {

constexpr int kStages = 4;
constexpr int kRows = 128;                          // of a tile
constexpr int kDepth = 64;                          // summed over in a stage
constexpr int kHalves = kRows / kGroupRows;         // of a tile, as products take them
constexpr int kStagedBytes = 32 << 10;              // of each warpgroup's epilogue
static_assert(kGroupRows == kOwnSumRows);

/// An epilogue. It goes through a tile in units of 64 rows of 64 columns of the activation, or of 32. Of a unit a
/// gradient reads a box of z, or of gate and of up, and writes as many; without a gradient it writes z and its GELU, or
/// gate, up and their SwiGLU.
template <Activation A, bool Gradient, bool Wide = true>
struct Kind {
  static constexpr Activation kActivation = A;
  static constexpr bool kGradient = Gradient, kGated = A == Activation::swiglu;
  static constexpr int kCluster = Wide ? 2 : 1;      // blocks
  static constexpr int kColumns = Wide ? 192 : 128;  // of a tile's accumulators
  static constexpr int kGroups = Wide ? 2 : 3, kThreads = (kGroups + 1) * kWarpgroup;
  static constexpr int kFetchRegisters = Wide ? 40 : 32, kComputeRegisters = Wide ? 232 : 160;
  // Rows of a box of the columns' factor.
  static constexpr int kFetched = (Gradient ? kDepth : kColumns) / kCluster;
  static constexpr int kWidth = kGated && !Gradient ? kColumns / 2 : kColumns;  // of the activation, in a tile
  static constexpr int kRead = !Gradient ? 0 : kGated ? 2 : 1, kWritten = Gradient ? kRead : kGated ? 3 : 2;
  static constexpr int kBoxColumns = kGated && !Gradient ? 32 : 64, kBoxRowBytes = kBoxColumns * 2;
  static constexpr int kBoxBytes = kGroupRows * kBoxRowBytes, kBoxes = kStagedBytes / kBoxBytes;
  static __device__ int swizzle(int row) { return kBoxColumns == 64 ? row % 8 : row / 2 % 4; }
  static constexpr int kOfBox = kBoxColumns / 2;  // accumulators of a thread
  static constexpr int kChunks = kWidth / kBoxColumns, kUnits = kHalves * kChunks;
  static constexpr bool kSums = kGradient && !kGated;  // they take a box
  static constexpr int kPlaces = (kBoxes - (kSums ? 1 : 0)) / kWritten;  // of units in shared memory
  static_assert(kWidth % kBoxColumns == 0 && kPlaces >= 2 && kPlaces <= kUnits);
  static_assert(Gradient || !kGated || kCluster == 2);  // gate and up are fetched by a block each
};

struct Arguments {
  int tiles_down, tiles, group;  // of rows of a cluster; of columns; rows of clusters' tiles that go together
  int depth;                     // stages of a tile's factors
  int rows, width;               // M, F
  const bf16* bias;
  float* sums;
};

struct Maps {
  CUtensorMap rows, columns, z, z_stored, out;
};

template <class K>
struct Shared {
  alignas(1024) unsigned char rows[kStages][kRows * kRowBytes];
  alignas(1024) unsigned char columns[kStages][K::kColumns * kRowBytes];
  alignas(1024) unsigned char staged[K::kGroups][K::kBoxes][K::kBoxBytes];
  Barrier full[kStages], empty[kStages];
  Barrier staged_full[K::kGroups][K::kPlaces], staged_empty[K::kGroups][K::kPlaces];
};

/// A cluster's n-th tile of this block: its first row, and which of columns. Rows of tiles go in groups, whose factor
/// stays in the L2 cache while columns pass by.
template <class K>
struct Tile {
  int row, column;
  __device__ Tile(const Arguments& args, int n) {
    const int begin = n / (args.group * args.tiles) * args.group, within = n - begin * args.tiles,
              width = min(args.group, args.tiles_down - begin);
    row = ((begin + within % width) * K::kCluster + (K::kCluster > 1 ? cluster_rank() : 0)) * kRows;
    column = within / width;
  }
};

/// Calls f(n) for the cluster's tiles number `first`, `first` + `step` and so on.
template <class K, class F>
__device__ void for_tiles(const Arguments& args, int first, int step, F&& f) {
  const int count = args.tiles_down * args.tiles, all = static_cast<int>(gridDim.x) / K::kCluster;
  for (int n = static_cast<int>(blockIdx.x) / K::kCluster + first * all; n < count; n += step * all) f(n);
}

/// The parity of the phase of a place's barrier in which a unit of a warpgroup's n-th tile is there.
template <class K>
__device__ std::uint32_t parity_of(int n, int unit) {
  const int uses = (K::kUnits - unit % K::kPlaces + K::kPlaces - 1) / K::kPlaces;  // of the place, in a tile
  return static_cast<std::uint32_t>(n * uses + unit / K::kPlaces) % 2;
}

/// One thread: the factors of all tiles of the block; of that of columns the block's part for its whole cluster.
template <class K>
__device__ void fetch(Shared<K>& shared, const Arguments& args, const Maps& maps) {
  int used = 0;
  for_tiles<K>(args, 0, 1, [&](int n) {
    const Tile<K> tile(args, n);
    const int row = tile.row, column = tile.column * K::kWidth;
#pragma unroll 1
    for (int block = 0; block < args.depth; ++block, ++used) {
      const Place<kStages> at(used);
      Barrier* full = &shared.full[at.stage];
      unsigned char* columns = shared.columns[at.stage];
      const int rank = K::kCluster > 1 ? cluster_rank() : 0;  // read anew, which takes no register between
      const auto load = [&](int to_row, int from_column, int from_row, int slab) {
        unsigned char* to = columns + to_row * kRowBytes;
        if constexpr (K::kCluster > 1)
          load_slab_box(to, &maps.columns, full, from_column, from_row, slab, (1 << K::kCluster) - 1);
        else
          load_slab_box(to, &maps.columns, full, from_column, from_row, slab);
      };
      wait(&shared.empty[at.stage], at.parity ^ 1);
      arrive_expecting(full, (kRows + K::kColumns) * kRowBytes);
      load_slab_box(shared.rows[at.stage], &maps.rows, full, block * kDepth, row, 0);
      if constexpr (K::kGradient) {  // summed over rows of the factor: boxes of 64 columns
#pragma unroll
        for (int i = 0; i < K::kColumns / 64; ++i)
          load(i * kDepth + rank * K::kFetched, column + i * 64, block * kDepth + rank * K::kFetched, 0);
      } else {  // of gated ones those of gate or of up
        load(rank * K::kFetched, block * kDepth, K::kGated ? column : column + rank * K::kFetched,
             K::kGated ? rank : 0);
      }
    }
  });
}

/// One thread for each warpgroup: what its epilogues read.
template <class K>
__device__ void fetch_staged(Shared<K>& shared, const Arguments& args, const Maps& maps, int group) {
  int tiles = 0;
  for_tiles<K>(args, group, K::kGroups, [&](int n) {
    const Tile<K> tile(args, n);
#pragma unroll 1
    for (int unit = 0; unit < K::kUnits; ++unit) {
      const int place = unit % K::kPlaces, column = tile.column * K::kWidth + unit % K::kChunks * K::kBoxColumns;
      Barrier* full = &shared.staged_full[group][place];
      wait(&shared.staged_empty[group][place], parity_of<K>(tiles, unit) ^ 1);
      arrive_expecting(full, K::kRead * K::kBoxBytes);
#pragma unroll
      for (int i = 0; i < K::kRead; ++i)
        load_slab_box(shared.staged[group][place * K::kWritten + i], &maps.z, full, column,
                      tile.row + unit / K::kChunks * kGroupRows, i);
    }
    ++tiles;
  });
}

/// 1 / (1 + 2^x): the logistic function of -x ln 2.
__device__ float logistic(float x) { return reciprocal_approximate(1.0F + exp2_approximate(x)); }
__device__ float sigmoid(float x) { return logistic(-kLog2E * x); }

// Unlike those of activation.cu these are approximations, whose errors the rounding to bf16 hides.
// GELU's tanh form by a sigmoid: (1 + tanh u) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float kGelu = 1.5957691216057308F, kGeluCubic = kGelu * 0.044715F;  // 2 sqrt(2 / pi)
__device__ float gelu(float x) { return x * logistic(x * (-kLog2E * kGelu - kLog2E * kGeluCubic * (x * x))); }
__device__ float gelu_derivative(float x) {
  const float square = x * x, s = logistic(x * (-kLog2E * kGelu - kLog2E * kGeluCubic * square));
  const float slope = x * (kGelu + 3 * kGeluCubic * square);
  return s + (s - s * s) * slope;
}

/// What the epilogue does with two columns of a row: a pair of each of its boxes, c being the accumulators of the first
/// factor and `other` those of the second one of a gated activation.
template <Activation A, bool Gradient>
struct Step;
template <>
struct Step<Activation::gelu, false> {
  static __device__ void apply(std::uint32_t (&pairs)[2], const float* c, const float*) {
    pairs[0] = pack_bf16(c[0], c[1]);
    pairs[1] = pack_bf16(gelu(c[0]), gelu(c[1]));
  }
};
template <>
struct Step<Activation::swiglu, false> {
  static __device__ void apply(std::uint32_t (&pairs)[3], const float* c, const float* other) {
    pairs[0] = pack_bf16(c[0], c[1]);
    pairs[1] = pack_bf16(other[0], other[1]);
    pairs[2] = pack_bf16(c[0] * other[0] * sigmoid(c[0]), c[1] * other[1] * sigmoid(c[1]));
  }
};
template <>
struct Step<Activation::gelu, true> {
  static __device__ void apply(std::uint32_t (&pairs)[1], float* c, const float*) {
    c[0] *= gelu_derivative(low_bf16(pairs[0]));
    c[1] *= gelu_derivative(high_bf16(pairs[0]));
    pairs[0] = pack_bf16(c[0], c[1]);
  }
};
template <>
struct Step<Activation::swiglu, true> {
  static __device__ void apply(std::uint32_t (&pairs)[2], const float* c, const float*) {
    const float gate[2] = {low_bf16(pairs[0]), high_bf16(pairs[0])}, up[2] = {low_bf16(pairs[1]), high_bf16(pairs[1])};
    float d_gate[2], d_up[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float s = sigmoid(gate[i]), d = c[i] * s;
      d_up[i] = d * gate[i];
      d_gate[i] = up[i] * (d + d_up[i] * (1.0F - s));
    }
    pairs[0] = pack_bf16(d_gate[0], d_gate[1]);
    pairs[1] = pack_bf16(d_up[0], d_up[1]);
  }
};

// The numbers of barriers: a warpgroup's turn at the tensor cores; all of it has written a unit.
constexpr int kTurn = 1;
template <class K>
constexpr int kUnitWritten = kTurn + K::kGroups;

/// A warpgroup that computes every other tile.
template <class K>
__device__ void compute(Shared<K>& shared, const Arguments& args, const Maps& maps, int group) {
  const auto is_first = [] { return read_thread() % kWarpgroup == 0; };
  float c[kHalves][K::kColumns / 2];
  const std::uint64_t a = describe(shared.rows[0]),
                      b = describe(shared.columns[0], K::kGradient ? kDepth * kRowBytes : 16);
  const auto release = [&](int stage) {  // to those who fetch into it
    const int thread = read_thread() % kWarpgroup;
    if constexpr (K::kCluster > 1) {
      if (thread < K::kCluster) arrive_at(&shared.empty[stage], thread);
    } else {
      if (thread == 0) arrive(&shared.empty[stage]);
    }
  };
  // Where GELU's gradient stages nothing: each warp's column sums of a unit.
  auto& warp_sums =
      *reinterpret_cast<float(*)[kWarpgroup / kWarp][K::kBoxColumns]>(shared.staged[group][K::kBoxes - 1]);
  const auto free_place = [&](int unit) {
    if constexpr (K::kGradient) arrive(&shared.staged_empty[group][unit % K::kPlaces]);
  };
  const auto free_last = [&] {
    wait_for_stores();
#pragma unroll
    for (int unit = K::kUnits - K::kPlaces + 1; unit < K::kUnits; ++unit) free_place(unit);
  };
  if (group == K::kGroups - 1) barrier_arrive(kTurn, 2 * kWarpgroup);  // the first turn is the first one's
  int used = group * args.depth, tiles = 0;
  for_tiles<K>(args, group, K::kGroups, [&](int n) {
    const Tile<K> tile(args, n);
    const int row = tile.row, column = tile.column * K::kWidth;
    barrier_wait(kTurn + group, 2 * kWarpgroup);
    for (int block = 0; block < args.depth; ++block, ++used) {
      const Place<kStages> at(used);
      wait(&shared.full[at.stage], at.parity);
      const std::uint64_t in_stage = static_cast<std::uint64_t>(at.stage),
                          rows = a + in_stage * advance(kRows * kRowBytes);
      const std::uint64_t columns = b + in_stage * advance(K::kColumns * kRowBytes);
      products_begin();
#pragma unroll
      for (int step = 0; step < kDepth / 16; ++step)
#pragma unroll
        for (int half = 0; half < kHalves; ++half)
          multiply_shared<K::kColumns, false, K::kGradient>(
              c[half], rows + advance(half * kGroupRows * kRowBytes + step * 32),
              columns + advance(K::kGradient ? step * 16 * kRowBytes : step * 32), block + step > 0);
      products_commit();
      if (block > 0) {
        products_wait<1>();
        release(Place<kStages>(used - 1).stage);
      } else if (tiles > 0 && is_first()) {
        free_last();
      }
    }
    barrier_arrive(kTurn + (group + 1) % K::kGroups, 2 * kWarpgroup);
    products_wait<0>();
#pragma unroll
    for (int half = 0; half < kHalves; ++half) hold<K::kColumns / 2>(c[half]);
    release(Place<kStages>(used - 1).stage);
    used += (K::kGroups - 1) * args.depth;  // those of the others' tiles
    // One thread has seen that the last tile's boxes were read.
    if (tiles > 0) barrier_wait(kUnitWritten<K> + group, kWarpgroup);

#pragma unroll
    for (int unit = 0; unit < K::kUnits; ++unit) {
      const int place = unit % K::kPlaces, half = unit / K::kChunks, chunk = unit % K::kChunks;
      const int first_row = row + half * kGroupRows, first_column = column + chunk * K::kBoxColumns;
      unsigned char* staged = shared.staged[group][place * K::kWritten];
      float* own = c[half] + chunk * K::kOfBox;
      float* other = K::kGated && !K::kGradient ? own + K::kWidth / 2 : own;
      if constexpr (K::kGradient) wait(&shared.staged_full[group][place], parity_of<K>(tiles, unit));
      const int thread = read_thread() % kWarpgroup, warp = thread / kWarp, lane = thread % kWarp,
                staged_row = warp * 16 + lane % 16;
#pragma unroll
      for (int step = 0; step < K::kBoxColumns / 16; ++step) {
        [[maybe_unused]] std::uint32_t bias[2][2] = {};
        if constexpr (!K::kGradient) {
          if (args.bias != nullptr) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int at = first_column + step * 16 + i % 2 * 8 + lane % 4 * 2;
              if (i < (K::kGated ? 4 : 2) && at < args.width)
                bias[i / 2][i % 2] = *reinterpret_cast<const std::uint32_t*>(args.bias + i / 2 * args.width + at);
            }
          }
        }
        const std::uint32_t address =
            shared_address(staged + staged_row * K::kBoxRowBytes +
                           ((step * 2 + lane / 16 ^ K::swizzle(staged_row)) << 4));
        std::uint32_t boxes[K::kWritten][4];
#pragma unroll
        for (int box = 0; box < K::kRead; ++box) load_matrices(boxes[box], address + box * K::kBoxBytes);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float *x = own + 8 * step + 2 * j, *y = other + 8 * step + 2 * j;
          if constexpr (!K::kGradient) {
            x[0] += low_bf16(bias[0][j / 2]);
            x[1] += high_bf16(bias[0][j / 2]);
            if constexpr (K::kGated) {
              y[0] += low_bf16(bias[1][j / 2]);
              y[1] += high_bf16(bias[1][j / 2]);
            }
          }
          std::uint32_t pairs[K::kWritten];
#pragma unroll
          for (int box = 0; box < K::kRead; ++box) pairs[box] = boxes[box][j];
          Step<K::kActivation, K::kGradient>::apply(pairs, x, y);
#pragma unroll
          for (int box = 0; box < K::kWritten; ++box) boxes[box][j] = pairs[box];
        }
#pragma unroll
        for (int box = 0; box < K::kWritten; ++box) store_matrices(address + box * K::kBoxBytes, boxes[box]);
      }
      const bool sums = K::kSums && args.sums != nullptr;
      if constexpr (K::kSums)
        if (sums) sum_rows(warp_sums[warp], own, 1.0F, 16, lane);
      fence_async();
      // Behind the barrier the place of the next unit is free: what was stored from there has been read.
      if (thread == 0 && unit + 1 >= K::kPlaces) {
        wait_for_stores<K::kPlaces - 2>();
        free_place(unit + 1 - K::kPlaces);
      }
      barrier_wait(kUnitWritten<K> + group, kWarpgroup);
      if (sums && thread < K::kBoxColumns) {  // of all warps; they write the next ones behind another barrier
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kWarpgroup / kWarp; ++i) sum += warp_sums[i][thread];
        if (first_row < args.rows && first_column + thread < args.width)
          args.sums[std::int64_t{first_row / kGroupRows} * args.width + first_column + thread] = sum;
      }
      if (thread == 0) {
#pragma unroll
        for (int box = 0; box < K::kWritten; ++box) {
          const bool out = !K::kGradient && box == K::kWritten - 1;
          store_slab_box(out ? &maps.out : &maps.z_stored, staged + box * K::kBoxBytes, first_column, first_row,
                         out ? 0 : box);
        }
        commit_stores();
      }
      if (sums) barrier_wait(kUnitWritten<K> + group, kWarpgroup);
    }
    ++tiles;
  });
  if (is_first()) wait_for_stores();
}

template <class K>
__global__ void __launch_bounds__(K::kThreads, 1)
    product_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Arguments args) {
  extern __shared__ unsigned char memory[];
  auto& shared = aligned<Shared<K>>(memory);
  if (threadIdx.x == 0) {
    init(shared.full, shared.empty, K::kCluster);
#pragma unroll
    for (int group = 0; group < K::kGroups; ++group) init(shared.staged_full[group], shared.staged_empty[group], 1);
    fence_init();
  }
  if constexpr (K::kCluster > 1)
    cluster_wait();  // for the other block's barriers too
  else
    __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_registers<K::kFetchRegisters>();
    const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
    if (warp == 0) {
      if (elect_one()) fetch<K>(shared, args, maps);
    } else if (K::kGradient && warp <= K::kGroups) {
      if (elect_one()) fetch_staged<K>(shared, args, maps, warp - 1);
    }
  } else {
    take_registers<K::kComputeRegisters>();
    compute<K>(shared, args, maps, __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0) - 1);
  }
  if constexpr (K::kCluster > 1) cluster_wait();  // the other block may still fetch to here, and arrive
}

/// Bytes of a group of rows' factor that stay in the L2 cache.
constexpr std::int64_t kCached = 8 << 20;

/// Gradients that sum over fewer have narrow tiles: their epilogues, which read as well, have the time of two products
/// instead of one, and need it where those are short (measured at 768, 1024 and 2048: tests/bench/NOTES.md).
constexpr std::int64_t kWideDepth = 2048;

/// z (M, F), or gate and up beside each other (M, 2F), in boxes of an epilogue.
CUtensorMap map_z(const char* op, const void* z, Activation activation, std::int64_t M, std::int64_t F,
                  int box_columns) {
  const std::int64_t parts = activation == Activation::swiglu ? 2 : 1;
  return map_slabs(op, z, parts, M, F, parts * F, F, kGroupRows, box_columns);
}

/// A matrix (rows, columns) in boxes of `box_rows`.
CUtensorMap map_matrix(const char* op, const void* data, std::int64_t rows, std::int64_t columns, int box_rows,
                       int box_columns = 64) {
  return map_slabs(op, data, 1, rows, columns, columns, rows * columns, box_rows, box_columns);
}

template <class K>
void launch(cudaStream_t stream, const char* op, int processors, const Maps& maps, std::int64_t M, std::int64_t F,
            std::int64_t depth, const void* bias, float* sums) {
  constexpr int kBytes = sizeof(Shared<K>) + kSlack;
  static_assert(kBytes <= 227 * 1024);
  const std::int64_t down = ceil_div(M, K::kCluster * kRows), tiles = ceil_div(F, K::kWidth);
  const std::int64_t cached = kCached / (K::kCluster * kRows * depth * 2);  // rows of tiles
  const Arguments args{.tiles_down = static_cast<int>(down),
                       .tiles = static_cast<int>(tiles),
                       .group = static_cast<int>(std::clamp<std::int64_t>(cached, 1, down)),
                       .depth = static_cast<int>(ceil_div(depth, kDepth)),
                       .rows = static_cast<int>(M),
                       .width = static_cast<int>(F),
                       .bias = static_cast<const bf16*>(bias),
                       .sums = sums};
  const auto kernel = product_kernel<K>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), op);
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::min<std::int64_t>(processors / K::kCluster, down * tiles) * K::kCluster);
  config.blockDim = K::kThreads;
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = K::kCluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, maps, args), op);
}

}  // namespace

void multiply(cudaStream_t stream, int processors, const ActivatedProduct& p) {
  constexpr const char* kOp = "linear_forward";
  const bool gated = p.activation == Activation::swiglu;
  Maps maps{};
  maps.rows = map_matrix(kOp, p.x, p.M, p.K, kRows);
  const auto run = [&]<class K>(K) {
    // What a block fetches: half of a tile's columns, or, of gate and up, one below the other, those of one of them.
    maps.columns = map_slabs(kOp, p.weight, gated ? 2 : 1, p.F, p.K, p.K, p.F * p.K, K::kFetched);
    maps.z_stored = map_z(kOp, p.z, p.activation, p.M, p.F, K::kBoxColumns);
    maps.out = map_matrix(kOp, p.out, p.M, p.F, kGroupRows, K::kBoxColumns);
    launch<K>(stream, kOp, processors, maps, p.M, p.F, p.K, p.bias, nullptr);
  };
  if (gated)
    run(Kind<Activation::swiglu, false>{});
  else
    run(Kind<Activation::gelu, false>{});
}

void multiply(cudaStream_t stream, int processors, const ActivatedGradient& p) {
  constexpr const char* kOp = "linear_backward";
  Maps maps{};
  maps.rows = map_matrix(kOp, p.dout, p.M, p.K, kRows);
  const auto run = [&]<class K>(K) {
    maps.columns = map_matrix(kOp, p.weight, p.K, p.F, K::kFetched);
    maps.z = map_z(kOp, p.z, p.activation, p.M, p.F, K::kBoxColumns);
    maps.z_stored = map_z(kOp, p.dz, p.activation, p.M, p.F, K::kBoxColumns);
    launch<K>(stream, kOp, processors, maps, p.M, p.F, p.K, nullptr, p.sums);
  };
  const bool wide = p.K >= kWideDepth, gated = p.activation == Activation::swiglu;
  if (gated && wide)
    run(Kind<Activation::swiglu, true, true>{});
  else if (gated)
    run(Kind<Activation::swiglu, true, false>{});
  else if (wide)
    run(Kind<Activation::gelu, true, true>{});
  else
    run(Kind<Activation::gelu, true, false>{});
}

}  // namespace sinkscope::cuda::sm90
