// What sums over the ranks cost: by themselves at several sizes, and beside a backward pass.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/config/config.h"
#include "kernels/ops.h"

namespace sinkscope {

struct SumTime {
  std::size_t bytes = 0;      // that each rank gives
  double seconds = 0;         // median over repeats, of the slowest rank
  double bus_rate = 0;        // bytes per second over a link of a ring: 2 (N-1)/N bytes / seconds
};

/// Times in seconds, medians of the slowest rank.
struct OverlapTime {
  double backward = 0;   // the last pass of a step, nothing summed
  double sums = 0;       // all gradients in their buckets, nothing else going on
  double together = 0;   // as in training: buckets are summed while the pass goes on
  /// Share of the shorter one that the other hides; 0 where nothing runs at the same time.
  double hidden() const;
};

/// Collective. From 64 KiB up to 256 MiB, or to the gradients' size where that is more.
std::vector<SumTime> time_sums(Communicator& ranks, Ops& ops, const Config& config, int repeats);
OverlapTime time_overlap(Communicator& ranks, Ops& ops, const Config& config, int repeats);

}  // namespace sinkscope
