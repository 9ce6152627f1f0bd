// The instructions of compute capability 9.0 (sm_90a): barriers in shared memory, the bulk tensor copy engine (TMA),
// warpgroup matrix products (wgmma), registers moved between warpgroups. Inline PTX of Hopper stands here alone.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace sinkscope::cuda::sm90 {

constexpr int kWarpgroup = 128;  // threads

/// Whether this is the one thread that the warp elects, always the same.
__device__ inline bool elect_one() {
  std::uint32_t elected;
  asm volatile(
      "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
  return elected != 0;
}

/// threadIdx.x, read anew at every call: what follows from it takes no register between its uses.
__device__ inline int read_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(thread));
  return thread;
}

/// More or fewer registers for every thread of this warpgroup.
template <int Count>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Count));
}
template <int Count>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Count));
}

/// With SINKSCOPE_JITTER (a build option) barriers are reached after random delays, which show what is not ordered:
/// racecheck follows no barrier in shared memory.
__device__ inline void jitter() {
#ifdef SINKSCOPE_JITTER
  unsigned clock, warp;
  asm volatile("mov.u32 %0, %%clock;\nmov.u32 %1, %%warpid;\n" : "=r"(clock), "=r"(warp));
  unsigned random = (clock ^ warp * 0x9E3779B9U) * 0x85EBCA6BU;
  random ^= random >> 15;
  if (random % 8 == 0) __nanosleep(random >> 8 & 4095);
#endif
}

// Barriers of this block for `threads` threads of it, numbered 1 to 15: wait for all, or only tell that one came.
__device__ inline void barrier_wait(int number, int threads) {
  jitter();
  named_barrier(number, threads);
}
__device__ inline void barrier_arrive(int number, int threads) {
  jitter();
  asm volatile("bar.arrive %0, %1;\n" ::"r"(number), "r"(threads) : "memory");
}

/// A barrier in shared memory: its phase ends when `count` arrivals and all bytes that were expected are there.
using Barrier = std::uint64_t;
__device__ inline void init(Barrier* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(count));
}
/// Shows barriers that were initialised to the copy engine; a __syncthreads() shows them to the block.
__device__ inline void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }
__device__ inline void arrive(Barrier* barrier) {
  jitter();
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
/// Arrives, and expects `bytes` from the copy engine.
__device__ inline void arrive_expecting(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
/// Which block of its cluster this is.
__device__ inline int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}
/// Waits for all threads of all blocks of the cluster.
__device__ inline void cluster_wait() {
  jitter();
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;\n" ::: "memory");
}
/// Arrives at the barrier in this place of the cluster's block `rank`. It orders nothing but what has been waited for,
/// such as the reads of products: a release for the whole cluster takes hundreds of clocks.
__device__ inline void arrive_at(Barrier* barrier, int rank) {
  jitter();
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(barrier)), "r"(rank)
      : "memory");
}

/// Waits until the phase of this parity has ended; the phase before the first has parity 1.
__device__ inline void wait(Barrier* barrier, std::uint32_t parity) {
  jitter();
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\nbra again;\nover:\n}\n" ::"r"(shared_address(barrier)), "r"(parity)
      : "memory");
}

/// Begins the copy of the box at (0, head, row, 0, b) of a tensor of heads (tensor_map.h) to shared memory, aligned to
/// 1024 bytes; what lies outside becomes zero. `full` gets the bytes.
__device__ inline void load_box(void* box, const CUtensorMap* map, Barrier* full, int head, int row, int b) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %3, "
      "%6}], [%2];\n" ::"r"(shared_address(box)),
      "l"(map), "r"(shared_address(full)), "r"(0), "r"(head), "r"(row), "r"(b)
      : "memory");
}
/// The same of a tensor of slabs (map_slabs), at (column, row, slab).
__device__ inline void load_slab_box(void* box, const CUtensorMap* map, Barrier* full, int column, int row, int slab) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];\n" ::"r"(shared_address(box)),
      "l"(map), "r"(shared_address(full)), "r"(column), "r"(row), "r"(slab)
      : "memory");
}
/// The same to the same place of every block of the cluster whose bit is set; the barrier of each gets the bytes.
__device__ inline void load_slab_box(void* box, const CUtensorMap* map, Barrier* full, int column, int row, int slab,
                                     std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%3, %4, %5}], [%2], %6;\n" ::"r"(shared_address(box)),
      "l"(map), "r"(shared_address(full)), "r"(column), "r"(row), "r"(slab), "h"(blocks)
      : "memory");
}
/// Begins a copy of `bytes`, a multiple of 16, both aligned to 16.
__device__ inline void load_bytes(void* shared, const void* global, int bytes, Barrier* full) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(full))
               : "memory");
}
/// A box from shared memory, at (0, head, row, half, b); what lies outside is not written. A group of stores ends with
/// commit_stores().
__device__ inline void store_box(const CUtensorMap* map, const void* box, int head, int row, int half, int b) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%1, {%2, %3, %4, %5, %6}], [%0];\n" ::"r"(
                   shared_address(box)), "l"(map), "r"(0), "r"(head), "r"(row), "r"(half), "r"(b)
               : "memory");
}
__device__ inline void store_slab_box(const CUtensorMap* map, const void* box, int column, int row, int slab) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%1, {%2, %3, %4}], [%0];\n" ::"r"(
                   shared_address(box)),
               "l"(map), "r"(column), "r"(row), "r"(slab)
               : "memory");
}
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
/// Begins a copy of `bytes`, a multiple of 16, from shared memory; or adds that many bytes of floats to those in
/// memory.
__device__ inline void store_bytes(void* global, const void* shared, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ inline void add_floats(float* global, const void* shared, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;\n" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
/// Waits until the stores that this thread began have read shared memory, but for the last `Pending` groups.
template <int Pending = 0>
__device__ void wait_for_stores() {
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Pending) : "memory");
}
/// Waits until they are done, so that other blocks can see them.
__device__ inline void wait_for_stores_done() { asm volatile("cp.async.bulk.wait_group 0;\n" ::: "memory"); }
__device__ inline void prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}
/// Between ordinary accesses of shared memory and the copy engine or wgmma: before these read what was written, and
/// before the copy engine overwrites what was read into registers that nothing has used yet.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

/// Between accesses of global memory by ordinary instructions and by the copy engine.
__device__ inline void fence_async_global() { asm volatile("fence.proxy.async.global;\n" ::: "memory"); }

// A counter in global memory that blocks take turns by.
__device__ inline int load_acquire(const int* counter) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(value) : "l"(counter) : "memory");
  return value;
}
__device__ inline void add_release(int* counter, int value) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;\n" ::"l"(counter), "r"(value) : "memory");
}
/// The counter's value before.
__device__ inline int add_acquire_release(int* counter, int value) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;\n" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}

/// Writes four 8 x 8 tiles of bf16 as load_matrices reads them.
__device__ inline void store_matrices(std::uint32_t row, const std::uint32_t (&tiles)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(row), "r"(tiles[0]),
               "r"(tiles[1]), "r"(tiles[2]), "r"(tiles[3])
               : "memory");
}

/// A matrix of bf16 in shared memory under a swizzle of 128 bytes, as wgmma takes it: rows of 64 elements, eight rows
/// an atom of 1024 bytes, to whose multiples it is aligned. Factors whose rows are summed along need no `across`; of
/// those that are summed over rows it is the distance in bytes from one 64 columns to the next.
__device__ inline std::uint64_t describe(const void* matrix, int across = 16) {
  const std::uint64_t address = shared_address(matrix), distance = static_cast<std::uint64_t>(across);
  return (address & 0x3ffff) >> 4 | distance >> 4 << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}
/// What moves a description by `bytes`.
constexpr std::uint64_t advance(int bytes) { return static_cast<std::uint64_t>(bytes >> 4); }

/// Before the first product whose registers were written by other instructions.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
/// Waits until at most `Pending` groups of products are not done.
template <int Pending>
__device__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Pending) : "memory");
}
/// Keeps uses of registers on their side of a wait.
template <int Count>
__device__ void hold(float* registers) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// c (64, N) (+)= a (64, 16) b (16, N), bf16 products added in fp32, N / 2 floats a thread. Warp w of the warpgroup has
// rows 16 w to 16 w + 15; its lane l of columns 8 j + 2 (l % 4) and + 1 c[4 j] and c[4 j + 1] of row l / 4, c[4 j + 2]
// and c[4 j + 3] of row l / 4 + 8. Without `add` c is overwritten. Products are done after products_commit() and
// products_wait(); until then nothing else may touch c, or a in registers.
#define SINKSCOPE_8(c, i)                                                                                     \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define SINKSCOPE_32(c, i) SINKSCOPE_8(c, i), SINKSCOPE_8(c, i + 8), SINKSCOPE_8(c, i + 16), SINKSCOPE_8(c, i + 24)
#define SINKSCOPE_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SINKSCOPE_NAMES_64 \
  SINKSCOPE_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SINKSCOPE_NAMES_96 \
  SINKSCOPE_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

// Both factors in shared memory; those that are summed over their rows instead of along them are named.
template <bool OverA, bool OverB>
__device__ void multiply_shared_64(float* c, std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SINKSCOPE_NAMES_32
      "}, %32, %33, add, 1, 1, %35, %36;\n}\n"
      : SINKSCOPE_32(c, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(OverA)), "n"(static_cast<int>(OverB)));
}
template <bool OverA, bool OverB>
__device__ void multiply_shared_128(float* c, std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SINKSCOPE_NAMES_64
      "}, %64, %65, add, 1, 1, %67, %68;\n}\n"
      : SINKSCOPE_32(c, 0), SINKSCOPE_32(c, 32)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(OverA)), "n"(static_cast<int>(OverB)));
}
template <bool OverA, bool OverB>
__device__ void multiply_shared_192(float* c, std::uint64_t a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" SINKSCOPE_NAMES_96
      "}, %96, %97, add, 1, 1, %99, %100;\n}\n"
      : SINKSCOPE_32(c, 0), SINKSCOPE_32(c, 32), SINKSCOPE_32(c, 64)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(OverA)), "n"(static_cast<int>(OverB)));
}
/// a in registers, as the lanes hold c: rows l / 4, l / 4 + 8 of columns 2 (l % 4), + 1, then both of columns 8
/// further; b in shared memory, summed over its rows.
__device__ inline void multiply_64(float* c, const std::uint32_t* a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SINKSCOPE_NAMES_32
      "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;\n}\n"
      : SINKSCOPE_32(c, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void multiply_128(float* c, const std::uint32_t* a, std::uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SINKSCOPE_NAMES_64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n}\n"
      : SINKSCOPE_32(c, 0), SINKSCOPE_32(c, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
/// The same by the number of columns of c: 64, 128, and with both factors in shared memory 192.
template <int N, bool OverA, bool OverB>
__device__ void multiply_shared(float* c, std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(N == 64 || N == 128 || N == 192);
  if constexpr (N == 64) {
    multiply_shared_64<OverA, OverB>(c, a, b, add);
  } else if constexpr (N == 128) {
    multiply_shared_128<OverA, OverB>(c, a, b, add);
  } else {
    multiply_shared_192<OverA, OverB>(c, a, b, add);
  }
}
template <int N>
__device__ void multiply_transposed(float* c, std::uint64_t a, std::uint64_t b, bool add) {
  multiply_shared<N, false, false>(c, a, b, add);
}
template <int N>
__device__ void multiply(float* c, const std::uint32_t* a, std::uint64_t b, bool add) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    multiply_64(c, a, b, add);
  } else {
    multiply_128(c, a, b, add);
  }
}
#undef SINKSCOPE_8
#undef SINKSCOPE_32
#undef SINKSCOPE_NAMES_32
#undef SINKSCOPE_NAMES_64
#undef SINKSCOPE_NAMES_96

}  // namespace sinkscope::cuda::sm90
