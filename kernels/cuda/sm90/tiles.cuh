// In which order a persistent grid takes the tiles of causal attention.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sinkscope::cuda::sm90 {

struct Tile {
  int head;   // b*H + h
  int index;  // of its tiles
};

/// Heads go in sections whose keys and values stay in the L2 cache together; of a section the last tiles go first, of
/// all its heads. Of queries those are the longest, which see the most keys. Of keys they are the shortest, and must go
/// first: each waits for later tiles of its head.
struct TileOrder {
  int heads, tiles, section;

  TileOrder(std::int64_t heads, std::int64_t tiles, std::int64_t length, std::int64_t head_dim, int group)
      : heads(static_cast<int>(heads)), tiles(static_cast<int>(tiles)) {
    constexpr std::int64_t kCached = 16 << 20;
    const std::int64_t bytes = 2 * length * head_dim * 2;  // keys and values of a head
    section = static_cast<int>(std::clamp<std::int64_t>(kCached / bytes, 1, heads / group + 1)) * group;
  }
  __host__ __device__ int count() const { return heads * tiles; }
  __device__ Tile operator[](int i) const {
    const int first = i / (section * tiles) * section, within = i - first * tiles, width = min(section, heads - first);
    return {first + within % width, tiles - 1 - within / width};
  }
  /// The tile that a block takes after its first, which is that of its own number. `taken` counts them for all blocks,
  /// each of which counts until there is nothing left: so the one that counts last sets it back to 0.
  __device__ int next(int* taken) const {
    const int before = atomicAdd(taken, 1);
    if (before == count() - 1) *taken = 0;
    return static_cast<int>(gridDim.x) + before;
  }
  /// The same for every tile, the first one too, so that all tiles before one are those of blocks that have begun.
  __device__ int take(int* taken) const {
    const int place = atomicAdd(taken, 1);
    if (place == count() + static_cast<int>(gridDim.x) - 1) *taken = 0;
    return place;
  }
};

}  // namespace sinkscope::cuda::sm90
