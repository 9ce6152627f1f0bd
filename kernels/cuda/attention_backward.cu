// The gradient in two kernels without atomics: one keeps a tile of keys and values, one a tile of
// queries, and both recompute the weights from lse.
#include <cmath>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/sink_logits.h"
#include "kernels/cuda/sm90/attention.h"

namespace sinkscope {
namespace cuda {
namespace {

/// delta[b,h,t] = sum_d out dout; Lanes threads a row, eight elements each.
template <int Lanes, bool Aligned, class T>
__global__ void __launch_bounds__(kTileThreads) delta_kernel(HeadLayout layout, const T* out, const T* dout,
                                                             float* delta, std::int64_t rows) {
  const std::int64_t row = (std::int64_t{blockIdx.x} * kTileThreads + threadIdx.x) / Lanes;  // of (B, T, H)
  const int d = static_cast<int>(threadIdx.x) % Lanes * kVector;
  float sum = 0;
  if (row < rows && d < layout.head_dim) {
    float x[kVector], dx[kVector];
    load_some<Aligned>(out + row * layout.head_dim + d, layout.head_dim - d, x);
    load_some<Aligned>(dout + row * layout.head_dim + d, layout.head_dim - d, dx);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum += x[j] * dx[j];
  }
#pragma unroll
  for (int lanes = Lanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  if (row >= rows || d > 0) return;
  const std::int64_t head = row % layout.query_heads, t = row / layout.query_heads % layout.length;
  delta[(row / layout.query_heads / layout.length * layout.query_heads + head) * layout.length + t] = sum;
}

/// Calls f<Lanes> with the power of two of threads that hold eight elements of D each.
template <class F>
void with_lanes(std::int64_t head_dim, F&& f) {
  if (head_dim <= 32) return f.template operator()<4>();
  if (head_dim <= 64) return f.template operator()<8>();
  if (head_dim <= 128) return f.template operator()<16>();
  return f.template operator()<32>();
}

/// Block (key tile, b*G + g): dK and dV of a tile, over the group's query heads and the query tiles
/// from the diagonal on. A warp has four keys, a lane a query.
template <int Slices, class T>
__global__ void __launch_bounds__(kTileThreads) key_value_kernel(HeadLayout layout, const T* qkv, const T* dout,
                                                                 const float* lse, const float* delta, T* dqkv,
                                                                 float scale) {
  extern __shared__ float shared[];
  const int D = layout.head_dim, width = tile_width(D), lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_row = static_cast<int>(threadIdx.x) / kWarp * kRowsPerWarp;
  float *keys = shared, *values = keys + kTile * width, *queries = values + kTile * width,
        *gradients = queries + kTile * width;
  const std::int64_t b = blockIdx.y / layout.kv_heads, k0 = std::int64_t{blockIdx.x} * kTile;
  const int kv_head = static_cast<int>(blockIdx.y % layout.kv_heads);
  const int key_head = layout.query_heads + kv_head, value_head = key_head + layout.kv_heads;
  load_tile(keys, qkv + layout.offset(b, key_head), layout.stride(), k0, layout.length, D);
  load_tile(values, qkv + layout.offset(b, value_head), layout.stride(), k0, layout.length, D);
  float dk[kRowsPerWarp][Slices] = {}, dv[kRowsPerWarp][Slices] = {};
  for (int head = kv_head * layout.group(); head < (kv_head + 1) * layout.group(); ++head) {
    const std::int64_t statistics = (b * layout.query_heads + head) * layout.length;
    for (std::int64_t q0 = k0; q0 < layout.length; q0 += kTile) {
      __syncthreads();
      load_tile(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length, D);
      load_tile(gradients, dout + layout.out_offset(b, head), layout.out_stride(), q0, layout.length, D);
      __syncthreads();
      const std::int64_t t = q0 + lane;
      const float query_lse = t < layout.length ? lse[statistics + t] : 0.0F;
      const float query_delta = t < layout.length ? delta[statistics + t] : 0.0F;
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const std::int64_t k = k0 + first_row + r;
        float weight = 0, d_score = 0;
        if (t < layout.length && k <= t) {
          weight = expf(scale * tile_dot(queries + lane * width, keys + (first_row + r) * width, D) - query_lse);
          d_score =
              scale * weight * (tile_dot(gradients + lane * width, values + (first_row + r) * width, D) - query_delta);
        }
        for (int q = 0; q < kTile; ++q) {
          const float w = __shfl_sync(kAllLanes, weight, q), ds = __shfl_sync(kAllLanes, d_score, q);
#pragma unroll
          for (int s = 0; s < Slices; ++s) {
            const int d = s * kWarp + lane;
            if (d >= D) continue;
            dv[r][s] += w * gradients[q * width + d];
            dk[r][s] += ds * queries[q * width + d];
          }
        }
      }
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t k = k0 + first_row + r;
    if (k >= layout.length) break;
#pragma unroll
    for (int s = 0; s < Slices; ++s) {
      const int d = s * kWarp + lane;
      if (d >= D) continue;
      dqkv[layout.offset(b, key_head) + k * layout.stride() + d] = from_float<T>(dk[r][s]);
      dqkv[layout.offset(b, value_head) + k * layout.stride() + d] = from_float<T>(dv[r][s]);
    }
  }
}

/// Block (query tile, b*H + h): dQ of a tile. A warp has four queries, a lane a key.
template <int Slices, class T>
__global__ void __launch_bounds__(kTileThreads)
    query_kernel(HeadLayout layout, const T* qkv, const T* dout, const float* lse, const float* delta, T* dqkv,
                 float scale) {
  extern __shared__ float shared[];
  const int D = layout.head_dim, width = tile_width(D), lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_row = static_cast<int>(threadIdx.x) / kWarp * kRowsPerWarp;
  float *keys = shared, *values = keys + kTile * width, *queries = values + kTile * width,
        *gradients = queries + kTile * width;
  const std::int64_t b = blockIdx.y / layout.query_heads, q0 = std::int64_t{gridDim.x - 1 - blockIdx.x} * kTile;
  const int head = static_cast<int>(blockIdx.y % layout.query_heads);
  const std::int64_t statistics = std::int64_t{blockIdx.y} * layout.length;
  load_tile(queries, qkv + layout.offset(b, head), layout.stride(), q0, layout.length, D);
  load_tile(gradients, dout + layout.out_offset(b, head), layout.out_stride(), q0, layout.length, D);
  float dq[kRowsPerWarp][Slices] = {};
  for (std::int64_t k0 = 0; k0 <= q0; k0 += kTile) {
    __syncthreads();
    load_tile(keys, qkv + layout.offset(b, layout.key_head(head)), layout.stride(), k0, layout.length, D);
    load_tile(values, qkv + layout.offset(b, layout.value_head(head)), layout.stride(), k0, layout.length, D);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const std::int64_t t = q0 + first_row + r;
      float d_score = 0;
      if (t < layout.length && k0 + lane <= t) {
        const float* query = queries + (first_row + r) * width;
        const float weight = expf(scale * tile_dot(query, keys + lane * width, D) - lse[statistics + t]);
        d_score = scale * weight *
                  (tile_dot(gradients + (first_row + r) * width, values + lane * width, D) - delta[statistics + t]);
      }
      for (int k = 0; k < kTile; ++k) {
        const float ds = __shfl_sync(kAllLanes, d_score, k);
#pragma unroll
        for (int s = 0; s < Slices; ++s) {
          const int d = s * kWarp + lane;
          if (d < D) dq[r][s] += ds * keys[k * width + d];
        }
      }
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t t = q0 + first_row + r;
    if (t >= layout.length) break;
#pragma unroll
    for (int s = 0; s < Slices; ++s) {
      const int d = s * kWarp + lane;
      if (d < D) dqkv[layout.offset(b, head) + t * layout.stride() + d] = from_float<T>(dq[r][s]);
    }
  }
}

/// dqkv on plain fp32 arithmetic; delta (B, H, T).
void tile_attention_backward(cudaStream_t stream, DType real, const HeadLayout& layout, std::int64_t sequences,
                             const AttentionBackward& args, const float* delta) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(layout.head_dim));
  with_real(real, [&]<class R>(R) {
    with_slices(layout.head_dim, [&]<int Slices>() {
      const std::size_t bytes = tile_bytes(layout.head_dim, 4);
      const auto launch = [&](auto kernel, std::int64_t heads) {
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                   "attention_backward");
        const dim3 grid(static_cast<unsigned>(layout.tiles(kTile)), static_cast<unsigned>(heads));
        kernel<<<grid, kTileThreads, bytes, stream>>>(layout, pointer<const R>(args.qkv), pointer<const R>(args.dout),
                                                      pointer<const float>(args.lse), delta, pointer<R>(args.dqkv),
                                                      scale);
        check_launch("attention_backward");
      };
      launch(key_value_kernel<Slices, R>, sequences * layout.kv_heads);
      launch(query_kernel<Slices, R>, sequences * layout.query_heads);
    });
  });
}

}  // namespace
}  // namespace cuda

void CudaOps::attention_backward(const AttentionBackward& args) {
  const Check check("attention_backward");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, H = extents.query_heads, D = extents.head_dim;
  check.shape("out", args.out, real_, {B, T, H, D});
  check.shape("dout", args.dout, real_, {B, T, H, D});
  check.shape("lse", args.lse, DType::f32, {B, H, T});
  check.shape("dqkv", args.dqkv, real_, {B, T, extents.row_heads(), D});
  check_sink_logits(check, args.sink_logits, real_, H, "dsink_logits", args.dsink_logits, {H});
  check.optional_shape("dqkv_sums", args.dqkv_sums, DType::f32, {extents.row_stride()});
  // Channels of a head that are rotated.
  const std::int64_t rotated = args.rotation ? check_rotation(check, "qkv", args.qkv, *args.rotation) : 0;
  const cuda::HeadLayout layout = cuda::tile_layout(check, args.qkv, extents);
  if (B * T == 0) return;
  const bool hopper = has_sm90_attention(D) &&
                      cuda::mma_attention(real_, D, {args.qkv.data, args.out.data, args.dout.data, args.dqkv.data});
  // Hopper's kernels rotate back whole heads.
  const bool rotated_after = args.rotation && !(hopper && rotated == D);
  const bool summed_within = hopper && args.dqkv_sums && !rotated_after;
  const std::int64_t rows = B * T * H;
  const std::int64_t bytes = hopper ? cuda::sm90::backward_scratch(B * H, T, D) : rows * 4,
                     sums_at = cuda::ceil_div(bytes, 8) * 8;
  const std::int64_t columns = extents.row_stride(), parts = cuda::sm90::column_sum_parts(B, T),
                     columns_at = sums_at + B * H * 8;
  std::byte* room = scratch(static_cast<std::size_t>(columns_at + (summed_within ? parts * columns * 4 : 0)));
  auto* delta = reinterpret_cast<float*>(room);
  auto* sink_sums = reinterpret_cast<double*>(room + sums_at);  // (B, H)
  auto* column_sums = summed_within ? reinterpret_cast<float*>(room + columns_at) : nullptr;
  if (hopper) {
#ifdef SINKSCOPE_SM90A
    cuda::sm90::attention_backward(
        stream_, cuda::head_layout(check, args.qkv, extents), B, properties_.multiProcessorCount, args.qkv, args.out,
        args.dout, args.lse, reinterpret_cast<int*>(attention_counters_.get()), room, args.dqkv, column_sums,
        args.rotation && !rotated_after ? rotary(*args.rotation, rotated, T, true) : cuda::Rotary{});
#endif
  } else {
    cuda::with_real(real_, [&]<class R>(R) {
      const auto *out = cuda::pointer<const R>(args.out), *dout = cuda::pointer<const R>(args.dout);
      cuda::with_lanes(D, [&]<int Lanes>() {
        cuda::with_bool(cuda::vector_rows(D, out, dout), [&](auto aligned) {
          cuda::delta_kernel<Lanes, decltype(aligned)::value>
              <<<cuda::grid_of(rows * Lanes, cuda::kTileThreads, rows * Lanes), cuda::kTileThreads, 0, stream_>>>(
                  layout, out, dout, delta, rows);
        });
      });
      check_launch("attention_backward");
    });
    if (cuda::mma_attention(real_, D, {args.qkv.data, args.dout.data, args.dqkv.data}))
      cuda::mma_attention_backward(stream_, layout, B, args.qkv, args.dout, args.lse, delta, args.dqkv);
    else
      cuda::tile_attention_backward(stream_, real_, layout, B, args, delta);
  }
  if (column_sums != nullptr) add_partials("attention_backward", args.dqkv_sums, column_sums, parts);
  if (args.dsink_logits) {
    // On Hopper blocks of queries leave their lse, then their deltas.
    constexpr std::int64_t kBlock = cuda::sm90::kRowsOfBlock;
    const cuda::RowDeltas in_order{delta, T, T, T},
        in_blocks{delta + kBlock, cuda::ceil_div(T, kBlock) * 2 * kBlock, kBlock, 2 * kBlock};
    cuda::sink_logit_gradient(stream_, args.sink_logits, args.lse, hopper ? in_blocks : in_order, sink_sums,
                              args.dsink_logits);
  }
  if (rotated_after) rope(rope_back(args));
  // These take memory of their own, in which the row sums were.
  if (args.dqkv_sums && column_sums == nullptr)
    add_column_sums("attention_backward", args.dqkv_sums, args.dqkv.view({B * T, columns}));
}

}  // namespace sinkscope
