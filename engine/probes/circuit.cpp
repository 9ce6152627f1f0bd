#include "engine/probes/circuit.h"

#include <algorithm>
#include <cmath>

namespace sinkscope {

namespace {

bool circuit_defined(std::span<const double> norm_ratio) {
  if (norm_ratio.size() < 2) return false;
  const auto positive = [](double ratio) { return std::isfinite(ratio) && ratio > 0; };
  if (!std::all_of(norm_ratio.begin(), norm_ratio.end(), positive)) return false;
  return *std::max_element(norm_ratio.begin() + 1, norm_ratio.end()) > kCircuitRatio;
}

}  // namespace

std::optional<std::int64_t> step_up_layer(std::span<const double> norm_ratio) {
  if (!circuit_defined(norm_ratio)) return std::nullopt;
  std::int64_t best = 0;
  double best_step = -1;
  for (std::size_t row = 1; row < norm_ratio.size(); ++row) {
    const double step = std::log(norm_ratio[row]) - std::log(norm_ratio[row - 1]);
    if (row == 1 || step > best_step) {
      best = static_cast<std::int64_t>(row) - 1;
      best_step = step;
    }
  }
  return best;
}

std::optional<double> first_two_layer_concentration(std::span<const double> norm_ratio) {
  if (!circuit_defined(norm_ratio)) return std::nullopt;
  double early = std::max(std::log(norm_ratio[1]), 0.0);
  if (norm_ratio.size() > 2) early = std::max(early, std::log(norm_ratio[2]));
  return early / std::log(*std::max_element(norm_ratio.begin() + 1, norm_ratio.end()));
}

std::optional<std::size_t> onset_index(std::span<const double> excess, double onset, std::int64_t window) {
  std::int64_t held = 0;
  for (std::size_t i = 0; i < excess.size(); ++i) {
    held = excess[i] >= onset ? held + 1 : 0;
    if (held == window) return i + 1 - static_cast<std::size_t>(window);
  }
  return std::nullopt;
}

}  // namespace sinkscope
