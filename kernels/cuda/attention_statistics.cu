// The second pass over the attention scores, for probes: tiles of queries add up their part, then the
// tiles are added in order.
#include "kernels/cuda/attention_statistics.h"

#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/sink_logits.h"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kWarps = kTileThreads / kWarp;

__device__ float inverse_norm(const float* row, int head_dim) {
  const float squares = tile_dot(row, row, head_dim);
  return squares > 0 ? 1.0F / sqrtf(squares) : 0.0F;
}

/// Block (query tile, b*H + h); a warp has four queries, a lane a key. partials: (B*H, tiles,
/// kStatistics); key_partials: (B*H, tiles, T), of which a tile writes the keys it sees.
template <class T>
__global__ void __launch_bounds__(kTileThreads) statistics_kernel(HeadLayout layout, const T* qkv, const float* lse,
                                                                  double* partials, float* key_partials, float scale) {
  extern __shared__ float shared[];
  __shared__ float key_inverse[kTile], columns[kWarps][kTile];
  __shared__ double sums[kWarps][kStatistics];
  const int D = layout.head_dim, width = tile_width(D);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int first_row = warp * kRowsPerWarp;
  float *queries = shared, *keys = queries + kTile * width;
  const std::int64_t b = blockIdx.y / layout.query_heads, q0 = std::int64_t{blockIdx.x} * kTile;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  const std::int64_t place = std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  load_tile(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length, D);
  __syncthreads();
  float highest[kRowsPerWarp], first_score[kRowsPerWarp], query_inverse[kRowsPerWarp];
  for (int r = 0; r < kRowsPerWarp; ++r) {
    highest[r] = -INFINITY;
    first_score[r] = 0;
    query_inverse[r] = inverse_norm(queries + (first_row + r) * width, D);
  }
  double entropy = 0, cos_all = 0;  // of this lane's keys
  double first_mass = 0, cos_first = 0, argmax = 0;  // the same in every lane
  for (std::int64_t k0 = 0; k0 <= q0; k0 += kTile) {
    __syncthreads();
    load_tile(keys, qkv + layout.offset(b, layout.key_head(head)), layout.stride(), k0, layout.length, D);
    __syncthreads();
    if (warp == 0) key_inverse[lane] = inverse_norm(keys + lane * width, D);
    __syncthreads();
    float column = 0;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const std::int64_t t = q0 + first_row + r;
      if (t >= layout.length) continue;  // the same for the whole warp
      const bool seen = k0 + lane <= t;
      const float product = seen ? tile_dot(queries + (first_row + r) * width, keys + lane * width, D) : 0.0F;
      const float score = seen ? scale * product : -INFINITY;
      const float logarithm = score - lse[std::int64_t{blockIdx.y} * layout.length + t];
      const float weight = seen ? expf(logarithm) : 0.0F;
      const float cosine = product * query_inverse[r] * key_inverse[lane];
      column += weight;
      if (weight > 0) entropy -= static_cast<double>(weight * logarithm);
      highest[r] = fmaxf(highest[r], warp_max(score));
      if (t >= 1) cos_all += static_cast<double>(cosine);
      if (k0 > 0) continue;
      first_score[r] = __shfl_sync(kAllLanes, score, 0);
      const float weight_first = __shfl_sync(kAllLanes, weight, 0), cosine_first = __shfl_sync(kAllLanes, cosine, 0);
      if (t >= 1) {
        first_mass += static_cast<double>(weight_first);
        cos_first += static_cast<double>(cosine_first);
      }
    }
    columns[warp][lane] = column;
    __syncthreads();
    if (warp == 0 && k0 + lane < layout.length) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += columns[w][lane];
      key_partials[place * layout.length + k0 + lane] = sum;
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t t = q0 + first_row + r;
    if (t >= 1 && t < layout.length && first_score[r] >= highest[r]) argmax += 1;
  }
  entropy = warp_sum(entropy);
  cos_all = warp_sum(cos_all);
  if (lane == 0) {
    sums[warp][kFirstMass] = first_mass;
    sums[warp][kFirstArgmax] = argmax;
    sums[warp][kEntropy] = entropy;
    sums[warp][kCosFirst] = cos_first;
    sums[warp][kCosRest] = cos_all - cos_first;
  }
  __syncthreads();
  if (threadIdx.x < kStatistics) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums[w][threadIdx.x];
    partials[place * kStatistics + threadIdx.x] = sum;
  }
}

struct Outputs {
  float *sink, *first_mass, *first_argmax, *entropy, *key_mass, *cos_first, *cos_rest;
  std::int64_t watched;
};

/// Thread per key: its mass, and its sink score, which is the mass over the queries that see it. Tiles have `rows`
/// queries.
__global__ void key_kernel(Outputs out, const float* key_partials, std::int64_t tiles, int rows, std::int64_t length) {
  const std::int64_t k = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (k >= length) return;
  double mass = 0;
  for (std::int64_t tile = k / rows; tile < tiles; ++tile)
    mass += static_cast<double>(key_partials[(head * tiles + tile) * length + k]);
  out.key_mass[head * length + k] = static_cast<float>(mass);
  if (k < out.watched) out.sink[head * out.watched + k] = static_cast<float>(mass / static_cast<double>(length - k));
}

/// Block per head, thread per statistic.
__global__ void head_kernel(Outputs out, const double* partials, std::int64_t tiles, std::int64_t length) {
  const std::int64_t head = blockIdx.x;
  double sum = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) sum += partials[(head * tiles + tile) * kStatistics + threadIdx.x];
  const auto queries = static_cast<double>(length), later = static_cast<double>(length - 1);
  switch (threadIdx.x) {
    case kFirstMass: out.first_mass[head] = static_cast<float>(sum / later); break;
    case kFirstArgmax: out.first_argmax[head] = static_cast<float>(sum / later); break;
    case kEntropy: out.entropy[head] = static_cast<float>(sum / queries); break;
    case kCosFirst: out.cos_first[head] = static_cast<float>(sum / later); break;
    default: out.cos_rest[head] = static_cast<float>(sum / (0.5 * queries * later)); break;
  }
}

}  // namespace
}  // namespace cuda

void CudaOps::attention_statistics(const AttentionStatistics& args) {
  const Check check("attention_statistics");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, H = extents.query_heads;
  check.that(T >= 2, "qkv", "is " + describe(args.qkv) + ", expected T >= 2");
  check.shape("lse", args.lse, DType::f32, {B, H, T});
  check.rank("sink", args.sink, DType::f32, 3);
  const std::int64_t K = args.sink.extent(2);
  check.shape("sink", args.sink, DType::f32, {B, H, K});
  check.that(K <= T, "sink", "is " + describe(args.sink) + ", expected at most T = " + std::to_string(T) + " keys");
  check.shape("first_mass", args.first_mass, DType::f32, {B, H});
  check.shape("first_argmax", args.first_argmax, DType::f32, {B, H});
  check.shape("entropy", args.entropy, DType::f32, {B, H});
  check.shape("key_mass", args.key_mass, DType::f32, {B, H, T});
  check.shape("cos_first", args.cos_first, DType::f32, {B, H});
  check.shape("cos_rest", args.cos_rest, DType::f32, {B, H});
  check_sink_logits(check, args.sink_logits, real_, H, "sink_logit_mass", args.sink_logit_mass, {B, H});
  const bool tensor_cores = cuda::mma_attention(real_, extents.head_dim, {args.qkv.data});
  const cuda::HeadLayout layout = cuda::tile_layout(check, args.qkv, extents);
  if (B == 0) return;
  const int rows = tensor_cores ? cuda::kMmaQueryTile : cuda::kTile;
  const std::int64_t tiles = layout.tiles(rows), places = B * H * tiles;
  auto* partials = reinterpret_cast<double*>(
      scratch(static_cast<std::size_t>(places) *
              (cuda::kStatistics * sizeof(double) + static_cast<std::size_t>(T) * sizeof(float))));
  auto* key_partials = reinterpret_cast<float*>(partials + places * cuda::kStatistics);
  const cuda::Outputs out{cuda::pointer<float>(args.sink),     cuda::pointer<float>(args.first_mass),
                          cuda::pointer<float>(args.first_argmax), cuda::pointer<float>(args.entropy),
                          cuda::pointer<float>(args.key_mass), cuda::pointer<float>(args.cos_first),
                          cuda::pointer<float>(args.cos_rest), K};
  const auto heads = static_cast<unsigned>(B * H);
  if (tensor_cores)
    cuda::mma_attention_statistics(stream_, layout, B, args.qkv, args.lse, partials, key_partials);
  else
    cuda::with_real(real_, [&]<class R>(R) {
      const std::size_t bytes = cuda::tile_bytes(layout.head_dim, 2);
      const auto kernel = cuda::statistics_kernel<R>;
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                 "attention_statistics");
      kernel<<<dim3(static_cast<unsigned>(tiles), heads), cuda::kTileThreads, bytes, stream_>>>(
          layout, cuda::pointer<const R>(args.qkv), cuda::pointer<const float>(args.lse), partials, key_partials,
          1.0F / std::sqrt(static_cast<float>(layout.head_dim)));
    });
  check_launch("attention_statistics");
  cuda::key_kernel<<<dim3(cuda::grid_of(T, 128, T), heads), 128, 0, stream_>>>(out, key_partials, tiles, rows, T);
  cuda::head_kernel<<<heads, cuda::kStatistics, 0, stream_>>>(out, partials, tiles, T);
  check_launch("attention_statistics");
  if (args.sink_logit_mass) cuda::sink_logit_mass(stream_, args.sink_logits, args.lse, args.sink_logit_mass);
}

}  // namespace sinkscope
