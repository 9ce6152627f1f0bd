// The causal tests of METRICS section 3: what a frozen model's sink needs, and whether it can be moved.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/probes/bootstrap.h"
#include "engine/probes/probe_sets.h"
#include "kernels/ops.h"

namespace sinkscope {

struct CausalOptions {
  std::int64_t position = 4;          // p, where a sink is to be made; 0 < p < T, below the decoder's sink_positions
  std::int64_t isolated_layers = 2;   // layers 0..n-1 in which p attends to itself alone
  std::int64_t rotary_shift = 16;     // of position 0; left out where T is not longer
  double sink_threshold = 0.3;        // eps
  std::int64_t resamples = 2000;
  double confidence = 0.95;
  std::uint64_t seed = 1;
};

/// What a pass measured at a position. `score`: mean sink score over layers and heads; `excess`: the same over u_k;
/// `rate`: share of (layer, head) above eps; `ratio`: largest norm over the blocks, in units of the mean norm of the
/// positions that are neither 0 nor p.
struct SinkEstimates {
  Estimate score, excess, rate, ratio;
};

/// One pass of the model with one edit.
struct CausalTest {
  std::string kind;                     // "none", "knock_out_mlp", "knock_out_attention", "transplant",
                                        // "transplant_random_direction", "transplant_small", "isolate", "rotary_shift"
  std::optional<std::int64_t> layer;    // edited; the number of layers for "isolate", the index for "rotary_shift"
  SinkEstimates first, other;           // at position 0 and at p
  Estimate loss;                        // nats
  // Against the pass without edit, paired by sequence.
  Estimate score_change, other_score_change, loss_change;
  Estimate removed;  // (excess_0 before - after) / (excess_0 before - 1): of the sink at 0
  Estimate moved;    // (excess_p after - before) / (excess_0 before - 1): what appears at p, in units of the sink at 0
};

/// A probe set through the model as it is.
struct CausalControl {
  std::string set;
  std::int64_t length = 0, sequences = 0;
  bool with_bos = false;
  SinkEstimates first;
  Estimate loss;
};

struct CausalRecord {
  std::string set;                      // of the tests
  std::int64_t length = 0, sequences = 0;
  bool with_bos = false;
  std::int64_t position = 0;            // p
  double sink_threshold = 0, confidence = 0;
  std::int64_t resamples = 0;
  /// Excess of position 0 at or above 2, whatever probes.phase.onset, at its interval's lower end.
  bool sink_formed = false;
  std::optional<std::int64_t> step_up_layer;
  std::int64_t source_layer = 0;        // l*, or the layer of the largest R where there is none; below the last layer
  std::vector<CausalTest> tests;        // the first is without edit
  std::vector<CausalControl> controls;  // the first is the set of the tests
};

/// How far the tests are: passes with an edit or of a control that are done, of all, and the share of their tokens.
struct CausalProgress {
  std::int64_t done = 0, passes = 0;
  double share = 0;
};

/// Runs the tests by forward passes of a decoder, which stays as it is. Tests, in this order: none; the MLP's
/// contribution to position 0 knocked out in each layer; the attention's; in each layer l but the last, h^l_0 (mean
/// direction over sequences, at the mean norm) written to p; at the source layer (with more than one), a random
/// direction of that norm, and the direction at the mean norm of the other positions; p isolated in the first n layers,
/// for n = isolated_layers, source layer + 1 and all; the rotary index of position 0 shifted.
class CausalTests {
 public:
  /// `decoder` needs sink_positions > options.position and residual_norms; it and `ops` must outlive the tests.
  /// Throws std::invalid_argument naming the option that does not fit.
  CausalTests(Ops& ops, Decoder& decoder, const CausalOptions& options);
  ~CausalTests();
  CausalTests(CausalTests&&) noexcept;

  /// `set` of at least 2 sequences, longer than p; controls may have other lengths that fit. `progress` is told after
  /// the pass without edit, and after every one from there on.
  CausalRecord run(const ProbeSet& set, std::span<const ProbeSet> controls,
                   const std::function<void(const CausalProgress&)>& progress = {});

  /// What the constructor takes on the device, before it takes it.
  static std::vector<MemoryLine> memory_plan(const ModelConfig& model, DType compute_dtype);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The options of a run: p = 4, or the last position that is watched.
CausalOptions causal_options(const ProbeConfig& config);

/// Of a run's sets the one to test on: the short twin of the set that the phases are read from, that set where there
/// is no such twin, else the first.
const ProbeSet& causal_probe_set(std::span<const ProbeSet> sets, BosPolicy bos);

nlohmann::ordered_json to_json(const CausalRecord& record);
/// The reverse. Throws std::runtime_error naming the key that is missing or has the wrong type.
CausalRecord causal_record_from_json(const nlohmann::ordered_json& json);

/// What A[p,p] = 1 in the n of L layers of an "isolate" test adds to `moved` by itself: at most n / (L (T-p)) of a sink
/// score, in units of the sink at 0.
double isolation_by_itself(const CausalRecord& record, const CausalTest& test);

/// A share and its interval: "71 % [68, 74]"; with "-" for each that is not finite.
std::string share_text(const Estimate& share);

/// What the tests say, in one line.
std::string causal_summary(const CausalRecord& record);

/// What the tests say, one statement an entry, in plain words.
std::vector<std::string> causal_reading(const CausalRecord& record);

}  // namespace sinkscope
