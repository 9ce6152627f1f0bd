// Batches that are drawn ahead of their use.
#include <string>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/train/training_batches.h"
#include "tests/catch.h"
#include "tests/train/support.h"

namespace sinkscope {
namespace {

bool same_batch(const Batch& a, const Batch& b) {
  return a.sequences == b.sequences && a.length == b.length && a.inputs == b.inputs && a.targets == b.targets &&
         a.common == b.common;
}

TEST_CASE("a queue gives the batches that are asked for, fetched before or not") {
  test::TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config loaded = test::small_config(folder.path());
  const Dataset dataset = open_dataset(loaded.data);
  const Config config = run_config(loaded, dataset);
  const TrainingBatches batches(dataset, config);
  BatchQueue queue(dataset, config);
  const auto drawn = [&](std::int64_t sample, std::int64_t sequences) {
    Batch batch;
    batches.draw(sample, sequences, batch);
    return batch;
  };
  REQUIRE_FALSE(same_batch(drawn(0, 2), drawn(2, 2)));
  CHECK(same_batch(queue.take(0, 2), drawn(0, 2)));  // not fetched
  queue.fetch(2, 2);
  CHECK(same_batch(queue.take(2, 2), drawn(2, 2)));
  queue.fetch(4, 2);
  CHECK(same_batch(queue.take(7, 3), drawn(7, 3)));  // another than was fetched
  queue.fetch(10, 2);
  const Batch& current = queue.take(10, 2);
  queue.fetch(12, 1);  // while the current one is read
  CHECK(same_batch(current, drawn(10, 2)));
  CHECK(same_batch(queue.take(12, 1), drawn(12, 1)));
  queue.fetch(13, 1);
  CHECK(same_batch(queue.take(13, 2), drawn(13, 2)));
  queue.fetch(20, 2);  // never taken
}

}  // namespace
}  // namespace sinkscope
