#include <cmath>

#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 128;

/// Block per b*H + h; warps take keys in turns. Sink logits are optional.
template <class T>
__global__ void __launch_bounds__(kThreads)
    isolate_kernel(HeadLayout layout, const T* qkv, const T* sink_logits, T* out, float* lse, float* sink,
                   std::int64_t watched, std::int64_t position, float scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t b = blockIdx.x / layout.query_heads;
  const int head = static_cast<int>(blockIdx.x % layout.query_heads);
  const T* query = qkv + layout.offset(b, head) + position * layout.stride();
  const T* keys = qkv + layout.offset(b, layout.key_head(head));
  float* total = lse + std::int64_t{blockIdx.x} * layout.length + position;
  const float before = *total;
  const auto score = [&](std::int64_t k) {  // the same in every lane
    float sum = 0;
    for (int d = lane; d < layout.head_dim; d += kWarp)
      sum += to_float(query[d]) * to_float(keys[k * layout.stride() + d]);
    return scale * warp_sum(sum);
  };
  const float own = score(position), logit = sink_logits == nullptr ? -INFINITY : to_float(sink_logits[head]);
  const float top = fmaxf(own, logit), after = top + logf(expf(own - top) + expf(logit - top));
  const float own_weight = expf(own - after);
  for (std::int64_t k = warp; k < watched && k <= position; k += kThreads / kWarp) {
    const float weight = expf(score(k) - before);
    if (lane == 0)
      sink[std::int64_t{blockIdx.x} * watched + k] +=
          ((k == position ? own_weight : 0.0F) - weight) / static_cast<float>(layout.length - k);
  }
  __syncthreads();  // nobody needs the old sum any more
  if (threadIdx.x == 0) *total = after;
  const T* value = qkv + layout.offset(b, layout.value_head(head)) + position * layout.stride();
  T* target = out + layout.out_offset(b, head) + position * layout.out_stride();
  for (int d = static_cast<int>(threadIdx.x); d < layout.head_dim; d += kThreads)
    target[d] = from_float<T>(own_weight * to_float(value[d]));
}

}  // namespace
}  // namespace cuda

void CudaOps::isolate_query(const IsolateQuery& args) {
  const Check check("isolate_query");
  const AttentionExtents extents = check_isolate_query(check, args, real_);
  const cuda::HeadLayout layout = cuda::head_layout(check, args.qkv, extents);
  const std::int64_t heads = extents.sequences * extents.query_heads;
  if (heads == 0) return;
  cuda::with_real(real_, [&]<class R>(R) {
    cuda::isolate_kernel<R><<<static_cast<unsigned>(heads), cuda::kThreads, 0, stream_>>>(
        layout, cuda::pointer<const R>(args.qkv), cuda::pointer<const R>(args.sink_logits), cuda::pointer<R>(args.out),
        cuda::pointer<float>(args.lse), args.sink ? cuda::pointer<float>(args.sink) : nullptr,
        args.sink ? args.sink.extent(2) : 0, args.position, 1.0F / std::sqrt(static_cast<float>(extents.head_dim)));
  });
  check_launch("isolate_query");
}

}  // namespace sinkscope
