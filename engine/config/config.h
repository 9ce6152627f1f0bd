// The typed configuration of a run. Plain structs with their defaults; what each field means, its
// range and its JSON key are declared once in fields.h, from which the parser, the resolved dump,
// the JSON Schema and the reference are all generated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/enums.h"

namespace sinkscope {

/// The softmax of attention; no preset has another than the plain one.
struct AttentionConfig {
  AttentionSink sink = AttentionSink::none;
};

/// A pre-norm decoder. `preset` sets the defaults of every switch below it (fields a config names
/// win): gpt2 (Radford et al. 2019), llama (Touvron et al. 2023), qwen2 (Qwen team 2024), qwen3 (2025),
/// gpt_neox (Black et al. 2022), which is Pythia too (Biderman et al. 2023).
struct ModelConfig {
  ModelPreset preset = ModelPreset::llama;
  std::int64_t layers = 4;             // L
  std::int64_t channels = 128;         // C
  std::int64_t heads = 2;              // H
  std::int64_t kv_heads = 0;           // G; 0: as many as heads
  std::int64_t head_dim = 0;           // D; 0: channels / heads
  std::int64_t hidden = 0;             // F; 0: 4C, but 8C/3 rounded up to a multiple of 64 for swiglu
  std::int64_t vocab_size = 0;         // V; 0: that of the dataset
  std::int64_t max_sequence_length = 0;  // learned positions and the export's limit; 0: train.sequence_length
  NormType norm = NormType::rmsnorm;
  double norm_eps = 1e-5;
  PositionEncoding position = PositionEncoding::rope;
  double rope_theta = 10000.0;
  std::int64_t rotary_dim = 0;         // R; 0: head_dim
  MlpType mlp = MlpType::swiglu;
  bool bias = false;                   // in the linear layers of attention and MLP
  bool qkv_bias = false;               // of queries, keys and values, also where `bias` is false
  bool parallel_block = false;         // attention and MLP both read the block's input
  bool tied_embedding = false;
  bool qk_norm = false;
  AttentionConfig attention;
  InitScheme init = InitScheme::llama;
  double init_std = 0.02;
};

struct DataConfig {
  std::string path;                    // folder written by `sinkscope tokenize` (dataset.json inside)
  std::vector<std::string> train;      // or shard files (also GPT-2-style .bin), globs allowed
  std::vector<std::string> validation;
  BosPolicy bos = BosPolicy::none;
  std::int64_t bos_id = -1;            // -1: that of the dataset
  std::int64_t eos_id = -1;            // -1: that of the dataset
  /// Losses "on common targets" count the targets that every one of these policies predicts.
  std::vector<BosPolicy> common_targets = {BosPolicy::none, BosPolicy::sequence, BosPolicy::document};
};

struct OptimizerConfig {
  double learning_rate = 1e-3;         // peak
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;           // matrices only
  double clip_norm = 1.0;              // global; 0: no clipping
};

struct ScheduleConfig {
  ScheduleType type = ScheduleType::cosine;
  std::int64_t warmup_steps = 100;
  double final_fraction = 0.1;         // the last step runs at exactly this fraction of the peak
  double decay_fraction = 0.2;         // wsd: share of all steps spent decaying at the end
};

/// Extents of the model must be multiples of it for FP8 products.
constexpr std::int64_t kFp8Extents = 16;

struct TrainConfig {
  std::int64_t steps = 1000;
  std::int64_t micro_batch = 32;       // sequences per forward and backward pass
  std::int64_t gradient_accumulation = 1;
  std::int64_t sequence_length = 128;  // T
  Recompute recompute = Recompute::none;
  bool cuda_graph = true;
  std::int64_t seed = 1;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
};

struct EvaluationConfig {
  std::int64_t every = 100;            // steps; 0: only after the last step
  std::int64_t batches = 16;           // micro-batches of the validation stream
};

struct SampleConfig {
  std::int64_t every = 0;              // steps; 0: never
  std::int64_t tokens = 64;
  double temperature = 0.8;
  std::string prompt;
};

struct PhaseConfig {
  double onset = 2.0;                  // sink excess of position 0
  double plateau = 0.1;                // relative change over the window
  std::int64_t window = 10;            // W, probe passes
  std::int64_t confirm = 3;            // probe passes in a row before a phase is entered
};

struct ProbeConfig {
  bool enabled = true;                 // per-step statistics and probe passes
  std::int64_t positions = 8;          // K
  double sink_threshold = 0.3;         // eps
  std::int64_t every = 50;             // steps between probe passes; 0: never
  std::int64_t sequences = 16;         // of each probe set
  std::int64_t short_length = 64;      // T of the short natural-text set
  std::int64_t causal_every = 0;       // steps between causal tests; 0: never
  std::int64_t from_layer = 2;         // m of "sink rate of layers >= m"; at most L-1 unless named
  PhaseConfig phase;
};

struct CheckpointConfig {
  std::int64_t every = 500;            // steps; 0: only after the last step
  std::int64_t keep = 3;               // newest ones kept; 0: all
};

struct LogConfig {
  std::int64_t every = 1;              // steps between lines of metrics.jsonl
  std::int64_t console_every = 10;     // steps between plain console lines
  bool tensorboard = true;
  std::int64_t heatmap_every = 10;     // probe passes between TensorBoard images
};

/// When an event of kind "alert" is logged (engine/train/alerts.h defines each).
struct AlertConfig {
  std::int64_t window = 100;           // steps that loss and throughput are compared with
  double loss_spike = 8.0;             // robust standard deviations; 0: off
  bool non_finite = true;
  double sink_collapse = 0.5;          // of the largest excess; 0: off
  bool phase_change = true;
  double throughput_drop = 0.5;        // of the median; 0: off
  std::vector<std::string> command;    // argument vector run at every alert; empty: none
  double command_timeout = 10.0;       // seconds
};

/// One thing that an ablation varies, one arm a value: a dotted key and its values, or a name and
/// objects of dotted keys, which change together. Stored as JSON text, so that any field can vary.
struct AblationAxis {
  std::string key;
  std::vector<std::string> values;     // each a JSON value
};

/// Several processes that train one model together. Nothing here changes what is computed, but for rounding.
struct RanksConfig {
  std::int64_t gpus = 0;               // processes that `sinkscope train` starts, one a GPU; 0: as many as suit
  double start_timeout = 900.0;        // seconds
  double timeout = 120.0;              // seconds
  double bucket_megabytes = 32.0;      // of gradients that are summed at a time
  Shard shard = Shard::optimizer;      // what each rank keeps its share of alone
  ReduceDType reduce_dtype = ReduceDType::fp32;
  bool copy_engines = true;            // carry gradients and parameters between GPUs of one host
};

struct Config {
  std::string name = "run";
  std::string output = "runs";         // run directory is output/name
  Device device = Device::automatic;
  Precision precision = Precision::automatic;
  std::int64_t threads = 0;            // CPU threads; 0: all
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  EvaluationConfig evaluation;
  SampleConfig sample;
  ProbeConfig probes;
  CheckpointConfig checkpoint;
  LogConfig log;
  AlertConfig alerts;
  RanksConfig ranks;
  std::vector<AblationAxis> ablation;  // used by `sinkscope ablate` only
  /// Dotted keys whose values follow from the preset or from sizes of the model, not from the
  /// file or an override. Not part of the JSON: an ablation that varies what they follow from
  /// derives them anew for each arm.
  std::vector<std::string> derived;
};

}  // namespace sinkscope
