// FP8 numbers on the CPU: floats that have been rounded to them (Fp8Scaling in kernels/ops.h).
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace sinkscope {

enum class Fp8Format : std::uint8_t { e4m3, e5m2 };

/// out[i] = scale * x[i], rounded, / scale; `scaling` is on the host.
void round_to_fp8(int threads, Fp8Format format, const Fp8Scaling& scaling, const float* x, std::int64_t count,
                  float* out);
/// scaling.amax = max(scaling.amax, max |x[i]|), NaN when any of them is.
void raise_amax(int threads, const Fp8Scaling& scaling, const float* x, std::int64_t count);

}  // namespace sinkscope
