#include <set>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/batch_share.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

TrainConfig step_of(std::int64_t micro_batch, std::int64_t accumulation) {
  TrainConfig train;
  train.micro_batch = micro_batch;
  train.gradient_accumulation = accumulation;
  return train;
}

TEST_CASE("the ranks' passes cover every sequence of a step once, in its order, none with more than a micro-batch") {
  for (const auto& [micro_batch, accumulation] :
       {std::pair(32, 1), std::pair(3, 8), std::pair(5, 12), std::pair(64, 4)}) {
    const TrainConfig train = step_of(micro_batch, accumulation);
    for (int ranks = 1; ranks <= 24; ++ranks) {
      if (micro_batch * accumulation % ranks != 0) continue;
      INFO(micro_batch << " x " << accumulation << " on " << ranks);
      std::int64_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const BatchShare share = batch_share(train, rank, ranks);
        CHECK(share.own * ranks == share.sequences);
        CHECK(share.rows <= micro_batch);
        for (std::int64_t i = 0; i < share.passes; ++i) {
          const auto [first, rows] = share.pass(i);
          CHECK(first == next);
          CHECK(rows > 0);
          CHECK(rows <= share.rows);
          next = first + rows;
        }
      }
      CHECK(next == micro_batch * accumulation);
    }
  }
}

TEST_CASE("one rank takes the passes that the config says, several no more than they need") {
  const BatchShare alone = batch_share(step_of(3, 8), 0, 1);
  CHECK(alone.passes == 8);
  CHECK(alone.rows == 3);
  CHECK(batch_share(step_of(3, 8), 1, 4).passes == 2);
  const BatchShare split = batch_share(step_of(32, 1), 3, 4);
  CHECK(split.passes == 1);
  CHECK(split.rows == 8);
  CHECK(split.first == 24);
  CHECK(config_of_rank(Config{}, 4).train.micro_batch == 8);
}

TEST_CASE("a step that cannot be dealt evenly is refused with what can be done") {
  CHECK(test::message_of([] { static_cast<void>(batch_share(step_of(4, 2), 0, 3)); }) ==
        "train.micro_batch (4) times train.gradient_accumulation (2) is 8 sequences a step, which 3 ranks cannot share "
        "evenly; the largest number of ranks up to that is 2");
  CHECK(most_ranks(step_of(4, 2), 8) == 8);
  CHECK(most_ranks(step_of(4, 2), 7) == 4);
  CHECK(most_ranks(step_of(7, 1), 6) == 1);
}

}  // namespace
}  // namespace sinkscope
