// What the kernels of attention_statistics leave behind for each tile of queries.
#pragma once

namespace sinkscope::cuda {

/// Sums over the queries of a tile, f64, in this order.
enum Statistic { kFirstMass, kFirstArgmax, kEntropy, kCosFirst, kCosRest, kStatistics };

}  // namespace sinkscope::cuda
