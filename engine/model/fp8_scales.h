// The scalings of a decoder's FP8 products, set from the magnitudes of earlier steps: delayed scaling, as NVIDIA's
// Transformer Engine calls it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// The linear maps of a block.
enum class BlockMap : std::uint8_t { qkv, output, up, down };
constexpr std::int64_t kBlockMaps = 4, kFp8Operands = 3;  // x, weight, dout of each

/// Scales and amax on the device, in a tensor that its owner keeps. Until scales are set products are not FP8, and
/// amax alone is taken.
class Fp8Scales {
 public:
  /// Operands of L layers, (L, kBlockMaps, kFp8Operands) of them, and what their tensor has.
  static std::int64_t operands(std::int64_t layers) { return layers * kBlockMaps * kFp8Operands; }
  static std::int64_t elements(std::int64_t layers) { return (2 * kApart + 1) * operands(layers); }

  /// Of no FP8 products.
  Fp8Scales() = default;
  /// `memory` (elements) f32.
  Fp8Scales(Ops& ops, const Tensor& memory, std::int64_t layers);

  Fp8Linear of(std::int64_t layer, BlockMap map) const;
  bool set() const { return !measure_; }
  void zero_amax();
  /// (operands) as they are at this point of the device's work; what it returns waits for them, and is called once.
  std::function<std::vector<double>()> read_amax() const;
  /// (operands), powers of two. Throws std::invalid_argument for another number of them.
  void set(std::span<const float> scales);

 private:
  static constexpr std::int64_t kApart = 4;  // 16 bytes

  Ops* ops_ = nullptr;
  Tensor scales_;  // (operands, scale and inverse, kApart), the first of which is used
  Tensor amax_;    // (operands)
  bool measure_ = true;
};

/// amax of the last steps, from which the scales of the next one follow.
class Fp8History {
 public:
  static constexpr std::size_t kSteps = 16;

  Fp8History() = default;
  /// As steps() gave it.
  explicit Fp8History(std::vector<std::vector<double>> steps) : steps_(std::move(steps)) {}

  bool empty() const { return steps_.empty(); }
  void add(const std::vector<double>& amax);
  /// The largest power of two that keeps the largest amax of these steps within the operand's format; 1 where all are
  /// 0.
  std::vector<float> scales() const;
  const std::vector<std::vector<double>>& steps() const { return steps_; }  // oldest first

 private:
  std::vector<std::vector<double>> steps_;
};

}  // namespace sinkscope
