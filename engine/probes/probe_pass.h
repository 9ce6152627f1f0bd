// A probe pass: every probe set through the model, and everything that METRICS sections 1 to 3
// define read off its activations.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"
#include "engine/model/decoder.h"
#include "engine/probes/probe_sets.h"
#include "kernels/ops.h"

namespace sinkscope {

/// Runs the probe sets through a decoder between training steps. It runs forward passes alone, so
/// parameters, gradients and optimizer state stay as they are; the activations of the last training
/// step are overwritten, which the next one does too. Sets that are larger than the decoder's batch
/// go through in parts; every number is over the whole set all the same.
///
/// Quantities that are not defined are NaN: norms at t >= K when K is the whole sequence, directions
/// of a single sequence, and whatever a diverged model yields. A dominant position is then -1.
class ProbePass {
 public:
  /// Allocates all buffers, for the larger of the sets. `ops` and `decoder` must outlive the pass.
  /// Throws std::invalid_argument naming the set that is malformed, shorter than 2 or than
  /// config.positions, or longer than the decoder's max_length.
  ProbePass(Ops& ops, Decoder& decoder, const ProbeConfig& config, std::vector<ProbeSet> sets);
  ~ProbePass();
  ProbePass(ProbePass&&) noexcept;

  /// One record a set, in order, for a model that has seen `step` steps and `tokens` tokens.
  std::vector<ProbeRecord> run(std::int64_t step, std::int64_t tokens);

  const std::vector<ProbeSet>& sets() const;

  /// Sequences of a set that go through a decoder of these options at once.
  static std::int64_t batch_sequences(const DecoderOptions& options, const ProbeSet& set);

  /// What the constructor takes on the device, before it takes it: arena "probes". Of the sets only
  /// extents count.
  static std::vector<MemoryLine> memory_plan(const ModelConfig& model, const DecoderOptions& options,
                                             const ProbeConfig& config, std::span<const ProbeSet> sets,
                                             DType compute_dtype);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sinkscope
