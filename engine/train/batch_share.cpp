#include "engine/train/batch_share.h"

#include <algorithm>
#include <string>

#include "engine/config/load.h"

namespace sinkscope {

BatchShare::Pass BatchShare::pass(std::int64_t index) const {
  const std::int64_t begin = index * rows;
  return {.first = first + begin, .rows = std::min(rows, own - begin)};
}

BatchShare batch_share(const TrainConfig& train, int rank, int ranks) {
  BatchShare share{.sequences = train.micro_batch * train.gradient_accumulation};
  if (share.sequences % ranks != 0)
    throw ConfigError("train.micro_batch (" + std::to_string(train.micro_batch) +
                      ") times train.gradient_accumulation (" + std::to_string(train.gradient_accumulation) + ") is " +
                      std::to_string(share.sequences) + " sequences a step, which " + std::to_string(ranks) +
                      " ranks cannot share evenly; the largest number of ranks up to that is " +
                      std::to_string(most_ranks(train, ranks)));
  share.own = share.sequences / ranks;
  share.first = rank * share.own;
  share.passes = (share.own + train.micro_batch - 1) / train.micro_batch;
  share.rows = (share.own + share.passes - 1) / share.passes;
  return share;
}

int most_ranks(const TrainConfig& train, int most) {
  const std::int64_t sequences = train.micro_batch * train.gradient_accumulation;
  int ranks = std::max(most, 1);
  while (sequences % ranks != 0) --ranks;
  return ranks;
}

Config config_of_rank(Config config, int ranks) {
  config.train.micro_batch = batch_share(config.train, 0, ranks).rows;
  return config;
}

}  // namespace sinkscope
