// The second pass over the attention scores in bf16, for probes: a block has 128 queries of one head, a warp 32
// of them, and walks the keys upwards in stages of 64, as the forward pass does without its values. What is
// summed over queries leaves the block as one number a tile, and a later kernel adds the tiles in order.
#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_statistics.h"
#include "kernels/cuda/error.h"

namespace sinkscope::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp, kRowTiles = 2;
constexpr int kQueries = kWarps * kRowTiles * 16, kKeys = 64;
static_assert(kQueries == kMmaQueryTile);
constexpr int kBlocks = 3;  // of a multiprocessor at once: 168 registers a thread
constexpr float kLn2 = 0.6931471805599453F;
/// A score far below every other, which stays finite: its weight is 0, and so is weight times logarithm.
constexpr float kUnseen = -1e30F;

template <int D>
constexpr std::size_t kShared = (kQueries + 2 * kKeys) * kPitch<D> * sizeof(bf16);

/// The sum of the squares of `Count` elements in shared memory, 16-byte aligned.
template <int Count>
__device__ float sum_of_squares(const bf16* x) {
  static_assert(Count % kVector == 0);
  float sum = 0;
#pragma unroll
  for (int v = 0; v < Count / kVector; ++v) {
    float values[kVector];
    load_vector(x + v * kVector, values);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += values[i] * values[i];
  }
  return sum;
}
__device__ inline float inverse_root(float squares) { return squares > 0 ? 1.0F / sqrtf(squares) : 0.0F; }

/// Lanes that differ in bit Half * 2 share their columns out: each keeps the sums of Half values, the upper half
/// where its bit is set.
template <int Half>
__device__ void exchange_columns(float (&values)[16], int lane) {
  const bool upper = (lane & 2 * Half) != 0;
#pragma unroll
  for (int j = 0; j < Half; ++j) {
    const float kept = upper ? values[j + Half] : values[j], given = upper ? values[j] : values[j + Half];
    values[j] = kept + __shfl_xor_sync(kAllLanes, given, 2 * Half);
  }
}
/// Column sums of a warp's 64 columns: on entry lane l has, of its own rows, column 8 c + 2 (l % 4) + i in
/// values[2 c + i]; on return values[0] and [1] are the sums over all rows of columns 8 (l / 4) + 2 (l % 4) and + 1.
__device__ inline void sum_columns(float (&values)[16], int lane) {
  exchange_columns<8>(values, lane);
  exchange_columns<4>(values, lane);
  exchange_columns<2>(values, lane);
}

/// Block (query tile, b*H + h), long tiles first. partials: (B*H, tiles, kStatistics); key_partials:
/// (B*H, tiles, T), of which a tile writes the keys it sees.
template <int D>
__global__ void __launch_bounds__(kThreads, kBlocks)
    statistics_kernel(HeadLayout layout, const bf16* qkv, const float* lse, double* partials, float* key_partials,
                      float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ __align__(16) float key_inverse[kKeys], column_sums[kWarps][kKeys];  // read and written in pairs
  __shared__ double sums[kWarps][kStatistics];
  bf16* queries = reinterpret_cast<bf16*>(shared);
  bf16* keys = queries + kQueries * kPitch<D>;  // two stages
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t b = blockIdx.y / layout.query_heads, tile = gridDim.x - 1 - blockIdx.x, q0 = tile * kQueries;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  const std::int64_t first_row = q0 + warp * kRowTiles * 16, last_row = first_row + kRowTiles * 16 - 1;
  const std::int64_t place = std::int64_t{blockIdx.y} * gridDim.x + tile;
  const bf16* key_rows = qkv + layout.offset(b, layout.key_head(head));
  const auto fetch = [&](int block) {
    copy_rows_async<D, kKeys, kThreads>(keys + block % 2 * kKeys * kPitch<D>, key_rows, layout.stride(),
                                        std::int64_t{block} * kKeys, layout.length);
  };
  // The masses of a stage's keys, once every warp has left its column sums.
  const auto store_masses = [&](int block) {
    const std::int64_t k = std::int64_t{block} * kKeys + threadIdx.x;
    if (threadIdx.x >= kKeys || k >= layout.length) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += column_sums[w][threadIdx.x];
    key_partials[place * layout.length + k] = sum;
  };

  const float scale_log2 = scale * kLog2E;
  const bf16* own_rows = queries + warp * kRowTiles * 16 * kPitch<D>;
  LeftRows<D, kRowTiles, D <= 64> left(own_rows);
  // Of this lane's keys in each of its rows; logarithms to base 2. A row that does not exist has no weight.
  float negative_lse[kRowTiles][2], highest[kRowTiles][2], entropy[kRowTiles][2], cosine[kRowTiles][2];
  float first_score[kRowTiles][2], first_weight[kRowTiles][2], first_cosine[kRowTiles][2];  // where lane % 4 == 0
  float query_inverse = 0;  // of row first_row + lane
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first_row + t * 16 + h * 8 + lane / 4;
      negative_lse[t][h] =
          row < layout.length ? -kLog2E * lse[std::int64_t{blockIdx.y} * layout.length + row] : kUnseen;
      highest[t][h] = kUnseen;
      entropy[t][h] = cosine[t][h] = first_score[t][h] = first_weight[t][h] = first_cosine[t][h] = 0.0F;
    }

  const int last_block = (static_cast<int>(min(q0 + kQueries, layout.length)) - 1) / kKeys;
  copy_rows_async<D, kQueries, kThreads>(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length);
  fetch(0);
  for (int block = 0; block <= last_block; ++block) {
    copy_wait();
    __syncthreads();  // the stage is here, and everybody is done with the other
    if (block < last_block) fetch(block + 1);
    const bf16* stage = keys + block % 2 * kKeys * kPitch<D>;
    if (block == 0) {
      left.read();
      query_inverse = inverse_root(sum_of_squares<D>(own_rows + lane * kPitch<D>));
    } else {
      store_masses(block - 1);
    }
    static_assert(kThreads == 2 * kKeys);  // two threads a key
    const int key = static_cast<int>(threadIdx.x) / 2;
    float squares = sum_of_squares<D / 2>(stage + key * kPitch<D> + threadIdx.x % 2 * (D / 2));
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    if (threadIdx.x % 2 == 0) key_inverse[key] = inverse_root(squares);
    __syncthreads();
    const int k0 = block * kKeys;
    if (k0 > last_row) {  // the whole warp is before these keys
      column_sums[warp][lane] = column_sums[warp][lane + kWarp] = 0.0F;
      continue;
    }
    float p[kRowTiles][kKeys / 8][4];
    multiply_by_transpose<D>(p, left, stage);
    const bool diagonal = k0 + kKeys - 1 > first_row;
    const auto mask = [&](float value) {
      const int difference = k0 - static_cast<int>(first_row) + lane % 4 * 2 - lane / 4;
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int c = 0; c < kKeys / 8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (difference + c * 8 + i % 2 > t * 16 + i / 2 * 8) p[t][c][i] = value;
    };
    if (diagonal) mask(0.0F);  // adds nothing to the cosines
    if (block == 0) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          first_score[t][h] = p[t][0][2 * h];
          first_cosine[t][h] = p[t][0][2 * h] * key_inverse[0];
        }
    }
#pragma unroll
    for (int c = 0; c < kKeys / 8; ++c) {
      const float2 inverse = *reinterpret_cast<const float2*>(key_inverse + c * 8 + lane % 4 * 2);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          cosine[t][h] += p[t][c][2 * h] * inverse.x;
          cosine[t][h] += p[t][c][2 * h + 1] * inverse.y;
        }
    }
    if (diagonal) mask(kUnseen);
    float columns[kKeys / 4];
#pragma unroll
    for (int c = 0; c < kKeys / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) columns[2 * c + i] = 0.0F;
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          highest[t][i / 2] = fmaxf(highest[t][i / 2], p[t][c][i]);
          const float logarithm = p[t][c][i] * scale_log2 + negative_lse[t][i / 2];
          const float weight = exp2_approximate(logarithm);
          entropy[t][i / 2] -= weight * logarithm;
          columns[2 * c + i % 2] += weight;
          if (block == 0 && c == 0 && i % 2 == 0) first_weight[t][i / 2] = weight;
        }
    }
    sum_columns(columns, lane);
    *reinterpret_cast<float2*>(column_sums[warp] + lane / 4 * 8 + lane % 4 * 2) = make_float2(columns[0], columns[1]);
  }
  __syncthreads();
  store_masses(last_block);

  double totals[kStatistics] = {};
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own_row = t * 16 + h * 8 + lane / 4;
      const std::int64_t row = first_row + own_row;
      const float inverse = __shfl_sync(kAllLanes, query_inverse, own_row);
      float top = highest[t][h];
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      totals[kEntropy] += static_cast<double>(entropy[t][h] * kLn2);
      if (row == 0 || row >= layout.length) continue;
      totals[kCosRest] += static_cast<double>(cosine[t][h] * inverse);
      if (lane % 4 != 0) continue;
      const auto first = static_cast<double>(first_cosine[t][h] * inverse);
      totals[kCosFirst] += first;
      totals[kCosRest] -= first;
      totals[kFirstMass] += static_cast<double>(first_weight[t][h]);
      totals[kFirstArgmax] += first_score[t][h] >= top ? 1.0 : 0.0;
    }
#pragma unroll
  for (int s = 0; s < kStatistics; ++s) {
    const double total = warp_sum(totals[s]);
    if (lane == 0) sums[warp][s] = total;
  }
  __syncthreads();
  if (threadIdx.x >= kStatistics) return;
  double total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
  partials[place * kStatistics + threadIdx.x] = total;
}

}  // namespace

void mma_attention_statistics(cudaStream_t stream, const HeadLayout& layout, std::int64_t sequences, const Tensor& qkv,
                              const Tensor& lse, double* partials, float* key_partials) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(layout.head_dim));
  const dim3 grid(static_cast<unsigned>(layout.tiles(kQueries)), static_cast<unsigned>(sequences * layout.query_heads));
  with_head_dim(layout.head_dim, [&]<int D>() {
    check_cuda(cudaFuncSetAttribute(statistics_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kShared<D>)), "attention_statistics");
    statistics_kernel<D><<<grid, kThreads, kShared<D>, stream>>>(
        layout, pointer<const bf16>(qkv), pointer<const float>(lse), partials, key_partials, scale);
  });
  check_launch("attention_statistics");
}

}  // namespace sinkscope::cuda
