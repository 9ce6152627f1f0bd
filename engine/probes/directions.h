// The stability of directions, out of DirectionSums (kernels/ops.h).
#pragma once

#include <cstdint>
#include <span>

namespace sinkscope {

/// Mean pairwise cosine of `vectors` vectors: with unit vectors u, (|sum u|^2 - sum |u|^2) / (n (n - 1)) is the mean
/// of u_a.u_b over the pairs a != b. `sum` (C) is of the unit vectors, `units` their number; the other vectors have
/// length 0, and so cosine 0 with every one. NaN for fewer than two vectors.
double mean_pairwise_cosine(std::span<const double> sum, double units, std::int64_t vectors);

}  // namespace sinkscope
