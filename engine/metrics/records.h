// What a run writes down: one record a line in metrics.jsonl, probes.jsonl and events.jsonl. These
// structs are the one definition of the log formats; training writes them, compare, monitor and the
// report read them.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

/// The phases of the sink (METRICS.md section 4), in the order in which a run meets them.
inline constexpr std::array<std::string_view, 3> kPhaseNames = {"wandering", "transition", "stable"};

/// One training step (metrics.jsonl). Steps count from 1; `tokens` seen after it. Losses in nats.
struct StepRecord {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double loss = 0;                 // mean over all targets of the step
  double loss_common = 0;          // mean over the targets common to the ablation's BOS policies
  std::optional<double> validation_loss;         // on evaluation steps
  std::optional<double> validation_loss_common;
  double learning_rate = 0;
  double gradient_norm = 0;        // global, before clipping
  double step_seconds = 0;
  double tokens_per_second = 0;
  std::optional<double> mfu;       // share of the GPU's datasheet peak; where that is known (gpu_peak.h)
  // Per-step probes of the training batch; empty when probes are off.
  std::vector<double> sink_score;           // [K] mean over sequences, layers, heads
  std::vector<double> sink_rate;            // [K] share of (sequence, layer, head) above eps
  std::vector<double> sink_score_layer;     // [L] of position 0
  // METRICS.md section 2, by the names of a probe pass; row 0 is the embedding output.
  std::vector<double> residual_norm;        // [(L+1)*K]
  std::vector<double> residual_norm_rest;   // [L+1] mean over t >= K; NaN when K is the whole sequence
  std::vector<double> norm_ratio;           // [L+1] R, of each sequence by itself
  std::vector<double> gradient_norm_attention;  // [L]
  std::vector<double> gradient_norm_mlp;        // [L]
  // METRICS.md section 1, of the training batch, before the step's update; on the steps that probe passes follow alone.
  // To the precision of float, as in a ProbeRecord's line (as_logged).
  std::vector<double> entropy;                  // [L*H] mean over sequences
  std::vector<double> key_mass;                 // [L*T] mean over sequences and heads
};

/// One probe set of one probe pass (probes.jsonl); METRICS.md sections 1 and 2. Layer-major.
/// Means over the set's sequences unless said otherwise.
struct ProbeRecord {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  std::string set;        // "natural", "natural_bos", "natural_short", "natural_short_bos", "random", "repeated"
  std::int64_t length = 0;     // T
  std::int64_t sequences = 0;
  bool with_bos = false;
  double loss = 0;
  std::int64_t layers = 0, heads = 0, kv_heads = 0, positions = 0;
  // Section 1.
  std::vector<double> sink_score;        // [L*H*K] mean over sequences
  std::vector<double> sink_rate;         // [K] over (sequence, layer, head)
  std::vector<double> sink_rate_layer;   // [L*K]
  std::vector<double> sink_rate_from;    // [K] over layers >= from_layer
  std::vector<double> sink_excess;       // [K] (mean sink score / u_k)
  std::int64_t dominant_position = 0;
  std::vector<std::int64_t> dominant_position_layer;  // [L]
  std::vector<double> first_token_mass;   // [L*H]
  std::vector<double> first_token_argmax; // [L*H]
  std::vector<double> entropy;            // [L*H]
  std::vector<double> key_mass;           // [L*T] mean over sequences and heads
  /// [L] mean over (sequence, head, query) of exp(z - lse); empty without sink logits.
  std::vector<double> sink_logit_mass;
  // Section 2. "h" index 0 is the embedding output, so L+1 rows.
  std::vector<double> residual_norm;       // [(L+1)*K]
  std::vector<double> residual_norm_rest;  // [L+1] mean over t >= K
  std::vector<double> norm_ratio;          // [L+1] R of h^-1, h^0, ...
  std::vector<double> attention_output_norm, attention_output_norm_rest;  // [L*K], [L]
  std::vector<double> mlp_output_norm, mlp_output_norm_rest;              // [L*K], [L]
  std::vector<double> mlp_amplification;   // [L] G
  std::vector<double> key_norm_first, key_norm_rest;      // [L*G]: P0, mean over t >= 1
  std::vector<double> value_norm_first, value_norm_rest;  // [L*G]
  std::vector<double> cosine_first, cosine_rest;          // [L*H]
  std::vector<double> massive_ratio;       // [L]
  std::vector<std::int64_t> massive_position, massive_channel;  // [L]
  std::vector<double> direction_stability, direction_stability_middle;  // [L]
  // Section 3, from the norms above; absent when undefined.
  std::optional<std::int64_t> step_up_layer;     // l*
  std::optional<double> concentration;           // C2
  // Section 4, of the set that the phases are read from alone: what stands beside the loss.
  std::optional<std::string> phase;              // after this pass; one of kPhaseNames
  std::optional<double> excess_slope;            // relative change of P0's excess over the window, once it is full
  std::optional<double> dominant_share;          // share of the window's passes that position 0 leads
  std::optional<double> validation_loss_slope;   // relative change over the last validation losses, from three on
};

/// Something that happened (events.jsonl): "start", "resume", "phase", "alert" (an Alert of engine/train/alerts.h),
/// "checkpoint", "warning", "sample", "causal" (a CausalRecord of engine/probes/causal.h), "end". `data` is JSON text
/// of an object with the details.
struct EventRecord {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  std::string kind;
  std::string message;
  std::string data = "{}";
};

/// A number as the lists of a ProbeRecord's line hold it, to the precision of float and in its shortest digits: what is
/// decided from such a number while training can then be decided again, to the bit, from the log.
double as_logged(double value);

// JSON of a record. Non-finite numbers become the strings "NaN", "Infinity", "-Infinity", and are
// read back from them, so that every line is valid JSON.
nlohmann::ordered_json to_json(const StepRecord& record);
nlohmann::ordered_json to_json(const ProbeRecord& record);
nlohmann::ordered_json to_json(const EventRecord& record);
// Throw std::runtime_error naming the key that is missing or has the wrong type.
StepRecord step_record_from_json(const nlohmann::ordered_json& json);
ProbeRecord probe_record_from_json(const nlohmann::ordered_json& json);
EventRecord event_record_from_json(const nlohmann::ordered_json& json);

}  // namespace sinkscope
