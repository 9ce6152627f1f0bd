// What is measured of a step's sequences, summed over the ranks that computed them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/data/sampler.h"
#include "engine/model/step_statistics.h"

namespace sinkscope {

/// Sums of a loss over all targets and over the common ones.
struct LossSums {
  double all = 0, common = 0;
  std::int64_t targets = 0, common_targets = 0;

  void add(const std::vector<float>& losses, const Batch& batch);
  double mean() const { return all / static_cast<double>(targets); }
  double mean_common() const { return common / static_cast<double>(common_targets); }
};

/// Collective, one message between the ranks; in one process nothing changes.
void sum_over_ranks(Communicator& communicator, LossSums& losses);
/// `stops` of a rank: 1 where it was told to stop, else 0.
void sum_over_ranks(Communicator& communicator, LossSums& losses, StepSums& step, std::int64_t& stops);

}  // namespace sinkscope
