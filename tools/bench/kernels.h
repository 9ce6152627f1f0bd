// Every operation of kernels/ops.h at the sizes of a config's model and batch, one at a time.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "kernels/ops.h"
#include "tools/bench/arrays.h"

namespace sinkscope {

/// What a call must cost at least, and how to make one.
struct KernelCase {
  std::string name;
  double calls = 0;  // in a training step; 0: the model or its steps do without it
  double bytes = 0;  // read and written, every operand once
  double flops = 0;  // of matrix products; attention forward 2 B H T^2 D (causal half), backward 2.5 times that
  std::function<std::function<void()>(ArraySet&)> make;  // a call on arrays of its own
  std::int64_t rows = 0;   // of linear maps and losses, whose last call in a step may have fewer; 0: other operations
  double fixed_bytes = 0;  // those of the bytes that do not grow with the rows
  double product_rate = 1;  // of products, over that of the compute dtype: 2 where operands are FP8
  bool compared = false;   // with the case before it: timed in turns with that one
};

/// `config` must be complete; `ops` must outlive the result.
std::vector<KernelCase> kernel_cases(Ops& ops, const Config& config);

/// Milliseconds of a call of each: medians of `repeats` windows of several calls, taken in turns (fewer windows for
/// calls beyond 100 ms). Calls go round enough sets of arrays that no cache holds what the next one reads.
std::vector<double> time_in_turns(Ops& ops, RandomSource& source, std::span<const KernelCase> kernels, int repeats);

}  // namespace sinkscope
