// The batches that a run trains on: the one place that decides which window comes when.
#pragma once

#include <cstdint>
#include <future>

#include "engine/config/config.h"
#include "engine/data/dataset.h"
#include "engine/data/sampler.h"

namespace sinkscope {

/// The config with what it leaves to the dataset filled in. Throws ConfigError.
Config complete_config(Config config, const Dataset& dataset);

/// How windows are cut for a completed config, in training and in validation.
Windows::Options window_options(const Config& config);

/// complete_config, when the dataset has what the run needs: a window of training text, and of held-out text where
/// there is any, held-out text for probe passes, the tokenizer for samples. Throws ConfigError and
/// std::runtime_error naming the key or the shard.
Config run_config(const Config& loaded, const Dataset& dataset);

/// The sequences of a run, drawn from the training stream in the order of its seed. The place in
/// the data is one number, the count of windows drawn.
class TrainingBatches {
 public:
  /// `config` is completed; the dataset must outlive the batches. Throws as Windows does.
  TrainingBatches(const Dataset& dataset, const Config& config);

  /// Makes `batch` (sequences, sequence_length) of the windows from number `sample` on.
  void draw(std::int64_t sample, std::int64_t sequences, Batch& batch) const;

 private:
  Windows windows_;
  ShuffledOrder order_;
};

/// Batches drawn on a thread of their own while the one before is trained on.
class BatchQueue {
 public:
  BatchQueue(const Dataset& dataset, const Config& config) : batches_(dataset, config) {}

  /// Begins to draw what take() is expected to ask for next.
  void fetch(std::int64_t sample, std::int64_t sequences);
  /// The batch of TrainingBatches::draw, good until the next call: the one fetched, or drawn now. Throws what drawing
  /// throws.
  const Batch& take(std::int64_t sample, std::int64_t sequences);

 private:
  TrainingBatches batches_;
  Batch current_, next_;
  std::int64_t sample_ = 0, sequences_ = 0;  // of the next
  std::future<void> drawn_;                  // last: its thread ends before what it writes to does
};

}  // namespace sinkscope
