// Whole training steps and probe passes on random tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/decoder.h"
#include "engine/model/fp8_scales.h"
#include "engine/optim/adamw.h"
#include "engine/probes/probe_pass.h"
#include "kernels/ops.h"

namespace sinkscope {

/// The middle value, of an even count the upper of two. `values` must not be empty.
double median(std::vector<double> values);

/// A model, its optimizer and one batch, which every step trains on.
class StepBench {
 public:
  /// `config` must be complete; `probes` switches the per-step probes.
  StepBench(Ops& ops, const Config& config, bool probes);

  void initialize();
  void copy_weights(const StepBench& other);
  /// Seconds of one step as a run's loop sees it: until the host has its numbers, while the device still updates the
  /// weights, which the next step's time holds. `measured`: it also takes attention entropy and key mass of its batch,
  /// as a step before a probe pass does.
  double step(bool measured = false);
  /// Seconds of one probe pass over all probe sets; the first call also allocates it.
  double probe_pass();

  const Decoder& decoder() const { return decoder_; }
  const ParameterLayout& layout() const { return decoder_.layout(); }
  /// Bytes that a StepBench plans for on the device.
  static std::size_t planned_bytes(const Ops& ops, const Config& config, bool probes);

 private:
  Tensor weights() const { return optimizer_.weights(decoder_.parameters()); }

  Ops& ops_;
  Config config_;
  Decoder decoder_;
  AdamW optimizer_;
  std::optional<ProbePass> probes_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> losses_;
  Fp8History fp8_;
  std::int64_t steps_ = 0;
};

}  // namespace sinkscope
