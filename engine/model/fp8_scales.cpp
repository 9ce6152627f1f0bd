#include "engine/model/fp8_scales.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>

namespace sinkscope {

Fp8Scales::Fp8Scales(Ops& ops, const Tensor& memory, std::int64_t layers)
    : ops_(&ops), scales_(memory.rows(0, 2 * kApart * operands(layers))),
      amax_(memory.rows(2 * kApart * operands(layers), operands(layers))) {}

Fp8Linear Fp8Scales::of(std::int64_t layer, BlockMap map) const {
  if (!scales_) return {};
  const std::int64_t first = (layer * kBlockMaps + static_cast<std::int64_t>(map)) * kFp8Operands;
  const auto scaling = [&](std::int64_t operand) {
    const std::int64_t pair = 2 * kApart * (first + operand);
    return Fp8Scaling{.scale = scales_.rows(pair, 1),
                      .inverse = scales_.rows(pair + kApart, 1),
                      .amax = amax_.rows(first + operand, 1)};
  };
  return {.x = scaling(0), .weight = scaling(1), .dout = scaling(2), .measure = measure_};
}

void Fp8Scales::zero_amax() {
  if (amax_) ops_->zero(amax_);
}

std::function<std::vector<double>()> Fp8Scales::read_amax() const {
  if (!amax_) return [] { return std::vector<double>(); };
  auto amax = std::make_shared<std::vector<float>>(static_cast<std::size_t>(amax_.size()));
  return [amax, wait = ops_->copy_to_host_later(amax->data(), amax_)] {
    wait();
    return std::vector<double>(amax->begin(), amax->end());
  };
}

void Fp8Scales::set(std::span<const float> scales) {
  if (std::ssize(scales) != amax_.size())
    throw std::invalid_argument("Fp8Scales::set: " + std::to_string(scales.size()) + " scales, expected " +
                                std::to_string(amax_.size()));
  std::vector<float> pairs(2 * kApart * scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i) {
    pairs[2 * kApart * i] = scales[i];
    pairs[2 * kApart * i + kApart] = 1 / scales[i];
  }
  ops_->copy_from_host(scales_, pairs.data());
  measure_ = false;
}

void Fp8History::add(const std::vector<double>& amax) {
  std::vector<double>& added = steps_.emplace_back(amax);
  for (double& value : added)
    if (!std::isfinite(value)) value = 0;  // a run ends at what it comes from
  if (steps_.size() > kSteps) steps_.erase(steps_.begin());
}

std::vector<float> Fp8History::scales() const {
  if (steps_.empty()) return {};
  constexpr int kLargestExponent = 100;  // its inverse too is a normal number of f32
  std::vector<float> scales;
  for (std::size_t i = 0; i < steps_.back().size(); ++i) {
    double amax = 0;
    for (const std::vector<double>& step : steps_) amax = std::max(amax, step[i]);
    const double largest = i % kFp8Operands == kFp8Operands - 1 ? kLargestE5m2 : kLargestE4m3;
    const int exponent = amax > 0 ? std::ilogb(largest / amax) : 0;
    scales.push_back(std::ldexp(1.0F, std::clamp(exponent, -kLargestExponent, kLargestExponent)));
  }
  return scales;
}

}  // namespace sinkscope
