#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/sm90/attention.h"

namespace sinkscope {
namespace cuda {
namespace {

/// Block (query tile, b*H + h); heavy tiles first.
template <int Slices, class T>
__global__ void __launch_bounds__(kTileThreads) forward_kernel(HeadLayout layout, const T* qkv, const T* sink_logits,
                                                               T* out, float* lse, float scale) {
  extern __shared__ float shared[];
  const int D = layout.head_dim, width = tile_width(D), lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_row = static_cast<int>(threadIdx.x) / kWarp * kRowsPerWarp;
  float *queries = shared, *keys = queries + kTile * width, *values = keys + kTile * width;
  const std::int64_t b = blockIdx.y / layout.query_heads, q0 = std::int64_t{gridDim.x - 1 - blockIdx.x} * kTile;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  load_tile(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length, D);
  float highest[kRowsPerWarp], sum[kRowsPerWarp], acc[kRowsPerWarp][Slices] = {};
  // A sink logit is a score that is there before any key and has no value.
  const float first = sink_logits == nullptr ? -INFINITY : to_float(sink_logits[head]);
  for (int r = 0; r < kRowsPerWarp; ++r) highest[r] = first, sum[r] = sink_logits == nullptr ? 0.0F : 1.0F;
  for (std::int64_t k0 = 0; k0 <= q0; k0 += kTile) {
    __syncthreads();
    load_tile(keys, qkv + layout.offset(b, layout.key_head(head)), layout.stride(), k0, layout.length, D);
    load_tile(values, qkv + layout.offset(b, layout.value_head(head)), layout.stride(), k0, layout.length, D);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const std::int64_t t = q0 + first_row + r;
      // Every row sees key 0 of its first tile, so the maximum is finite from there on.
      const float score =
          k0 + lane <= t ? scale * tile_dot(queries + (first_row + r) * width, keys + lane * width, D) : -INFINITY;
      const float top = fmaxf(highest[r], warp_max(score));
      const float rescale = expf(highest[r] - top), weight = expf(score - top);
      highest[r] = top;
      sum[r] = sum[r] * rescale + warp_sum(weight);
#pragma unroll
      for (int s = 0; s < Slices; ++s) acc[r][s] *= rescale;
      for (int k = 0; k < kTile; ++k) {
        const float w = __shfl_sync(kAllLanes, weight, k);
#pragma unroll
        for (int s = 0; s < Slices; ++s) {
          const int d = s * kWarp + lane;
          if (d < D) acc[r][s] += w * values[k * width + d];
        }
      }
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t t = q0 + first_row + r;
    if (t >= layout.length) break;
    T* row = out + layout.out_offset(b, head) + t * layout.out_stride();
#pragma unroll
    for (int s = 0; s < Slices; ++s) {
      const int d = s * kWarp + lane;
      if (d < D) row[d] = from_float<T>(acc[r][s] / sum[r]);
    }
    if (lane == 0) lse[std::int64_t{blockIdx.y} * layout.length + t] = highest[r] + logf(sum[r]);
  }
}

/// Block (k, b*H + h): the mean over t >= k of exp(score - lse).
template <class T>
__global__ void __launch_bounds__(kTileThreads) sink_kernel(HeadLayout layout, const T* qkv, const float* lse,
                                                            float* sink, float scale) {
  __shared__ float key[kMaxHeadDim];
  const std::int64_t b = blockIdx.y / layout.query_heads, k = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads), D = layout.head_dim;
  const T* keys = qkv + layout.offset(b, layout.key_head(head)) + k * layout.stride();
  for (int d = static_cast<int>(threadIdx.x); d < D; d += kTileThreads) key[d] = to_float(keys[d]);
  __syncthreads();
  float sum = 0;
  for (std::int64_t t = k + threadIdx.x; t < layout.length; t += kTileThreads) {
    const T* query = qkv + layout.offset(b, head) + t * layout.stride();
    float score = 0;
    for (int d = 0; d < D; ++d) score += to_float(query[d]) * key[d];
    sum += expf(scale * score - lse[std::int64_t{blockIdx.y} * layout.length + t]);
  }
  sum = block_sum<kTileThreads>(sum);
  if (threadIdx.x == 0) sink[std::int64_t{blockIdx.y} * gridDim.x + k] = sum / static_cast<float>(layout.length - k);
}

/// sink[b,h,k] = the partial sums (heads, tiles, K) of the tiles of `rows` queries that see k, over T - k. A warp for
/// each.
__global__ void add_partials_kernel(float* sink, const float* partials, std::int64_t heads, std::int64_t tiles,
                                    int rows, std::int64_t length, int watched) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp, head = i / watched,
                     k = i % watched;
  if (head >= heads) return;
  float sum = 0;
  for (std::int64_t tile = k / rows + threadIdx.x % kWarp; tile < tiles; tile += kWarp)
    sum += partials[(head * tiles + tile) * watched + k];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) sink[i] = sum / static_cast<float>(length - k);
}

}  // namespace
}  // namespace cuda

void CudaOps::attention_forward(const AttentionForward& args) {
  const Check check("attention_forward");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, H = extents.query_heads, D = extents.head_dim;
  check.shape("out", args.out, real_, {B, T, H, D});
  check.shape("lse", args.lse, DType::f32, {B, H, T});
  std::int64_t K = 0;
  if (args.sink) {
    check.rank("sink", args.sink, DType::f32, 3);
    K = args.sink.extent(2);
    check.shape("sink", args.sink, DType::f32, {B, H, K});
    check.that(K <= T, "sink", "is " + describe(args.sink) + ", expected at most T = " + std::to_string(T) + " keys");
  }
  check.optional_shape("sink_logits", args.sink_logits, real_, {H});
  if (B * T == 0) return;
  const float scale = 1.0F / std::sqrt(static_cast<float>(D));
  auto* sink = cuda::pointer<float>(args.sink);
  const bool tensor_cores = cuda::mma_attention(real_, D, {args.qkv.data, args.out.data});
  if (tensor_cores) {
    const cuda::HeadLayout layout = cuda::head_layout(check, args.qkv, extents);
    if (has_sm90_attention(D)) {
#ifdef SINKSCOPE_SM90A
      auto* counters = reinterpret_cast<unsigned long long*>(attention_counters_.get());
      const bool watches =
          K <= cuda::sm90::kMostWatched && B * H * K <= cuda::sm90::kMostSums && T <= cuda::sm90::kLongestWatched;
      const cuda::sm90::Watch watch{.keys = watches ? static_cast<int>(K) : 0, .sink = sink, .sums = counters + 1};
      cuda::sm90::attention_forward(stream_, layout, B, properties_.multiProcessorCount, args.qkv, args.out, args.lse,
                                    reinterpret_cast<int*>(counters), watch, args.sink_logits);
      if (watches) return;
#endif
    } else {
      const int watched = K <= cuda::mma_watched_limit(layout.head_dim) ? static_cast<int>(K) : 0,
                rows = cuda::kMmaQueryTile;
      const std::int64_t tiles = layout.tiles(rows);
      float* partials = watched > 0 ? scratch_of<float>(B * H * tiles * watched) : nullptr;
      cuda::mma_attention_forward(stream_, layout, B, args.qkv, args.sink_logits, args.out, args.lse, partials,
                                  watched);
      if (watched > 0) {
        cuda::add_partials_kernel<<<cuda::grid_of(B * H * watched, 256 / cuda::kWarp, 1 << 30), 256, 0, stream_>>>(
            sink, partials, B * H, tiles, rows, T, watched);
        check_launch("attention_forward");
        return;
      }
    }
  }
  const cuda::HeadLayout layout = cuda::tile_layout(check, args.qkv, extents);
  const auto heads = static_cast<unsigned>(B * H);
  cuda::with_real(real_, [&]<class R>(R) {
    const auto* qkv = cuda::pointer<const R>(args.qkv);
    auto* lse = cuda::pointer<float>(args.lse);
    if (!tensor_cores)
      cuda::with_slices(D, [&]<int Slices>() {
        const std::size_t bytes = cuda::tile_bytes(layout.head_dim, 3);
        const auto kernel = cuda::forward_kernel<Slices, R>;
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                   "attention_forward");
        kernel<<<dim3(static_cast<unsigned>(layout.tiles(cuda::kTile)), heads), cuda::kTileThreads, bytes, stream_>>>(
            layout, qkv, cuda::pointer<const R>(args.sink_logits), cuda::pointer<R>(args.out), lse, scale);
      });
    check_launch("attention_forward");
    if (K > 0)
      cuda::sink_kernel<<<dim3(static_cast<unsigned>(K), heads), cuda::kTileThreads, 0, stream_>>>(layout, qkv, lse,
                                                                                                   sink, scale);
    check_launch("attention_forward");
  });
}

}  // namespace sinkscope
