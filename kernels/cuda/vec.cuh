// Values in and out of memory, 16 bytes a thread where the layout allows it; arithmetic in fp32.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace sinkscope::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

/// Eight neighbouring elements, the unit of every vectorised loop: 16 bytes of bf16, 32 of fp32.
constexpr int kVector = 8;

/// v = p[0..8); p aligned to 16 bytes.
__device__ inline void load_vector(const float* p, float (&v)[kVector]) {
  const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void load_vector(const bf16* p, float (&v)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
  }
}
__device__ inline void store_vector(float* p, const float (&v)[kVector]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ inline void store_vector(bf16* p, const float (&v)[kVector]) {
  uint4 raw;
  std::uint32_t* words[4] = {&raw.x, &raw.y, &raw.z, &raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    *words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(p) = raw;
}

/// As load_vector and store_vector for the `count` first elements (others read as 0 and are not
/// written); `Aligned` promises that p is aligned and count is 0 or at least 8.
template <bool Aligned, class T>
__device__ inline void load_some(const T* p, std::int64_t count, float (&v)[kVector]) {
  if (Aligned && count >= kVector) {
    load_vector(p, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] = !Aligned && i < count ? to_float(p[i]) : 0.0F;
}
template <bool Aligned, class T>
__device__ inline void store_some(T* p, std::int64_t count, const float (&v)[kVector]) {
  if (Aligned && count >= kVector) {
    store_vector(p, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    if (!Aligned && i < count) p[i] = from_float<T>(v[i]);
}

/// Eight neighbouring elements as they lie in memory, in bf16 half as many registers as their floats: for loads that
/// are waited for, and to be shuffled or copied.
template <class T>
struct Packed {
  static constexpr int kWords = kVector * sizeof(T) / sizeof(std::uint32_t);
  std::uint32_t words[kWords];
};

__device__ inline void unpack(const Packed<float>& packed, float (&v)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] = __uint_as_float(packed.words[i]);
}
__device__ inline void unpack(const Packed<bf16>& packed, float (&v)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    v[i] = __uint_as_float(i % 2 == 0 ? packed.words[i / 2] << 16 : packed.words[i / 2] & 0xffff0000U);
}
template <class T>
__device__ inline Packed<T> pack(const float (&v)[kVector]) {
  Packed<T> packed;
#pragma unroll
  for (int i = 0; i < Packed<T>::kWords; ++i) {
    if constexpr (sizeof(T) == sizeof(float)) {
      packed.words[i] = __float_as_uint(v[i]);
    } else {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      packed.words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    }
  }
  return packed;
}

/// As load_some and store_some.
template <bool Aligned, class T>
__device__ inline Packed<T> load_packed(const T* p, std::int64_t count) {
  if constexpr (Aligned) {
    Packed<T> packed = {};
    if (count >= kVector) {
#pragma unroll
      for (int i = 0; i < Packed<T>::kWords; i += 4) {
        const uint4 raw = reinterpret_cast<const uint4*>(p)[i / 4];
        packed.words[i] = raw.x, packed.words[i + 1] = raw.y, packed.words[i + 2] = raw.z, packed.words[i + 3] = raw.w;
      }
    }
    return packed;
  } else {
    float v[kVector];
    load_some<false>(p, count, v);
    return pack<T>(v);
  }
}
template <bool Aligned, class T>
__device__ inline void store_packed(T* p, std::int64_t count, const Packed<T>& packed) {
  if constexpr (Aligned) {
    if (count < kVector) return;
#pragma unroll
    for (int i = 0; i < Packed<T>::kWords; i += 4)
      // By an intrinsic: the compiler may make four stores of an assignment.
      __stcg(reinterpret_cast<uint4*>(p) + i / 4,
             make_uint4(packed.words[i], packed.words[i + 1], packed.words[i + 2], packed.words[i + 3]));
  } else {
    float v[kVector];
    unpack(packed, v);
    store_some<false>(p, count, v);
  }
}

/// Whether rows of `width` elements from `p` on may be read as vectors.
template <class T>
bool vector_rows(std::int64_t width, const T* p) {
  return width % kVector == 0 && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}
template <class T, class... Rest>
bool vector_rows(std::int64_t width, const T* p, const Rest*... rest) {
  return vector_rows(width, p) && vector_rows(width, rest...);
}

/// The element pointer of a tensor known to hold T; null stays null.
template <class T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

/// Calls f with a value of the C++ type behind `real`: f32 or bf16.
template <class F>
void with_real(DType real, F&& f) {
  if (real == DType::bf16)
    f(bf16{});
  else
    f(float{});
}
template <class F>
void with_bool(bool value, F&& f) {
  if (value)
    f(std::true_type{});
  else
    f(std::false_type{});
}

}  // namespace sinkscope::cuda
