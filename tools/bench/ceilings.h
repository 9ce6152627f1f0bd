// What the device can do at most, measured: the two rates that operations are held against.
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace sinkscope {

struct Ceilings {
  double copy_rate = 0;          // bytes/s, read plus written, of a large copy
  std::size_t copy_bytes = 0;    // of that copy, read plus written
  double matrix_rate = 0;        // FLOP/s of a product of two n x n matrices in the compute dtype
  std::int64_t matrix_size = 0;  // n
};

/// The best of several runs each, on random data: n = 8192 on a GPU, 2048 on the CPU.
Ceilings measure_ceilings(Ops& ops);

/// The least milliseconds for moving `bytes` and multiplying `flops`.
double floor_ms(const Ceilings& ceilings, double bytes, double flops);

}  // namespace sinkscope
