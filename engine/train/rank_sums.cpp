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

void sum_over_ranks(Communicator& communicator, LossSums& losses) {
  StepSums none;
  std::int64_t no_stops = 0;
  sum_over_ranks(communicator, losses, none, no_stops);
}

void sum_over_ranks(Communicator& communicator, LossSums& losses, StepSums& step, std::int64_t& stops) {
  const std::array counts = {&losses.targets, &losses.common_targets, &step.sequences, &step.attention_sequences,
                             &stops};
  const std::array parts = {&step.sink_scores, &step.sinks_above, &step.norm_first, &step.norm_rest,
                            &step.norm_ratio,  &step.entropy,     &step.key_mass};
  std::vector<double> all = {losses.all, losses.common};
  for (const std::int64_t* count : counts) all.push_back(static_cast<double>(*count));  // far below 2^53
  for (const std::vector<double>* part : parts) all.insert(all.end(), part->begin(), part->end());
  communicator.sum_and_max(all, step.amax);
  auto from = all.begin();
  losses.all = *from++;
  losses.common = *from++;
  for (std::int64_t* count : counts) *count = static_cast<std::int64_t>(*from++);
  for (std::vector<double>* part : parts) {
    std::copy_n(from, std::ssize(*part), part->begin());
    from += std::ssize(*part);
  }
}

}  // namespace sinkscope
