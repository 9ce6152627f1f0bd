// What the bf16 attention kernels share: tiles of rows in shared memory, and products of tiles on the
// tensor cores (mma.sync, sm_80 and up). A warp owns RowTiles x 16 rows of the left factor.
#pragma once

#include <initializer_list>

#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope::cuda {

/// Elements between rows of D in shared memory: an odd number of 16-byte units, so that eight rows at
/// one column lie in different banks.
template <int D>
inline constexpr int kPitch = D + 8;

/// Begins copying rows [first, first + Rows) of a head, `stride` apart, to a (Rows, pitch) tile; rows from
/// `length` on become zeros.
template <int D, int Rows, int Threads>
__device__ void copy_rows_async(bf16* tile, const bf16* head, std::int64_t stride, std::int64_t first,
                                std::int64_t length) {
  constexpr int kUnits = D / kVector;
  static_assert(Rows * kUnits % Threads == 0);
#pragma unroll
  for (int i = 0; i < Rows * kUnits / Threads; ++i) {
    const int unit = i * Threads + static_cast<int>(threadIdx.x), row = unit / kUnits, column = unit % kUnits * kVector;
    const bool valid = first + row < length;
    copy_16_async(shared_address(tile + row * kPitch<D> + column), head + (valid ? (first + row) * stride + column : 0),
                  valid);
  }
}

/// The address that this lane gives to load_matrices for the 16 x 16 tile at `tile`: left factors, and right
/// factors whose rows are summed over (those transposed).
template <int D>
__device__ std::uint32_t lane_address(const bf16* tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return shared_address(tile + lane % 16 * kPitch<D> + lane / 16 * 8);
}
/// The same for right factors whose columns are summed over.
template <int D>
__device__ std::uint32_t lane_address_of_right(const bf16* tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return shared_address(tile + (lane / 16 * 8 + lane % 8) * kPitch<D> + lane / 8 % 2 * 8);
}
template <int D>
__device__ constexpr std::uint32_t byte_offset(int row, int column) {
  return static_cast<std::uint32_t>((row * kPitch<D> + column) * static_cast<int>(sizeof(bf16)));
}

/// A warp's rows of a left factor (RowTiles * 16, D), held in registers or read from shared memory when used.
template <int D, int RowTiles, bool Held>
class LeftRows {
 public:
  __device__ explicit LeftRows(const bf16* rows) : address_(lane_address<D>(rows)) {}
  /// Reads the rows, once they are there.
  __device__ void read() {
    if constexpr (Held) {
#pragma unroll
      for (int tile = 0; tile < RowTiles; ++tile)
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
          load_matrices(held_[tile][step], address_ + byte_offset<D>(tile * 16, step * 16));
    }
  }
  __device__ void get(std::uint32_t (&tiles)[4], int tile, int step) const {
    if constexpr (Held) {
#pragma unroll
      for (int i = 0; i < 4; ++i) tiles[i] = held_[tile][step][i];
    } else {
      load_matrices(tiles, address_ + byte_offset<D>(tile * 16, step * 16));
    }
  }

 private:
  std::uint32_t address_;
  std::uint32_t held_[Held ? RowTiles : 1][Held ? D / 16 : 1][4];
};

template <int RowTiles, int Columns>
__device__ void clear(float (&c)[RowTiles][Columns][4]) {
#pragma unroll
  for (int tile = 0; tile < RowTiles; ++tile)
#pragma unroll
    for (int column = 0; column < Columns; ++column)
#pragma unroll
      for (int i = 0; i < 4; ++i) c[tile][column][i] = 0.0F;
}

/// c = left (RowTiles * 16, D) right^T, right (Columns * 8, D) rows in shared memory.
template <int D, int RowTiles, int Columns, bool Held>
__device__ void multiply_by_transpose(float (&c)[RowTiles][Columns][4], const LeftRows<D, RowTiles, Held>& left,
                                      const bf16* right) {
  clear(c);
  const std::uint32_t address = lane_address_of_right<D>(right);
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    std::uint32_t a[RowTiles][4];
#pragma unroll
    for (int tile = 0; tile < RowTiles; ++tile) left.get(a[tile], tile, step);
#pragma unroll
    for (int pair = 0; pair < Columns / 2; ++pair) {
      std::uint32_t b[4];
      load_matrices(b, address + byte_offset<D>(pair * 16, step * 16));
#pragma unroll
      for (int tile = 0; tile < RowTiles; ++tile) {
        multiply_add(c[tile][2 * pair], a[tile], b[0], b[1]);
        multiply_add(c[tile][2 * pair + 1], a[tile], b[2], b[3]);
      }
    }
  }
}

/// c (RowTiles * 16, D) += bf16(left) right: left (RowTiles * 16, Columns * 8) as a product left it, right
/// (Columns * 8, D) rows in shared memory. An accumulator's layout is a left factor's: nothing moves.
template <int D, int RowTiles, int Columns>
__device__ void add_product(float (&c)[RowTiles][D / 8][4], const float (&left)[RowTiles][Columns][4],
                            const bf16* right) {
  const std::uint32_t address = lane_address<D>(right);
#pragma unroll
  for (int step = 0; step < Columns / 2; ++step) {
    std::uint32_t a[RowTiles][4];
#pragma unroll
    for (int tile = 0; tile < RowTiles; ++tile) {
      const auto &low = left[tile][2 * step], &high = left[tile][2 * step + 1];
      a[tile][0] = pack_bf16(low[0], low[1]);
      a[tile][1] = pack_bf16(low[2], low[3]);
      a[tile][2] = pack_bf16(high[0], high[1]);
      a[tile][3] = pack_bf16(high[2], high[3]);
    }
#pragma unroll
    for (int pair = 0; pair < D / 16; ++pair) {
      std::uint32_t b[4];
      load_matrices_transposed(b, address + byte_offset<D>(step * 16, pair * 16));
#pragma unroll
      for (int tile = 0; tile < RowTiles; ++tile) {
        multiply_add(c[tile][2 * pair], a[tile], b[0], b[1]);
        multiply_add(c[tile][2 * pair + 1], a[tile], b[2], b[3]);
      }
    }
  }
}

/// Writes a warp's (RowTiles * 16, D) result, each row times its factor, as bf16 rows `stride` apart from
/// `out` on; `count` of them exist. `rows` is room of the same shape in shared memory that only this warp uses.
template <int D, int RowTiles>
__device__ void store_rows(bf16* out, std::int64_t stride, std::int64_t count, const float (&c)[RowTiles][D / 8][4],
                           const float (&factor)[RowTiles][2], bf16* rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncwarp();
#pragma unroll
  for (int tile = 0; tile < RowTiles; ++tile)
#pragma unroll
    for (int column = 0; column < D / 8; ++column)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(rows + (tile * 16 + half * 8 + lane / 4) * kPitch<D> + column * 8 +
                                          lane % 4 * 2) = pack_bf16(c[tile][column][2 * half] * factor[tile][half],
                                                                    c[tile][column][2 * half + 1] * factor[tile][half]);
  __syncwarp();
  constexpr int kUnits = D / kVector;
#pragma unroll
  for (int i = 0; i < RowTiles * 16 * kUnits / kWarp; ++i) {
    const int unit = i * kWarp + lane, row = unit / kUnits, column = unit % kUnits * kVector;
    if (row < count)
      *reinterpret_cast<uint4*>(out + row * stride + column) =
          *reinterpret_cast<const uint4*>(rows + row * kPitch<D> + column);
  }
}

/// Whether the tensor core kernels take these operands.
inline bool mma_attention(DType real, std::int64_t head_dim, std::initializer_list<const void*> operands) {
  bool aligned = true;
  for (const void* operand : operands) aligned = aligned && reinterpret_cast<std::uintptr_t>(operand) % 16 == 0;
  return real == DType::bf16 && aligned && (head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128);
}
/// Calls f<D>.
template <class F>
void with_head_dim(std::int64_t head_dim, F&& f) {
  switch (head_dim) {
    case 32: return f.template operator()<32>();
    case 64: return f.template operator()<64>();
    case 96: return f.template operator()<96>();
    default: return f.template operator()<128>();
  }
}

}  // namespace sinkscope::cuda
