// The one definition of every configuration field: JSON key, struct member, limits, description.
// `visit_fields<Section>(visitor)` shows a visitor the fields of one struct in order; parser, dump,
// schema and reference are such visitors. Defaults are those of the structs.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include "engine/config/config.h"

namespace sinkscope {

/// Nothing beyond the type: booleans, enums, sections.
struct Unlimited {};

struct IntegerLimits {
  std::int64_t minimum = 0;
  std::int64_t maximum = std::numeric_limits<std::int64_t>::max();
};

/// `above`, `below`: the bound itself is excluded. An infinite maximum: no bound but finiteness.
struct NumberLimits {
  double minimum = 0;
  double maximum = std::numeric_limits<double>::infinity();
  bool above = false;
  bool below = false;
};

enum class TextForm : std::uint8_t {
  any,
  path,      // no NUL
  required,  // a path that is not empty
  name,      // parts of [A-Za-z0-9_.,=+-] separated by '/', each beginning with [A-Za-z0-9_]
};
struct TextLimits {
  TextForm form = TextForm::any;
};

struct ListLimits {
  bool nonempty_and_unique = false;
  bool arguments = false;  // a program and its arguments, not file names
};

template <class Owner, class Value, class Limits>
struct Field {
  std::string_view key;
  Value Owner::* member;
  Limits limits;
  std::string_view description;
};

template <class T>
inline constexpr bool kIsSection =
    std::is_same_v<T, AttentionConfig> || std::is_same_v<T, ModelConfig> || std::is_same_v<T, DataConfig> ||
    std::is_same_v<T, OptimizerConfig> || std::is_same_v<T, ScheduleConfig> || std::is_same_v<T, TrainConfig> ||
    std::is_same_v<T, EvaluationConfig> || std::is_same_v<T, SampleConfig> || std::is_same_v<T, PhaseConfig> ||
    std::is_same_v<T, ProbeConfig> || std::is_same_v<T, CheckpointConfig> || std::is_same_v<T, LogConfig> ||
    std::is_same_v<T, AlertConfig> || std::is_same_v<T, RanksConfig>;

inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 20;   // sequence lengths
inline constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxSteps = 1'000'000'000;
inline constexpr NumberLimits kFraction{0.0, 1.0};
inline constexpr NumberLimits kPositive{.minimum = 0.0, .above = true};

template <class Section>
struct SectionFields;  // visit(visitor) calls visitor(Field) for each field, in order

template <>
struct SectionFields<AttentionConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = AttentionConfig;
    visitor(Field{"sink", &S::sink, Unlimited{},
                  "a logit of each head in the softmax of every query, with no key and no value, so that the weights "
                  "on keys sum to less than 1; off_by_one: 0, which adds 1 to the sum of exponentials; learned: a "
                  "parameter of each layer and head, which begins at 0 and does not decay"});
  }
};

template <>
struct SectionFields<ModelConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = ModelConfig;
    visitor(Field{"preset", &S::preset, Unlimited{}, "family whose switches are the defaults of the fields below"});
    visitor(Field{"layers", &S::layers, IntegerLimits{1, 1024}, "decoder blocks, L"});
    visitor(Field{"channels", &S::channels, IntegerLimits{1, 131072}, "width of the residual stream, C"});
    visitor(Field{"heads", &S::heads, IntegerLimits{1, 1024}, "query heads, H"});
    visitor(Field{"kv_heads", &S::kv_heads, IntegerLimits{0, 1024},
                  "key and value heads, a divisor of heads; 0: as many as heads"});
    visitor(Field{"head_dim", &S::head_dim, IntegerLimits{0, 1024}, "channels of a head, D; 0: channels / heads"});
    visitor(Field{"hidden", &S::hidden, IntegerLimits{0, 1 << 20},
                  "width of the MLP; 0: 4 channels for gelu and gelu_erf, 8/3 channels rounded up to a multiple of 64 "
                  "for swiglu"});
    visitor(Field{"vocab_size", &S::vocab_size, IntegerLimits{0, kMaxVocab},
                  "rows of the embedding, at least 2; 0: the dataset's vocabulary; more than that pads it with rows "
                  "that no token uses, to a size that matrix units like, such as 50304 for GPT-2's 50257"});
    visitor(Field{"max_sequence_length", &S::max_sequence_length, IntegerLimits{0, kMaxTokens},
                  "learned positions, and the limit that an export states, in tokens; 0: train.sequence_length"});
    visitor(Field{"norm", &S::norm, Unlimited{}, "normalisation before attention, before the MLP and at the end"});
    visitor(Field{"norm_eps", &S::norm_eps, NumberLimits{0.0, 1.0, true},
                  "added to the variance or mean square inside a norm"});
    visitor(Field{"position", &S::position, Unlimited{}, "position encoding"});
    visitor(Field{"rope_theta", &S::rope_theta, NumberLimits{1.0}, "base of the rotary frequencies"});
    visitor(Field{"rotary_dim", &S::rotary_dim, IntegerLimits{0, 1024},
                  "channels of a head that rope rotates, the first ones, an even number; 0: head_dim, which unless "
                  "named is head_dim / 4 with preset gpt_neox"});
    visitor(
        Field{"mlp", &S::mlp, Unlimited{}, "MLP and its activation; gelu is the tanh form, gelu_erf the exact one"});
    visitor(Field{"bias", &S::bias, Unlimited{}, "biases in the linear layers of attention and MLP"});
    visitor(
        Field{"qkv_bias", &S::qkv_bias, Unlimited{}, "biases of queries, keys and values, also where bias is false"});
    visitor(Field{
        "parallel_block", &S::parallel_block, Unlimited{},
        "attention and MLP both read the block's input, each through its own norm, and are added to it together"});
    visitor(Field{"tied_embedding", &S::tied_embedding, Unlimited{}, "the output projection is the token embedding"});
    visitor(Field{"qk_norm", &S::qk_norm, Unlimited{}, "RMSNorm of each query and key head; needs norm rmsnorm"});
    visitor(Field{"attention", &S::attention, Unlimited{}, "the softmax of attention"});
    visitor(
        Field{"init", &S::init, Unlimited{}, "initialisation; gpt2 scales residual projections by 1/sqrt(2 layers)"});
    visitor(
        Field{"init_std", &S::init_std, NumberLimits{0.0, 10.0, true}, "standard deviation of the initial weights"});
  }
};

template <>
struct SectionFields<DataConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = DataConfig;
    visitor(
        Field{"path", &S::path, TextLimits{TextForm::path},
              "dataset folder written by `sinkscope tokenize`, relative to the working directory; this or data.train"});
    visitor(Field{"train", &S::train, ListLimits{}, "shard files to train on, globs allowed; this or data.path"});
    visitor(Field{"validation", &S::validation, ListLimits{},
                  "shard files to validate on, globs allowed; goes with data.train"});
    visitor(Field{"bos", &S::bos, Unlimited{},
                  "BOS token: nowhere, at position 0 of every window, or at each document start"});
    visitor(Field{"bos_id", &S::bos_id, IntegerLimits{-1, kMaxVocab - 1}, "id of the BOS token; -1: the dataset's"});
    visitor(Field{"eos_id", &S::eos_id, IntegerLimits{-1, kMaxVocab - 1},
                  "id of the token that ends a document; -1: the dataset's"});
    visitor(Field{"common_targets", &S::common_targets, ListLimits{true},
                  "losses on common targets count the targets that every one of these BOS policies predicts; an "
                  "ablation of data.bos sets it"});
  }
};

template <>
struct SectionFields<OptimizerConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = OptimizerConfig;
    visitor(Field{"learning_rate", &S::learning_rate, NumberLimits{}, "peak learning rate of AdamW"});
    visitor(Field{"beta1", &S::beta1, NumberLimits{.minimum = 0.0, .maximum = 1.0, .below = true},
                  "decay of the first moment"});
    visitor(Field{"beta2", &S::beta2, NumberLimits{.minimum = 0.0, .maximum = 1.0, .below = true},
                  "decay of the second moment"});
    visitor(Field{"eps", &S::eps, kPositive, "added to the root of the second moment"});
    visitor(Field{"weight_decay", &S::weight_decay, NumberLimits{},
                  "decoupled, times the learning rate; on matrices only"});
    visitor(Field{"clip_norm", &S::clip_norm, NumberLimits{}, "largest global gradient norm; 0: no clipping"});
  }
};

template <>
struct SectionFields<ScheduleConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = ScheduleConfig;
    visitor(Field{"type", &S::type, Unlimited{},
                  "shape of the learning rate after warm-up; wsd: constant, then a decay at the end"});
    visitor(Field{"warmup_steps", &S::warmup_steps, IntegerLimits{0, kMaxSteps},
                  "steps of linear warm-up, at most train.steps"});
    visitor(Field{"final_fraction", &S::final_fraction, kFraction,
                  "the last step of cosine, linear and wsd runs at exactly this fraction of the peak; constant, and "
                  "wsd with decay_fraction 0, stay at the peak and ignore it"});
    visitor(Field{"decay_fraction", &S::decay_fraction, kFraction,
                  "wsd: fraction of all steps spent decaying at the end; 0: no decay; other types ignore it"});
  }
};

template <>
struct SectionFields<TrainConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = TrainConfig;
    visitor(Field{"steps", &S::steps, IntegerLimits{1, kMaxSteps}, "optimizer steps"});
    visitor(
        Field{"micro_batch", &S::micro_batch, IntegerLimits{1, 65536}, "sequences of one forward and backward pass"});
    visitor(Field{"gradient_accumulation", &S::gradient_accumulation, IntegerLimits{1, 65536},
                  "passes whose gradients make one step"});
    visitor(Field{"sequence_length", &S::sequence_length, IntegerLimits{2, kMaxTokens}, "tokens of a sequence, T"});
    visitor(
        Field{"recompute", &S::recompute, Unlimited{},
              "activations that the backward pass computes again instead of keeping them, which changes no bit of the "
              "results: none; norm2, up projection and activation of each MLP; each block whole, but for its input"});
    visitor(Field{
        "cuda_graph", &S::cuda_graph, Unlimited{},
        "record passes once as CUDA graphs and launch these, which changes no bit of the results; false shows "
        "profilers the stages. Without effect on the CPU, on backward passes between ranks, and on forward passes in "
        "which parameters travel: all where they are sharded, and the first of a step where copy engines bring them"});
    visitor(Field{"seed", &S::seed, IntegerLimits{}, "of the initial weights and the data order"});
    visitor(Field{"optimizer", &S::optimizer, Unlimited{}, "AdamW"});
    visitor(Field{"schedule", &S::schedule, Unlimited{}, "the learning rate over the steps"});
  }
};

template <>
struct SectionFields<EvaluationConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = EvaluationConfig;
    visitor(Field{"every", &S::every, IntegerLimits{0, kMaxSteps},
                  "steps between validation losses; 0: only after the last step"});
    visitor(Field{"batches", &S::batches, IntegerLimits{1, 1'000'000}, "micro-batches of the validation stream"});
  }
};

template <>
struct SectionFields<SampleConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = SampleConfig;
    visitor(Field{"every", &S::every, IntegerLimits{0, kMaxSteps}, "steps between samples of text; 0: never"});
    visitor(Field{"tokens", &S::tokens, IntegerLimits{1, kMaxTokens}, "tokens to sample"});
    visitor(Field{"temperature", &S::temperature, NumberLimits{}, "divides the logits; 0: the most probable token"});
    visitor(Field{"prompt", &S::prompt, TextLimits{}, "text to continue"});
  }
};

template <>
struct SectionFields<PhaseConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = PhaseConfig;
    visitor(Field{"onset", &S::onset, kPositive,
                  "sink excess of position 0 (mean score over that of uniform attention) at which a sink begins"});
    visitor(Field{"plateau", &S::plateau, kPositive,
                  "largest relative change of the excess over the window that counts as stable"});
    visitor(Field{"window", &S::window, IntegerLimits{2, 1'000'000}, "probe passes looked back on"});
    visitor(
        Field{"confirm", &S::confirm, IntegerLimits{1, 1'000'000}, "probe passes in a row before a phase is entered"});
  }
};

template <>
struct SectionFields<ProbeConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = ProbeConfig;
    visitor(Field{"enabled", &S::enabled, Unlimited{}, "per-step statistics and probe passes"});
    visitor(Field{"positions", &S::positions, IntegerLimits{1, 1024}, "first positions whose sink scores are kept, K"});
    visitor(
        Field{"sink_threshold", &S::sink_threshold, kFraction, "sink score above which a head counts as a sink, eps"});
    visitor(Field{"every", &S::every, IntegerLimits{0, kMaxSteps},
                  "steps between probe passes, and between measurements of the training batch's attention entropy and "
                  "key mass; 0: never"});
    visitor(Field{"sequences", &S::sequences, IntegerLimits{1, 65536}, "sequences of each probe set"});
    visitor(Field{"short_length", &S::short_length, IntegerLimits{2, kMaxTokens},
                  "tokens of a sequence of the short natural-text set"});
    visitor(Field{"causal_every", &S::causal_every, IntegerLimits{0, kMaxSteps},
                  "steps between causal tests of the model as it then is (knock-outs, transplants, isolation), logged "
                  "as an event; 0: never; needs probe passes and probes.positions of at least 2"});
    visitor(Field{"from_layer", &S::from_layer, IntegerLimits{0, 1023},
                  "first layer of the sink rate over late layers, counted from 0; unless given, the last layer of a "
                  "model that has fewer"});
    visitor(Field{"phase", &S::phase, Unlimited{}, "the detector of training phases"});
  }
};

template <>
struct SectionFields<CheckpointConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = CheckpointConfig;
    visitor(Field{"every", &S::every, IntegerLimits{0, kMaxSteps},
                  "steps between checkpoints; 0: only after the last step"});
    visitor(Field{"keep", &S::keep, IntegerLimits{0, 1'000'000}, "newest checkpoints kept; 0: all"});
  }
};

template <>
struct SectionFields<LogConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = LogConfig;
    visitor(Field{"every", &S::every, IntegerLimits{1, kMaxSteps}, "steps between lines of metrics.jsonl"});
    visitor(Field{"console_every", &S::console_every, IntegerLimits{1, kMaxSteps},
                  "steps between console lines when the output is no terminal"});
    visitor(Field{"tensorboard", &S::tensorboard, Unlimited{}, "write TensorBoard event files"});
    visitor(Field{"heatmap_every", &S::heatmap_every, IntegerLimits{1, kMaxSteps},
                  "probe passes between TensorBoard heatmap images"});
  }
};

template <>
struct SectionFields<AlertConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = AlertConfig;
    constexpr NumberLimits kShare{.minimum = 0.0, .maximum = 1.0, .below = true};
    visitor(
        Field{"window", &S::window, IntegerLimits{4, 10'000},
              "last steps that the loss and the throughput of a step are compared with, once half as many are done"});
    visitor(
        Field{"loss_spike", &S::loss_spike, NumberLimits{},
              "robust standard deviations above the median of the window at which a training loss is a spike; 0: off"});
    visitor(Field{"non_finite", &S::non_finite, Unlimited{},
                  "a loss, gradient or weight that is not finite, which stops the run either way"});
    visitor(Field{"sink_collapse", &S::sink_collapse, kShare,
                  "share of its largest value under which the sink excess of position 0 has collapsed, after it "
                  "reached probes.phase.onset; 0: off"});
    visitor(Field{"phase_change", &S::phase_change, Unlimited{}, "the sink enters another phase"});
    visitor(Field{"throughput_drop", &S::throughput_drop, kShare,
                  "share of the median of the window under which tokens per second have dropped, for ten steps and "
                  "five seconds in a row; 0: off"});
    visitor(Field{"command", &S::command, ListLimits{.arguments = true},
                  "program and arguments run at every alert, without a shell; []: none"});
    visitor(Field{
        "command_timeout", &S::command_timeout, NumberLimits{.minimum = 0.0, .maximum = 3600.0, .above = true},
        "seconds after which the command is killed, and that the program waits at its end for those still to run"});
  }
};

template <>
struct SectionFields<RanksConfig> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = RanksConfig;
    constexpr NumberLimits kSeconds{.minimum = 1.0, .maximum = 1e6};
    visitor(Field{"gpus", &S::gpus, IntegerLimits{0, 1024},
                  "processes that `sinkscope train` starts without a launcher, each on a GPU of its own; they share "
                  "the sequences of a step; 0: the most GPUs of this machine whose number divides micro_batch times "
                  "gradient_accumulation"});
    visitor(Field{"start_timeout", &S::start_timeout, kSeconds,
                  "seconds that a rank waits for the others until the first step is done, and where rank 0 saves, "
                  "probes or samples for all; no pass may take longer on all of them"});
    visitor(Field{"timeout", &S::timeout, kSeconds,
                  "seconds that a rank waits for the others elsewhere, its own work on a GPU until then included, or "
                  "hears nothing from one, before all end; more than a step takes"});
    visitor(Field{
        "bucket_megabytes", &S::bucket_megabytes, NumberLimits{.minimum = 0.001, .maximum = 4096.0},
        "gradients that are summed over the ranks at a time, while those before them are still computed, and of which "
        "each rank has the same part where they are sharded; copy engines carry all of a block of the model at once"});
    visitor(Field{"shard", &S::shard, Unlimited{},
                  "what each rank keeps and updates its share of alone, each with those before it: nothing; moments "
                  "and master weights (ZeRO-1); the summed gradients as well (ZeRO-2), which are then summed in every "
                  "pass of a step; parameters too (ZeRO-3), which are then fetched block by block in every pass"});
    visitor(Field{"reduce_dtype", &S::reduce_dtype, Unlimited{},
                  "what gradients and their sums travel between ranks in; they are added up in fp32"});
    visitor(Field{
        "copy_engines", &S::copy_engines, Unlimited{},
        "where anything is sharded between GPUs of one host: whether gradients, and parameters as forward and backward "
        "passes need them, travel by the GPUs' copy engines, which leave all multiprocessors to the pass; gradients "
        "are then added up in rank order. It takes memory for the largest of embeddings, block and head: its gradients "
        "twice, as they travel, and its parameters. Else, and between hosts, NCCL's kernels do it"});
  }
};

template <>
struct SectionFields<Config> {
  template <class Visitor>
  static void visit(Visitor&& visitor) {
    using S = Config;
    visitor(Field{"name", &S::name, TextLimits{TextForm::name}, "of the run; its directory is output/name"});
    visitor(Field{"output", &S::output, TextLimits{TextForm::required},
                  "folder of run directories, relative to the working directory"});
    visitor(Field{"device", &S::device, Unlimited{},
                  "where to compute; auto: a GPU when the build and the machine have one"});
    visitor(Field{"precision", &S::precision, Unlimited{},
                  "of activations and matrix products; auto: bf16 on a GPU, fp32 on the CPU; fp8: as auto, but for the "
                  "linear maps of the blocks, whose operands are rounded to FP8 (E4M3, output gradients E5M2, each "
                  "with a scale from the last 16 steps; the CPU simulates it)"});
    visitor(Field{"threads", &S::threads, IntegerLimits{0, 1024}, "CPU threads; 0: all"});
    visitor(Field{"model", &S::model, Unlimited{}, "the decoder"});
    visitor(Field{"data", &S::data, Unlimited{}, "text and BOS policy"});
    visitor(Field{"train", &S::train, Unlimited{}, "training"});
    visitor(Field{"evaluation", &S::evaluation, Unlimited{}, "validation loss"});
    visitor(Field{"sample", &S::sample, Unlimited{}, "text sampled while training"});
    visitor(Field{"probes", &S::probes, Unlimited{}, "measurements of attention sinks"});
    visitor(Field{"checkpoint", &S::checkpoint, Unlimited{}, "checkpoints"});
    visitor(Field{"log", &S::log, Unlimited{}, "logs"});
    visitor(Field{"alerts", &S::alerts, Unlimited{}, "what is told as an alert, in events.jsonl and to a command"});
    visitor(Field{"ranks", &S::ranks, Unlimited{}, "several processes that train together"});
    visitor(Field{"ablation", &S::ablation, Unlimited{},
                  "for `sinkscope ablate`: dotted keys and the list of values that each takes, and names of your "
                  "choice with a list of objects of dotted keys, which change together; one run for each combination"});
  }
};

template <class Section, class Visitor>
void visit_fields(Visitor&& visitor) {
  SectionFields<Section>::visit(visitor);
}

}  // namespace sinkscope
