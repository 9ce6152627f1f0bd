// Gradient norm, clipping and AdamW over the flat arrays: segments are cut into chunks of a fixed
// size, a block each, so one launch does all tensors and sums keep their order.
#include <algorithm>
#include <cmath>

#include "kernels/backend_memory.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kChunk = kOptimizerChunk;

__global__ void __launch_bounds__(kThreads) chunk_squares_kernel(double* sums, const float* x, const Chunk* chunks) {
  const Chunk chunk = chunks[blockIdx.x];
  double sum = 0;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < chunk.size; i += kThreads) {
    const auto value = static_cast<double>(x[chunk.begin + i]);
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// Block per segment: its chunks' sums, strided over the threads.
__global__ void __launch_bounds__(kThreads) segment_sums_kernel(double* sums, const double* chunk_sums,
                                                                const std::int64_t* first) {
  double sum = 0;
  for (std::int64_t c = first[blockIdx.x] + threadIdx.x; c < first[blockIdx.x + 1]; c += kThreads) sum += chunk_sums[c];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    clip_kernel(float* out, const double* sums, std::int64_t count, double max_norm) {
  double total = 0;
  for (std::int64_t s = threadIdx.x; s < count; s += kThreads) total += sums[s];
  total = block_sum<kThreads>(total);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(total);
  out[0] = static_cast<float>(norm);
  if (!isfinite(out[0]))
    out[1] = nanf("");
  else
    out[1] = max_norm > 0 && norm > max_norm ? static_cast<float>(max_norm / norm) : 1.0F;
}

struct AdamwArgs {
  float* param;
  const float* grad;
  float *m, *v;
  const float* clip;
  float beta1, beta2, rest1, rest2, rate, correction2, eps, decay_rate;
};

/// Eight parameters a thread and turn; all of them are read before any is written, so that loads do not wait.
template <bool Aligned, class T>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamwArgs args, T* compute, const Chunk* chunks) {
  const Chunk chunk = chunks[blockIdx.x];
  const float scale = args.clip[1];
  if (!isfinite(scale)) return;
  const float decay = chunk.decay != 0 ? args.decay_rate : 0.0F;
  for (int j = static_cast<int>(threadIdx.x) * kVector; j < chunk.size; j += kThreads * kVector) {
    const std::int64_t i = chunk.begin + j, left = chunk.size - j;
    const auto update = [&](auto aligned) {
      constexpr bool kWhole = decltype(aligned)::value;
      float grad[kVector], m[kVector], v[kVector], param[kVector];
      load_some<kWhole>(args.grad + i, left, grad);
      load_some<kWhole>(args.m + i, left, m);
      load_some<kWhole>(args.v + i, left, v);
      load_some<kWhole>(args.param + i, left, param);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const float g = scale * grad[k];
        m[k] = args.beta1 * m[k] + args.rest1 * g;
        v[k] = args.beta2 * v[k] + args.rest2 * (g * g);
        param[k] = param[k] - (args.rate * m[k] / (sqrtf(v[k] * args.correction2) + args.eps) + decay * param[k]);
      }
      store_some<kWhole>(args.m + i, left, m);
      store_some<kWhole>(args.v + i, left, v);
      store_some<kWhole>(args.param + i, left, param);
      if (compute != nullptr) store_some<kWhole>(compute + i, left, param);
    };
    if (Aligned && left >= kVector)
      update(std::true_type{});
    else
      update(std::false_type{});
  }
}

constexpr std::size_t kMostTables = 2;

bool same(std::span<const Segment> a, const std::vector<Segment>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].begin != b[i].begin || a[i].size != b[i].size || a[i].decay != b[i].decay) return false;
  return true;
}

}  // namespace
}  // namespace cuda

const CudaOps::ChunkTable& CudaOps::chunk_table(const char* op, std::span<const Segment> segments, std::int64_t size) {
  for (const auto& table : chunk_tables_)
    if (cuda::same(segments, table->segments) && size == table->size) return *table;
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> first;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    if (segment.begin < 0 || segment.size < 0 || segment.begin > size || segment.size > size - segment.begin)
      Check(op).fail("segments", "holds [" + std::to_string(segment.begin) + ", +" + std::to_string(segment.size) +
                                     ") at index " + std::to_string(s) + ", outside an array of " +
                                     std::to_string(size));
    first.push_back(static_cast<std::int64_t>(chunks.size()));
    for (std::int64_t at = 0; at < segment.size; at += cuda::kChunk)
      chunks.push_back({segment.begin + at, static_cast<std::int32_t>(std::min(cuda::kChunk, segment.size - at)),
                        segment.decay ? 1 : 0});
  }
  first.push_back(static_cast<std::int64_t>(chunks.size()));
  const bool aligned = std::ranges::all_of(segments, [](const Segment& s) { return s.begin % cuda::kVector == 0; });
  synchronize();  // nobody reads an old table any more
  if (chunk_tables_.size() == cuda::kMostTables) chunk_tables_.erase(chunk_tables_.begin());
  auto table = std::make_unique<ChunkTable>();
  table->segments.assign(segments.begin(), segments.end());
  table->size = size;
  table->aligned = aligned;
  table->chunks = static_cast<std::int64_t>(chunks.size());
  table->device_chunks = allocate(chunks.size() * sizeof(Chunk));
  table->device_first = allocate(first.size() * sizeof(std::int64_t));
  if (!chunks.empty())
    check_cuda(cudaMemcpyAsync(table->device_chunks.get(), chunks.data(), chunks.size() * sizeof(Chunk),
                               cudaMemcpyHostToDevice, stream_), op);
  check_cuda(cudaMemcpyAsync(table->device_first.get(), first.data(), first.size() * sizeof(std::int64_t),
                             cudaMemcpyHostToDevice, stream_), op);
  chunk_tables_.push_back(std::move(table));
  return *chunk_tables_.back();
}

void CudaOps::sum_of_squares(const SumOfSquares& args) {
  const Check check("sum_of_squares");
  check.rank("x", args.x, DType::f32, 1);
  check.shape("sums", args.sums, DType::f64, {static_cast<std::int64_t>(args.segments.size())});
  if (args.segments.empty()) return;
  const ChunkTable& table = chunk_table("sum_of_squares", args.segments, args.x.size());
  auto* chunk_sums = scratch_of<double>(table.chunks);
  if (table.chunks > 0)
    cuda::chunk_squares_kernel<<<static_cast<unsigned>(table.chunks), cuda::kThreads, 0, stream_>>>(
        chunk_sums, cuda::pointer<const float>(args.x), reinterpret_cast<const Chunk*>(table.device_chunks.get()));
  cuda::segment_sums_kernel<<<static_cast<unsigned>(args.segments.size()), cuda::kThreads, 0, stream_>>>(
      cuda::pointer<double>(args.sums), chunk_sums, reinterpret_cast<const std::int64_t*>(table.device_first.get()));
  check_launch("sum_of_squares");
}

void CudaOps::clip_scale(const ClipScale& args) {
  const Check check("clip_scale");
  check.rank("sums", args.sums, DType::f64, 1);
  check.shape("out", args.out, DType::f32, {2});
  check.that(!std::isnan(args.max_norm), "max_norm", "is not a number");
  cuda::clip_kernel<<<1, cuda::kThreads, 0, stream_>>>(
      cuda::pointer<float>(args.out), cuda::pointer<const double>(args.sums), args.sums.size(), args.max_norm);
  check_launch("clip_scale");
}

void CudaOps::adamw_step(const AdamwStep& args) {
  const Check check("adamw_step");
  check.rank("param", args.param, DType::f32, 1);
  const std::int64_t size = args.param.size();
  check.shape("grad", args.grad, DType::f32, {size});
  check.shape("m", args.m, DType::f32, {size});
  check.shape("v", args.v, DType::f32, {size});
  check.shape("clip", args.clip, DType::f32, {2});
  if (real_ == DType::f32)
    check.that(!args.compute, "compute", "is given, but here the weights are f32: param is what is computed with");
  else
    check.shape("compute", args.compute, real_, {size});
  check.that(args.step >= 1, "step", "is " + std::to_string(args.step) + ", expected >= 1");
  const ChunkTable& table = chunk_table("adamw_step", args.segments, size);
  if (table.chunks == 0) return;
  const auto steps = static_cast<double>(args.step);
  const cuda::AdamwArgs a{.param = cuda::pointer<float>(args.param),
                          .grad = cuda::pointer<const float>(args.grad),
                          .m = cuda::pointer<float>(args.m),
                          .v = cuda::pointer<float>(args.v),
                          .clip = cuda::pointer<const float>(args.clip),
                          .beta1 = static_cast<float>(args.beta1),
                          .beta2 = static_cast<float>(args.beta2),
                          .rest1 = static_cast<float>(1.0 - args.beta1),
                          .rest2 = static_cast<float>(1.0 - args.beta2),
                          .rate = static_cast<float>(args.lr / (1.0 - std::pow(args.beta1, steps))),
                          .correction2 = static_cast<float>(1.0 / (1.0 - std::pow(args.beta2, steps))),
                          .eps = static_cast<float>(args.eps),
                          .decay_rate = static_cast<float>(args.lr * args.weight_decay)};
  cuda::with_real(real_, [&]<class T>(T) {
    auto* compute = cuda::pointer<T>(args.compute);
    const bool aligned = table.aligned && cuda::vector_rows(cuda::kVector, a.param, a.grad, a.m, a.v, compute);
    cuda::with_bool(aligned, [&](auto vectors) {
      cuda::adamw_kernel<decltype(vectors)::value><<<static_cast<unsigned>(table.chunks), cuda::kThreads, 0, stream_>>>(
          a, compute, reinterpret_cast<const Chunk*>(table.device_chunks.get()));
    });
  });
  check_launch("adamw_step");
}

}  // namespace sinkscope
