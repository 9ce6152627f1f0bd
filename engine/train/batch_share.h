// How the sequences of a step are dealt to the ranks.
#pragma once

#include <cstdint>

#include "engine/config/config.h"

namespace sinkscope {

/// A rank's sequences of each step: as many on each rank, one behind the other in the order of the step's draw, so
/// that the step as a whole is the same for every number of ranks.
struct BatchShare {
  std::int64_t sequences = 0;  // of the step, on all ranks: train.micro_batch * train.gradient_accumulation
  std::int64_t first = 0;      // of this rank, counted within the step
  std::int64_t own = 0;        // of this rank
  std::int64_t passes = 0;     // that the rank takes for them, the fewest with at most train.micro_batch each
  std::int64_t rows = 0;       // of a pass; the last may have fewer

  struct Pass {
    std::int64_t first = 0, rows = 0;  // sequences, counted within the step
  };
  Pass pass(std::int64_t index) const;
};

/// Throws ConfigError where the sequences of a step cannot be dealt evenly.
BatchShare batch_share(const TrainConfig& train, int rank, int ranks);

/// The largest number of ranks up to `most` that the sequences of a step can be dealt to.
int most_ranks(const TrainConfig& train, int most);

/// The config with the sequences that a pass has on one of `ranks` as train.micro_batch: what its memory is planned by.
Config config_of_rank(Config config, int ranks);

}  // namespace sinkscope
