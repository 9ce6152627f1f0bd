// Softmax cross-entropy that reads logits from memory once. A block keeps a row in shared memory, where the copy engine
// lays it, and a multiprocessor has two blocks, so that one's row arrives while the other computes. A warp has a
// stretch of the row for itself, in pieces: as soon as it has read a piece for the last time, the next row's piece may
// come there.
#include "kernels/cuda/sm90/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/error.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sm90/ptx.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda::sm90 {
namespace {

constexpr int kThreads = 512, kBlocks = 2, kWarps = kThreads / kWarp;
// Pieces of a stretch; vectors of a piece for each lane, and for all.
constexpr int kPieces = 4, kVectors = 4, kPiece = kVectors * kWarp;
static_assert(kWarps <= kWarp && kLongestRow <= std::int64_t{kWarps} * kPieces * kPiece * kVector);
constexpr std::uint32_t kLowestPair = 0xff80ff80U;  // -infinity, twice

/// The maximum of some logits, and the sum of exponentials of what they are above it.
struct Softmax {
  float highest, sum;
  // Where there is nothing but -infinity, nothing is added, and no NaN.
  __device__ float offset() const { return highest == -INFINITY ? 0.0F : highest * kLog2E; }
  __device__ void raise(float top) {
    if (top > highest) {
      sum *= exp2_approximate((highest - top) * kLog2E);
      highest = top;
    }
  }
};

/// Of all lanes, given to all.
__device__ Softmax combine_lanes(Softmax own) {
  const float highest = warp_max(own.highest);
  own.raise(highest);
  return {highest, warp_sum(own.sum)};
}

struct Shared {
  Barrier full[kWarps][kPieces];
  Softmax warps[2][kWarps];  // of rows in turn
  float target[2];           // its logit
};

/// A block takes every gridDim.x-th row; `vectors` of eight columns.
__global__ void __launch_bounds__(kThreads, kBlocks)
    cross_entropy_kernel(uint4* logits, const std::int32_t* targets, float* losses, int rows, int vectors,
                         bool gradient, float scale) {
  extern __shared__ uint4 row[];
  __shared__ Shared shared;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int stretch = (vectors + kWarps - 1) / kWarps;
  const int begin = min(warp * stretch, vectors), end = min(begin + stretch, vectors);
  Barrier* full = shared.full[warp];
  const auto fetch = [&](int r, int piece) {
    const int first = begin + piece * kPiece, bytes = min(kPiece, end - first) * static_cast<int>(sizeof(uint4));
    if (r >= rows || bytes <= 0) return;
    arrive_expecting(full + piece, bytes);
    load_bytes(row + first, logits + std::int64_t{r} * vectors + first, bytes, full + piece);
  };
  if (lane == 0) {
    for (int piece = 0; piece < kPieces; ++piece) init(full + piece, 1);
    fence_init();
    for (int piece = 0; piece < kPieces; ++piece) fetch(static_cast<int>(blockIdx.x), piece);
  }
  __syncwarp();
  int turn = 0;
  for (int r = static_cast<int>(blockIdx.x); r < rows; r += static_cast<int>(gridDim.x), turn ^= 1) {
    const int next = r + static_cast<int>(gridDim.x), target = targets[r];
    // Of this warp's, or -1: beyond its stretch a row may not have come yet, or be the next one already.
    const int target_vector = target / kVector >= begin && target / kVector < end ? target / kVector : -1;
    // Loads that were begun may not have been served yet when a copy begun after them arrives: without the fence one
    // gradient in a million or so was that of the next row's logit.
    const auto release = [&](int piece) {
      fence_async();
      __syncwarp();
      if (lane == 0) fetch(next, piece);
    };
    uint4* out = logits + std::int64_t{r} * vectors;
    if (target < 0) {
      if (threadIdx.x == 0) losses[r] = 0.0F;
      for (int piece = 0; begin + piece * kPiece < end; ++piece) {
        wait(full + piece, turn);
        release(piece);
      }
      if (gradient)
        for (int v = begin + lane; v < end; v += kWarp) out[v] = make_uint4(0, 0, 0, 0);
      __syncthreads();  // as every row: what a row leaves to all is read before the next but one
      continue;
    }
    Softmax own{-INFINITY, 0.0F};
#pragma unroll 1
    for (int piece = 0; begin + piece * kPiece < end; ++piece) {
      wait(full + piece, turn);
      const int first = begin + piece * kPiece + lane;
      uint4 x[kVectors];
      std::uint32_t top = kLowestPair;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int v = first + i * kWarp;
        x[i] = v < end ? row[v] : make_uint4(kLowestPair, kLowestPair, kLowestPair, kLowestPair);
        top = max_bf16(top, max_bf16(max_bf16(x[i].x, x[i].y), max_bf16(x[i].z, x[i].w)));
        if (v == target_vector) shared.target[turn] = to_float(reinterpret_cast<const bf16*>(row)[target]);
      }
      own.raise(fmaxf(low_bf16(top), high_bf16(top)));
      const float offset = own.offset();
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        for (const std::uint32_t pair : {x[i].x, x[i].y, x[i].z, x[i].w}) {
          own.sum += exp2_approximate(low_bf16(pair) * kLog2E - offset);
          own.sum += exp2_approximate(high_bf16(pair) * kLog2E - offset);
        }
      if (!gradient) release(piece);
    }
    own = combine_lanes(own);
    if (lane == 0) shared.warps[turn][warp] = own;
    __syncthreads();
    const Softmax all = combine_lanes(lane < kWarps ? shared.warps[turn][lane] : Softmax{-INFINITY, 0.0F});
    const float target_logit = shared.target[turn];
    if (threadIdx.x == 0) losses[r] = logf(all.sum) + (all.highest - target_logit);
    if (!gradient) continue;
    // scale / sum 2^(x log2 e - highest log2 e), its factor in the exponent.
    const float offset = all.highest * kLog2E - __log2f(scale / all.sum);
#pragma unroll 1
    for (int piece = 0; begin + piece * kPiece < end; ++piece) {
      const int first = begin + piece * kPiece + lane;
      uint4 x[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        if (first + i * kWarp < end) x[i] = row[first + i * kWarp];
      release(piece);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int v = first + i * kWarp;
        if (v >= end) continue;
        const auto differentiate = [&](std::uint32_t pair) {
          return pack_bf16(exp2_approximate(low_bf16(pair) * kLog2E - offset),
                           exp2_approximate(high_bf16(pair) * kLog2E - offset));
        };
        out[v] = make_uint4(differentiate(x[i].x), differentiate(x[i].y), differentiate(x[i].z), differentiate(x[i].w));
        if (v == target_vector)
          reinterpret_cast<bf16*>(out)[target] =
              __float2bfloat16_rn(exp2_approximate(target_logit * kLog2E - offset) - scale);
      }
    }
  }
}

}  // namespace

void cross_entropy(cudaStream_t stream, int processors, void* logits, const std::int32_t* targets, float* losses,
                   std::int64_t N, std::int64_t V, bool gradient, float scale) {
  constexpr const char* kOp = "cross_entropy";
  const int bytes = static_cast<int>(V * static_cast<std::int64_t>(sizeof(bf16)));
  static_assert(kBlocks * (kLongestRow * sizeof(bf16) + sizeof(Shared) + 1024) <= 228 * 1024);
  check_cuda(cudaFuncSetAttribute(cross_entropy_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kLongestRow * sizeof(bf16))), kOp);  // the same whatever V is
  check_cuda(cudaFuncSetAttribute(cross_entropy_kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             kOp);
  cross_entropy_kernel<<<static_cast<unsigned>(std::min<std::int64_t>(N, std::int64_t{processors} * kBlocks)), kThreads,
                         bytes, stream>>>(static_cast<uint4*>(logits), targets, losses, static_cast<int>(N),
                                          static_cast<int>(V / kVector), gradient, scale);
  check_launch(kOp);
}

}  // namespace sinkscope::cuda::sm90
