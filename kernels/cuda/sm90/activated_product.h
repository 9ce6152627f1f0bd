// Matrix products with an activation in their epilogue for compute capability 9.0 (wgmma, TMA), as ../product.cpp
// launches them. bf16; every pointer aligned to 16 bytes, every number of columns a multiple of 8.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sinkscope::cuda::sm90 {

enum class Activation : std::uint8_t { gelu, swiglu };  // GELU in its tanh form

/// z = x weight^T + bias, and its activation: z (M, F) and GELU(z), or z = gate and up (M, 2F) and silu(gate) up.
struct ActivatedProduct {
  Activation activation;
  std::int64_t M, F, K;
  const void *x, *weight;  // (M, K); (F, K), or (2F, K) of gate and up
  const void* bias;        // (F) or (2F), or null
  void *z, *out;           // (M, F) or (M, 2F); (M, F)
};
void multiply(cudaStream_t stream, int processors, const ActivatedProduct& product);

/// The gradient of z, from the activation's: dout weight, times what the activation's derivative is at z.
struct ActivatedGradient {
  Activation activation;
  std::int64_t M, F, K;
  const void *dout, *weight;  // (M, K); (K, F)
  const void* z;              // (M, F), or gate and up (M, 2F)
  void* dz;                   // as z
  /// (ceil(M / kOwnSumRows), F) f32, column sums of so many rows of dz each, or null; with GELU only.
  float* sums;
};
void multiply(cudaStream_t stream, int processors, const ActivatedGradient& product);

}  // namespace sinkscope::cuda::sm90
