#include "engine/train/training_batches.h"

#include <utility>

#include "engine/config/load.h"
#include "engine/train/run_memory.h"

namespace sinkscope {

Config complete_config(Config config, const Dataset& dataset) {
  resolve_with_dataset(config, dataset.vocab_size, dataset.bos_id, dataset.eos_id);
  return config;
}

Windows::Options window_options(const Config& config) {
  return {.length = config.train.sequence_length,
          .bos = config.data.bos,
          .bos_id = static_cast<std::int32_t>(config.data.bos_id),
          .eos_id = static_cast<std::int32_t>(config.data.eos_id),
          .common_targets = config.data.common_targets};
}

Config run_config(const Config& loaded, const Dataset& dataset) {
  Config config = complete_config(loaded, dataset);
  static_cast<void>(TrainingBatches(dataset, config));
  if (dataset.validation) static_cast<void>(Windows(*dataset.validation, window_options(config)));
  if (has_probe_passes(config.probes) && !dataset.validation)
    throw ConfigError(config.name + ": probe passes need held-out text, and the dataset has none; make it "
                      "anew with --validation-fraction (or give data.validation beside data.train), or set "
                      "probes.every to 0");
  if (config.sample.every > 0 && dataset.tokenizer != "byte" && dataset.tokenizer_path.empty())
    throw ConfigError(config.name + ": sampling needs the tokenizer, which the dataset does not name; set "
                      "sample.every to 0");
  return config;
}

TrainingBatches::TrainingBatches(const Dataset& dataset, const Config& config)
    : windows_(*dataset.train, window_options(config)),
      order_(windows_.count(), static_cast<std::uint64_t>(config.train.seed)) {}

void TrainingBatches::draw(std::int64_t sample, std::int64_t sequences, Batch& batch) const {
  windows_.resize(batch, sequences);
  for (std::int64_t row = 0; row < sequences; ++row) windows_.fill(order_.window(sample + row), row, batch);
}

void BatchQueue::fetch(std::int64_t sample, std::int64_t sequences) {
  if (drawn_.valid()) drawn_.wait();
  sample_ = sample;
  sequences_ = sequences;
  drawn_ = std::async(std::launch::async, [this, sample, sequences] { batches_.draw(sample, sequences, next_); });
}

const Batch& BatchQueue::take(std::int64_t sample, std::int64_t sequences) {
  if (!drawn_.valid() || sample != sample_ || sequences != sequences_) fetch(sample, sequences);
  drawn_.get();
  std::swap(current_, next_);
  return current_;
}

}  // namespace sinkscope
