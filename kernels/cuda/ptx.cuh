// The instructions that CUDA C++ has no name for; inline PTX stands here and nowhere else.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace sinkscope::cuda {

/// The 32-bit address of a pointer into shared memory.
__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Begins a copy of 16 bytes from global to shared memory, both 16-byte aligned; zeros without `valid`.
__device__ inline void copy_16_async(std::uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ inline void copy_4_async(std::uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
/// Waits for the copies that this thread began; __syncthreads() then shows everybody's.
__device__ inline void copy_wait() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

/// A barrier of this block for `threads` threads of it, whole warps, numbered 1 to 15.
__device__ inline void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}

/// Four 8 x 8 tiles of bf16; lane l names row l % 8 of tile l / 8 (16 bytes, 16-byte aligned). Lane l gets
/// elements 2 (l % 4), + 1 of row l / 4 of each; transposed: of column l / 4.
__device__ inline void load_matrices(std::uint32_t (&tiles)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&tiles)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row)
               : "memory");
}

/// c (16, 8) += a (16, 16) b (16, 8), bf16 products added in fp32. Lane l holds of c: rows l / 4 (c[0], c[1])
/// and l / 4 + 8 (c[2], c[3]), columns 2 (l % 4) and + 1.
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

constexpr float kLog2E = 1.4426950408889634F;

/// 2^x to about 2 units in the last place; 0 for -infinity.
__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// The larger of each two bf16, of a number and a NaN the number.
__device__ inline std::uint32_t max_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t larger;
  asm("max.bf16x2 %0, %1, %2;\n" : "=r"(larger) : "r"(a), "r"(b));
  return larger;
}

/// 1 / x to about a unit in the last place; 0 for infinities.
__device__ inline float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// Of two bf16 that of the lower half, and the other.
__device__ inline float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }
/// Two floats rounded to bf16, the first in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

}  // namespace sinkscope::cuda
