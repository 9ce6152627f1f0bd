// The P0 sink circuit, read off the P0 norm ratios R^l = ||h^l_0|| / mean_{t>=1} ||h^l_t||: where
// position 0 is lifted out of the crowd, and since when attention goes there.
//
// `norm_ratio` has L+1 entries: R of h^-1 (the embedding output), h^0, ..., h^(L-1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace sinkscope {

/// Both quantities below are defined only when some block's ratio is above this.
inline constexpr double kCircuitRatio = 2.0;

/// l* = argmax_{0 <= l < L} (ln R^l - ln R^(l-1)), the first of equals, with R^-1 that of the
/// embedding output. Nothing unless max_{l >= 0} R^l > 2 and every ratio is a positive number.
std::optional<std::int64_t> step_up_layer(std::span<const double> norm_ratio);

/// C2 = max(ln R^0, ln R^1, 0) / max_{l >= 0} ln R^l, in 0..1; defined as l* is.
std::optional<double> first_two_layer_concentration(std::span<const double> norm_ratio);

/// Index of the first probe from which the sink excess of position 0 stays at or above `onset` for
/// `window` probes. Nothing when no such stretch is complete.
std::optional<std::size_t> onset_index(std::span<const double> excess, double onset, std::int64_t window);

}  // namespace sinkscope
