#include "engine/probes/sink_scores.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace sinkscope {

std::vector<double> uniform_sink_scores(std::int64_t length, std::int64_t positions) {
  if (positions < 0 || positions > length)
    throw std::invalid_argument("uniform_sink_scores: " + std::to_string(positions) +
                                " positions of a sequence of " + std::to_string(length));
  std::vector<double> scores(static_cast<std::size_t>(positions));
  double tail = 0;  // sum over t >= k of 1/(t+1), smallest terms first
  for (std::int64_t k = length - 1; k >= 0; --k) {
    tail += 1.0 / static_cast<double>(k + 1);
    if (k < positions) scores[static_cast<std::size_t>(k)] = tail / static_cast<double>(length - k);
  }
  return scores;
}

std::vector<double> sink_excess(std::span<const double> scores, std::int64_t length) {
  std::vector<double> excess = uniform_sink_scores(length, static_cast<std::int64_t>(scores.size()));
  for (std::size_t k = 0; k < excess.size(); ++k) excess[k] = scores[k] / excess[k];
  return excess;
}

std::optional<std::int64_t> dominant_position(std::span<const double> values) {
  std::optional<std::int64_t> best;
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (std::isnan(values[k])) continue;
    if (!best || values[k] > values[static_cast<std::size_t>(*best)]) best = static_cast<std::int64_t>(k);
  }
  return best;
}

SinkTally::SinkTally(std::int64_t layers, std::int64_t heads, std::int64_t positions)
    : layers_(layers),
      heads_(heads),
      positions_(positions),
      sums_(static_cast<std::size_t>(layers * heads * positions), 0.0),
      counts_(static_cast<std::size_t>(layers * positions), 0.0) {}

void SinkTally::add_sums(std::int64_t sequences, std::span<const double> sums, std::span<const double> counts) {
  if (sums.size() != sums_.size() || counts.size() != sums_.size())
    throw std::invalid_argument("SinkTally::add_sums: " + std::to_string(sums.size()) + " sums and " +
                                std::to_string(counts.size()) + " counts, expected " + std::to_string(sums_.size()) +
                                " each");
  const auto positions = static_cast<std::size_t>(positions_), heads = static_cast<std::size_t>(heads_);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums_[i] += sums[i];
    counts_[i / (heads * positions) * positions + i % positions] += counts[i];
  }
  sequences_ += static_cast<double>(sequences);
}

double SinkTally::sum(std::int64_t layer, std::int64_t head, std::int64_t position) const {
  return sums_[static_cast<std::size_t>((layer * heads_ + head) * positions_ + position)];
}

double SinkTally::count(std::int64_t layer, std::int64_t position) const {
  return counts_[static_cast<std::size_t>(layer * positions_ + position)];
}

std::vector<double> SinkTally::head_scores() const {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(layers_ * heads_ * positions_));
  for (std::int64_t l = 0; l < layers_; ++l)
    for (std::int64_t h = 0; h < heads_; ++h)
      for (std::int64_t k = 0; k < positions_; ++k) out.push_back(sum(l, h, k) / sequences_);
  return out;
}

std::vector<double> SinkTally::layer_scores() const {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(layers_ * positions_));
  for (std::int64_t l = 0; l < layers_; ++l)
    for (std::int64_t k = 0; k < positions_; ++k) {
      double total = 0;
      for (std::int64_t h = 0; h < heads_; ++h) total += sum(l, h, k);
      out.push_back(total / (sequences_ * static_cast<double>(heads_)));
    }
  return out;
}

std::vector<double> SinkTally::scores() const {
  std::vector<double> out(static_cast<std::size_t>(positions_), 0.0);
  const std::vector<double> by_layer = layer_scores();
  for (std::size_t i = 0; i < by_layer.size(); ++i) out[i % out.size()] += by_layer[i];
  for (double& value : out) value /= static_cast<double>(layers_);
  return out;
}

std::vector<double> SinkTally::layer_rates() const {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(layers_ * positions_));
  for (std::int64_t l = 0; l < layers_; ++l)
    for (std::int64_t k = 0; k < positions_; ++k)
      out.push_back(count(l, k) / (sequences_ * static_cast<double>(heads_)));
  return out;
}

std::vector<double> SinkTally::rates(std::int64_t from_layer) const {
  if (from_layer >= layers_) return {};
  std::vector<double> out;
  for (std::int64_t k = 0; k < positions_; ++k) {
    double above = 0;
    double all = 0;
    for (std::int64_t l = from_layer; l < layers_; ++l) {
      above += count(l, k);
      all += sequences_ * static_cast<double>(heads_);
    }
    out.push_back(above / all);
  }
  return out;
}

}  // namespace sinkscope
