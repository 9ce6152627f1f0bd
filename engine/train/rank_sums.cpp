#include "engine/train/rank_sums.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace sinkscope {

void LossSums::add(const std::vector<float>& losses, const Batch& batch) {
  for (std::size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] < 0) continue;
    all += losses[i];
    ++targets;
    if (batch.common[i] == 0) continue;
    common += losses[i];
    ++common_targets;
  }
}

void sum_over_ranks(Communicator& communicator, LossSums& sums) {
  std::array<double, 2> losses = {sums.all, sums.common};
  std::array<std::int64_t, 2> counts = {sums.targets, sums.common_targets};
  communicator.sum(std::span<double>(losses));
  communicator.sum(std::span<std::int64_t>(counts));
  sums = {.all = losses[0], .common = losses[1], .targets = counts[0], .common_targets = counts[1]};
}

void sum_over_ranks(Communicator& communicator, StepSums& sums) {
  std::array<std::int64_t, 2> counts = {sums.sequences, sums.attention_sequences};
  communicator.sum(std::span<std::int64_t>(counts));
  sums.sequences = counts[0];
  sums.attention_sequences = counts[1];
  std::vector<double> all;
  const std::array parts = {&sums.sink_scores, &sums.sinks_above, &sums.norm_first, &sums.norm_rest,
                            &sums.norm_ratio,  &sums.entropy,     &sums.key_mass};
  for (const std::vector<double>* part : parts) all.insert(all.end(), part->begin(), part->end());
  communicator.sum(std::span<double>(all));
  auto from = all.begin();
  for (std::vector<double>* part : parts) {
    std::copy_n(from, std::ssize(*part), part->begin());
    from += std::ssize(*part);
  }
}

}  // namespace sinkscope
