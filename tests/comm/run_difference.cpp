#include "tests/comm/run_difference.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/metrics/sinks.h"

namespace sinkscope::test {
namespace {

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const double apart = std::abs(a[i] - b[i]) / (1e-3 + std::abs(b[i]));
    if (!(apart <= largest)) largest = std::isnan(apart) ? INFINITY : apart;
  }
  return largest;
}

}  // namespace

double step_difference(const std::filesystem::path& a, const std::filesystem::path& b) {
  const std::vector<StepRecord> first = read_step_records(a), second = read_step_records(b);
  if (first.size() != second.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const StepRecord &x = first[i], &y = second[i];
    if (x.step != y.step || x.tokens != y.tokens || x.validation_loss.has_value() != y.validation_loss.has_value())
      return INFINITY;
    largest = std::max({largest,
                        difference({x.loss, x.loss_common, x.gradient_norm, x.learning_rate,
                                    x.validation_loss.value_or(0), x.validation_loss_common.value_or(0)},
                                   {y.loss, y.loss_common, y.gradient_norm, y.learning_rate,
                                    y.validation_loss.value_or(0), y.validation_loss_common.value_or(0)}),
                        difference(x.sink_score, y.sink_score), difference(x.sink_score_layer, y.sink_score_layer),
                        difference(x.residual_norm, y.residual_norm),
                        difference(x.residual_norm_rest, y.residual_norm_rest), difference(x.norm_ratio, y.norm_ratio),
                        difference(x.gradient_norm_attention, y.gradient_norm_attention),
                        difference(x.gradient_norm_mlp, y.gradient_norm_mlp), difference(x.entropy, y.entropy),
                        difference(x.key_mass, y.key_mass)});
    // Shares of (sequence, layer, head): one that stands at the threshold may fall on either side.
    if (x.sink_rate.size() != y.sink_rate.size()) return INFINITY;
    for (std::size_t k = 0; k < x.sink_rate.size(); ++k)
      if (!(std::abs(x.sink_rate[k] - y.sink_rate[k]) <= 1.5 / (8 * 3 * 2))) return INFINITY;
  }
  return largest;
}

double probe_difference(const std::filesystem::path& a, const std::filesystem::path& b) {
  const std::vector<ProbeRecord> first = read_probe_records(a), second = read_probe_records(b);
  if (first.size() != second.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (first[i].step != second[i].step || first[i].set != second[i].set) return INFINITY;
    largest = std::max({largest, difference(first[i].sink_score, second[i].sink_score),
                        difference(first[i].residual_norm, second[i].residual_norm),
                        difference({first[i].loss}, {second[i].loss})});
  }
  return largest;
}

}  // namespace sinkscope::test
