// RMS normalisation of query and key heads and their rotary embedding. A warp per row (B*T): a group of its lanes holds
// a head, eight elements a lane, so that a warp has several heads at once, and loads a few such sets before it works on
// them. The angles of a row and both weights stay in registers.
#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxHeadDim = kWarp * kVector;
constexpr int kForwardBlocks = 3;   // at a time on a multiprocessor
constexpr int kBackwardBlocks = 2;  // for each multiprocessor in all: each leaves partial sums of weights' gradients

struct Shape {
  std::int64_t rows;  // B*T
  int query_heads, kv_heads, head_dim;
};

template <class T>
struct ForwardArgs {
  const T* in;
  T* out;
  const T *q_weight, *k_weight;
  float* rstds;
  float eps;
};

template <class T>
struct BackwardArgs {
  const T* in;
  T* dqkv;
  const T *q_weight, *k_weight;
  const float* rstds;
  float* partials;  // (blocks, 2, D): of dq_weight, then dk_weight
};

/// Sum over the Group neighbouring lanes that share a head.
template <int Group>
__device__ float group_sum(float x) {
#pragma unroll
  for (int offset = Group / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

/// The pairs of a lane's elements d, ..., d + 7 of any head, of which the others may be in other lanes. Elements beyond
/// the width are their own others, by a sine of 0. Aligned: a lane's elements are all of one half, or all beyond.
template <bool Aligned>
class Pairs {
 public:
  /// `head`: as many floats of shared memory as the group has elements, used unless Aligned.
  __device__ Pairs(int half, int d, float* head) : half_(half), d_(d), head_(head) {}

  /// Of the lane's j-th element.
  __device__ int other(int j) const {
    const int d = d_ + j;
    return d < half_ ? d + half_ : d < 2 * half_ ? d - half_ : d;
  }
  /// The others of x, which is `packed`, out of the group's lanes; all lanes of the warp call it.
  template <class T>
  __device__ void exchange(const Packed<T>& packed, const float (&x)[kVector], float (&others)[kVector]) const {
    if constexpr (Aligned) {
      const int lane = static_cast<int>(threadIdx.x) % kWarp + (other(0) - d_) / kVector;
      Packed<T> there;
#pragma unroll
      for (int i = 0; i < Packed<T>::kWords; ++i) there.words[i] = __shfl_sync(kAllLanes, packed.words[i], lane);
      unpack(there, others);
    } else {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kVector; ++j) head_[d_ + j] = x[j];
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kVector; ++j) others[j] = head_[other(j)];
    }
  }
  /// A row's rotation: x becomes x cosine + other sine.
  __device__ void angles(const Rotary& rotary, std::int64_t row, float (&cosine)[kVector],
                         float (&sine)[kVector]) const {
    const float2* angles = rotary.angles(row);
#pragma unroll
    for (int j = 0; j < kVector; ++j) cosine[j] = 1, sine[j] = 0;
    if constexpr (Aligned) {
      if (d_ >= 2 * half_) return;
      const auto* pairs = reinterpret_cast<const float4*>(angles + (d_ < half_ ? d_ : d_ - half_));
      const float sign = d_ < half_ ? -rotary.sign : rotary.sign;
#pragma unroll
      for (int j = 0; j < kVector; j += 2) {
        const float4 pair = pairs[j / 2];
        cosine[j] = pair.x, cosine[j + 1] = pair.z;
        sine[j] = sign * pair.y, sine[j + 1] = sign * pair.w;
      }
    } else {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const int d = d_ + j;
        if (d >= 2 * half_) continue;
        const float2 angle = angles[d < half_ ? d : d - half_];
        cosine[j] = angle.x;
        sine[j] = (d < half_ ? -rotary.sign : rotary.sign) * angle.y;
      }
    }
  }

 private:
  int half_, d_;
  float* head_;
};

/// out = rstd (x own + other others) of a lane's elements: a weight, with the rotation of a row folded in where there
/// is one.
template <bool Rotated>
struct Factors {
  float own[kVector], others[kVector];

  template <bool Aligned, class T>
  __device__ void load(const T* weight, int left, int d, const Pairs<Aligned>& pairs, const float (&cosine)[kVector],
                       const float (&sine)[kVector]) {
    load_some<Aligned>(weight + d, left, own);
    if constexpr (Rotated) {
      if constexpr (Aligned)
        load_some<true>(weight + pairs.other(0), left, others);
      else
#pragma unroll
        for (int j = 0; j < kVector; ++j) others[j] = j < left ? to_float(weight[pairs.other(j)]) : 0.0F;
#pragma unroll
      for (int j = 0; j < kVector; ++j) own[j] *= cosine[j], others[j] *= sine[j];
    }
  }
  __device__ void apply(float (&x)[kVector], const float (&there)[kVector], float rstd) const {
#pragma unroll
    for (int j = 0; j < kVector; ++j) x[j] = rstd * (Rotated ? x[j] * own[j] + there[j] * others[j] : x[j] * own[j]);
  }
};

/// Heads whose loads a group has in flight: as many as registers allow.
template <class T, bool Aligned>
constexpr int kHeadsInFlight = Aligned && sizeof(T) == 2 ? 4 : 2;

/// All H+2G heads of a row; values are copied.
template <class T, int Group, bool Aligned, bool Rotated>
__global__ void __launch_bounds__(kThreads, kForwardBlocks) forward_kernel(Shape shape, Rotary rotary,
                                                                           ForwardArgs<T> args) {
  constexpr int kGroups = kWarp / Group, kHeads = kHeadsInFlight<T, Aligned>;
  constexpr bool kStaged = Rotated && !Aligned;
  __shared__ float shared[kStaged ? kWarps : 1][kMaxHeadDim];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = lane / Group, d = lane % Group * kVector, D = shape.head_dim, left = D - d;
  const int normed = shape.query_heads + shape.kv_heads, heads = normed + shape.kv_heads;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + warp;
  if (row >= shape.rows) return;  // whole warps leave
  const T* in = args.in + row * heads * D + d;
  T* out = args.out + row * heads * D + d;
  const Pairs<Aligned> pairs(rotary.half, d, shared[kStaged ? warp : 0] + group * Group * kVector);
  Factors<Rotated> query, key;
  {
    float cosine[kVector], sine[kVector];
    if constexpr (Rotated) pairs.angles(rotary, row, cosine, sine);
    query.load(args.q_weight, left, d, pairs, cosine, sine);
    key.load(args.k_weight, left, d, pairs, cosine, sine);
  }
  const float share = 1.0F / static_cast<float>(D);
  for (int first = 0; first < heads; first += kHeads * kGroups) {
    Packed<T> packed[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int head = first + i * kGroups + group;
      packed[i] = load_packed<Aligned>(in + head * D, head < heads ? left : 0);
    }
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int head = first + i * kGroups + group;
      float x[kVector], there[kVector], squares = 0;
      unpack(packed[i], x);
      if constexpr (Rotated) pairs.exchange(packed[i], x, there);
#pragma unroll
      for (int j = 0; j < kVector; ++j) squares += x[j] * x[j];
      const float rstd = rsqrtf(group_sum<Group>(squares) * share + args.eps);
      if (head < shape.query_heads)
        query.apply(x, there, rstd);
      else
        key.apply(x, there, rstd);
      if (head < normed) packed[i] = pack<T>(x);
      store_packed<Aligned>(out + head * D, head < heads ? left : 0, packed[i]);
      if (d == 0 && head < normed) args.rstds[row * normed + head] = rstd;
    }
  }
}

/// The H+G heads of rows row0, row0 + stride, ... of each warp; the weights' gradients of a warp stay in its registers
/// and are added up over the block's warps, in order, at the end.
template <class T, int Group, bool Aligned, bool Rotated>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks) backward_kernel(Shape shape, Rotary rotary,
                                                                             BackwardArgs<T> args) {
  constexpr int kGroups = kWarp / Group, kHeads = kHeadsInFlight<T, Aligned>;
  __shared__ float shared[2][kWarps][kMaxHeadDim];  // at first a warp's heads, where they are rotated through it
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = lane / Group, d = lane % Group * kVector, D = shape.head_dim, left = D - d;
  const int normed = shape.query_heads + shape.kv_heads, heads = normed + shape.kv_heads;
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps;
  const Pairs<Aligned> pairs(rotary.half, d, shared[0][warp] + group * Group * kVector);
  const Packed<T> q_weight = load_packed<Aligned>(args.q_weight + d, left);
  const Packed<T> k_weight = load_packed<Aligned>(args.k_weight + d, left);
  float dq_weight[kVector] = {}, dk_weight[kVector] = {};
  const float share = 1.0F / static_cast<float>(D);
  for (std::int64_t row = std::int64_t{blockIdx.x} * kWarps + warp; row < shape.rows; row += stride) {
    const T* in = args.in + row * heads * D + d;
    T* dqkv = args.dqkv + row * heads * D + d;
    const float* rstds = args.rstds + row * normed;
    float cosine[kVector], sine[kVector];
    if constexpr (Rotated) pairs.angles(rotary, row, cosine, sine);
    for (int first = 0; first < normed; first += kHeads * kGroups) {
      Packed<T> packed_in[kHeads], packed_gradient[kHeads];
      float rstd[kHeads];
#pragma unroll
      for (int i = 0; i < kHeads; ++i) {
        const int head = first + i * kGroups + group;
        const int count = head < normed ? left : 0;  // of a head beyond them all is 0
        packed_gradient[i] = load_packed<Aligned>(dqkv + head * D, count);
        packed_in[i] = load_packed<Aligned>(in + head * D, count);
        rstd[i] = head < normed ? rstds[head] : 0.0F;
      }
#pragma unroll
      for (int i = 0; i < kHeads; ++i) {
        const int head = first + i * kGroups + group;
        const bool query = head < shape.query_heads;
        float gradient[kVector], normal[kVector], scaled[kVector], projection = 0;
        unpack(packed_gradient[i], gradient);
        if constexpr (Rotated) {
          float there[kVector];
          pairs.exchange(packed_gradient[i], gradient, there);
#pragma unroll
          for (int j = 0; j < kVector; ++j) gradient[j] = gradient[j] * cosine[j] + there[j] * sine[j];
        }
        unpack(packed_in[i], normal);
        Packed<T> weight;  // by its words: a choice between arrays would put both into local memory
#pragma unroll
        for (int j = 0; j < Packed<T>::kWords; ++j) weight.words[j] = query ? q_weight.words[j] : k_weight.words[j];
        unpack(weight, scaled);
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          normal[j] *= rstd[i];
          scaled[j] *= gradient[j];
          projection += scaled[j] * normal[j];
        }
        if (query) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) dq_weight[j] += gradient[j] * normal[j];
        } else {
#pragma unroll
          for (int j = 0; j < kVector; ++j) dk_weight[j] += gradient[j] * normal[j];
        }
        const float mean = group_sum<Group>(projection) * share;
#pragma unroll
        for (int j = 0; j < kVector; ++j) normal[j] = rstd[i] * (scaled[j] - normal[j] * mean);
        store_packed<Aligned>(dqkv + head * D, head < normed ? left : 0, pack<T>(normal));
      }
    }
  }
  // Over the groups of a warp, then over the warps.
#pragma unroll
  for (int j = 0; j < kVector; ++j)
#pragma unroll
    for (int offset = Group; offset < kWarp; offset *= 2) {
      dq_weight[j] += __shfl_xor_sync(kAllLanes, dq_weight[j], offset);
      dk_weight[j] += __shfl_xor_sync(kAllLanes, dk_weight[j], offset);
    }
  __syncwarp();
  if (group == 0)
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      shared[0][warp][d + j] = dq_weight[j];
      shared[1][warp][d + j] = dk_weight[j];
    }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * D; i += kThreads) {
    const int which = i < D ? 0 : 1, c = i - which * D;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared[which][w][c];
    args.partials[std::int64_t{blockIdx.x} * 2 * D + i] = sum;
  }
}

Shape shape_of(const Check& check, const AttentionExtents& extents) {
  check.that(extents.head_dim <= kMaxHeadDim, "in",
             "has a head dimension of " + std::to_string(extents.head_dim) + ", expected at most " +
                 std::to_string(kMaxHeadDim));
  return {extents.sequences * extents.length, static_cast<int>(extents.query_heads), static_cast<int>(extents.kv_heads),
          static_cast<int>(extents.head_dim)};
}

/// Calls f<Group, Aligned, Rotated> with the fewest lanes that hold a head. `aligned`: heads may be read as vectors,
/// and so may each half of what is rotated.
template <class F>
void with_group(std::int64_t head_dim, bool aligned, bool rotated, F&& f) {
  with_bool(rotated, [&](auto rotates) {
    constexpr bool kRotated = decltype(rotates)::value;
    if (!aligned) return f.template operator()<kWarp, false, kRotated>();
    if (head_dim <= 8 * kVector) return f.template operator()<8, true, kRotated>();
    if (head_dim <= 16 * kVector) return f.template operator()<16, true, kRotated>();
    f.template operator()<kWarp, true, kRotated>();
  });
}

}  // namespace
}  // namespace cuda

void CudaOps::qk_norm_forward(const QkNormForward& args) {
  const Check check("qk_norm_forward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, D = extents.head_dim;
  check.shape("out", args.out, real_, {B, T, extents.row_heads(), D});
  check.that(args.out.data != args.in.data, "out", "aliases in");
  check.shape("q_weight", args.q_weight, real_, {D});
  check.shape("k_weight", args.k_weight, real_, {D});
  check.shape("rstd", args.rstd, DType::f32, {B * T, extents.query_heads + extents.kv_heads});
  const cuda::Shape shape = cuda::shape_of(check, extents);
  const std::int64_t width = args.rotation ? check_rotation(check, "in", args.in, *args.rotation) : 0;
  if (shape.rows == 0) return;
  const cuda::Rotary angles = args.rotation ? rotary(*args.rotation, width, T, false) : cuda::Rotary{};
  cuda::with_real(real_, [&]<class R>(R) {
    const cuda::ForwardArgs<R> a{cuda::pointer<const R>(args.in),       cuda::pointer<R>(args.out),
                                 cuda::pointer<const R>(args.q_weight), cuda::pointer<const R>(args.k_weight),
                                 cuda::pointer<float>(args.rstd),       args.eps};
    const bool aligned = cuda::vector_rows(D, a.in, a.out, a.q_weight, a.k_weight) && angles.half % cuda::kVector == 0;
    cuda::with_group(D, aligned, args.rotation.has_value(), [&]<int Group, bool Aligned, bool Rotated>() {
      cuda::forward_kernel<R, Group, Aligned, Rotated>
          <<<cuda::grid_of(shape.rows, cuda::kWarps, shape.rows), cuda::kThreads, 0, stream_>>>(shape, angles, a);
    });
  });
  check_launch("qk_norm_forward");
}

void CudaOps::qk_norm_backward(const QkNormBackward& args) {
  const Check check("qk_norm_backward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads, real_);
  const std::int64_t B = extents.sequences, T = extents.length, D = extents.head_dim;
  check.shape("dqkv", args.dqkv, real_, {B, T, extents.row_heads(), D});
  check.shape("q_weight", args.q_weight, real_, {D});
  check.shape("k_weight", args.k_weight, real_, {D});
  check.shape("rstd", args.rstd, DType::f32, {B * T, extents.query_heads + extents.kv_heads});
  check.shape("dq_weight", args.dq_weight, DType::f32, {D});
  check.shape("dk_weight", args.dk_weight, DType::f32, {D});
  const cuda::Shape shape = cuda::shape_of(check, extents);
  const std::int64_t width = args.rotation ? check_rotation(check, "in", args.in, *args.rotation) : 0;
  if (shape.rows == 0) return;
  const cuda::Rotary angles = args.rotation ? rotary(*args.rotation, width, T, true) : cuda::Rotary{};
  const unsigned blocks =
      cuda::grid_of(shape.rows, cuda::kWarps, cuda::kBackwardBlocks * properties_.multiProcessorCount);
  auto* partials = scratch_of<float>(std::int64_t{blocks} * 2 * D);
  cuda::with_real(real_, [&]<class R>(R) {
    const cuda::BackwardArgs<R> a{cuda::pointer<const R>(args.in),       cuda::pointer<R>(args.dqkv),
                                  cuda::pointer<const R>(args.q_weight), cuda::pointer<const R>(args.k_weight),
                                  cuda::pointer<const float>(args.rstd), partials};
    const bool aligned = cuda::vector_rows(D, a.in, a.dqkv, a.q_weight, a.k_weight) && angles.half % cuda::kVector == 0;
    cuda::with_group(D, aligned, args.rotation.has_value(), [&]<int Group, bool Aligned, bool Rotated>() {
      cuda::backward_kernel<R, Group, Aligned, Rotated><<<blocks, cuda::kThreads, 0, stream_>>>(shape, angles, a);
    });
  });
  check_launch("qk_norm_backward");
  cuda::add_partials<2>(
      stream_, {{cuda::pointer<float>(args.dq_weight), cuda::pointer<float>(args.dk_weight)}, partials, blocks, D});
  check_launch("qk_norm_backward");
}

}  // namespace sinkscope
