// A block's shared memory, and rings of stages in it that one thread fills and others empty.
#pragma once

#include <cstdint>

#include "kernels/cuda/sm90/ptx.cuh"

namespace sinkscope::cuda::sm90 {

/// The place of the n-th use of a ring of stages, and the parity of the phase of its barrier that makes it full.
template <int Stages>
struct Place {
  int stage;
  std::uint32_t parity;
  __device__ explicit Place(int n)
      : stage(static_cast<int>(static_cast<unsigned>(n) % Stages)), parity(static_cast<unsigned>(n) / Stages % 2) {}
};

/// Barriers of a ring of stages: one thread fills a stage, `releases` arrivals make it empty.
template <int Stages>
__device__ void init(Barrier (&full)[Stages], Barrier (&empty)[Stages], int releases) {
  for (int stage = 0; stage < Stages; ++stage) {
    init(&full[stage], 1);
    init(&empty[stage], releases);
  }
}

/// The dynamic shared memory of a block, which has kSlack bytes more, at a multiple of 1024. An offset and not a
/// rounded address: so the compiler sees that accesses are to shared memory.
constexpr int kSlack = 1024;
template <class Shared>
__device__ Shared& aligned(unsigned char* memory) {
  return *reinterpret_cast<Shared*>(memory + (kSlack - shared_address(memory) % kSlack) % kSlack);
}

}  // namespace sinkscope::cuda::sm90
