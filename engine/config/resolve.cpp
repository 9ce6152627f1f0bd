// From checked JSON to a Config that can run: presets, derived sizes, checks across fields.
#include <algorithm>

#include "engine/config/load.h"
#include "engine/config/spec.h"

namespace sinkscope {
namespace {

/// Tokens of one forward pass and of a whole run stay far inside 64-bit sizes.
constexpr std::int64_t kMaxPassTokens = std::int64_t{1} << 28;
constexpr double kMaxRunTokens = 1e18;

/// Fills sizes left at 0 and lists what the tree did not decide.
void derive_sizes(ModelConfig& model, const Json& named, std::vector<std::string>& derived) {
  const Json current = to_json(model);
  std::vector<Json> defaults;
  for (const auto& [preset, name] : enum_names<ModelPreset>()) defaults.push_back(to_json(preset_defaults(preset)));
  for (const auto& [key, value] : current.items()) {
    const bool by_preset = key == "rotary_dim" || std::any_of(defaults.begin(), defaults.end(), [&](const Json& other) {
                             return other[key] != defaults[0][key];
                           });
    const bool by_size = (key == "kv_heads" || key == "head_dim" || key == "hidden") && value == 0;
    if ((by_preset && !named.contains(key)) || by_size) derived.push_back("model." + key);
  }
  if (model.kv_heads == 0) model.kv_heads = model.heads;
  if (model.head_dim == 0) model.head_dim = model.channels / model.heads;
  // A quarter of the head, as GPT-NeoX-20B and Pythia rotate; an even number of channels.
  if (model.preset == ModelPreset::gpt_neox && model.position == PositionEncoding::rope &&
      !named.contains("rotary_dim"))
    model.rotary_dim = std::min(model.head_dim, std::max<std::int64_t>(2, model.head_dim / 8 * 2));
  if (model.hidden == 0)
    model.hidden = model.mlp == MlpType::swiglu ? (8 * model.channels + 191) / 192 * 64 : 4 * model.channels;
}

std::string text(std::int64_t value) { return std::to_string(value); }

void check_model(const Config& config, const std::string& at) {
  const ModelConfig& model = config.model;
  if (model.heads % model.kv_heads != 0)
    throw ConfigError(at + "model.heads (" + text(model.heads) + ") must be divisible by model.kv_heads (" +
                      text(model.kv_heads) + ")");
  if (model.rotary_dim != 0 && model.position != PositionEncoding::rope)
    throw ConfigError(at + "model.rotary_dim (" + text(model.rotary_dim) + ") needs model.position \"rope\", not \"" +
                      std::string(to_string(model.position)) + "\"");
  if (model.rotary_dim % 2 != 0 || model.rotary_dim > model.head_dim)
    throw ConfigError(at + "model.rotary_dim (" + text(model.rotary_dim) +
                      ") must be even and at most model.head_dim (" + text(model.head_dim) + ")");
  if (model.position == PositionEncoding::rope && model.rotary_dim == 0 && model.head_dim % 2 != 0)
    throw ConfigError(at + "model.head_dim (" + text(model.head_dim) +
                      ") must be even with model.position \"rope\", which rotates pairs of channels");
  if (model.qk_norm && model.norm != NormType::rmsnorm)
    throw ConfigError(at + "model.qk_norm needs model.norm \"rmsnorm\", not \"" + std::string(to_string(model.norm)) +
                      "\"");
  if (model.vocab_size == 1) throw ConfigError(at + "model.vocab_size must be at least 2, or 0 for the dataset's");
  if (model.position == PositionEncoding::learned && model.max_sequence_length != 0 &&
      model.max_sequence_length < config.train.sequence_length)
    throw ConfigError(at + "model.max_sequence_length (" + text(model.max_sequence_length) +
                      ") must be at least train.sequence_length (" + text(config.train.sequence_length) +
                      ") with model.position \"learned\"");
}

void check_train(const TrainConfig& train, const std::string& at) {
  const ScheduleConfig& schedule = train.schedule;
  if (schedule.warmup_steps > train.steps)
    throw ConfigError(at + "train.schedule.warmup_steps (" + text(schedule.warmup_steps) +
                      ") must be at most train.steps (" + text(train.steps) + ")");
  const double decay_steps = schedule.decay_fraction * static_cast<double>(train.steps);
  if (schedule.type == ScheduleType::wsd &&
      static_cast<double>(schedule.warmup_steps) + decay_steps > static_cast<double>(train.steps) * (1 + 1e-12))
    throw ConfigError(at + "train.schedule.warmup_steps (" + text(schedule.warmup_steps) +
                      ") and train.schedule.decay_fraction (" + Json(schedule.decay_fraction).dump() +
                      ") overlap within train.steps (" + text(train.steps) + ")");
  if (train.micro_batch * train.sequence_length > kMaxPassTokens)
    throw ConfigError(at + "train.micro_batch (" + text(train.micro_batch) + ") times train.sequence_length (" +
                      text(train.sequence_length) + ") must be at most " + text(kMaxPassTokens) + " tokens");
  if (static_cast<double>(train.micro_batch * train.sequence_length) *
          static_cast<double>(train.gradient_accumulation) * static_cast<double>(train.steps) >
      kMaxRunTokens)
    throw ConfigError(at + "train.steps (" + text(train.steps) + ") times train.gradient_accumulation (" +
                      text(train.gradient_accumulation) + ") passes are more than 1e18 tokens");
}

void check_probes(const Config& config, const std::string& at) {
  const ProbeConfig& probes = config.probes;
  if (probes.causal_every > 0 && (!probes.enabled || probes.every == 0 || probes.positions < 2 || probes.sequences < 2))
    throw ConfigError(
        at + "probes.causal_every (" + text(probes.causal_every) +
        ") needs probes.enabled, probes.every above 0, and probes.positions and probes.sequences of at least 2");
  if (!probes.enabled) return;
  const std::string unless = " (probes.enabled false lifts this)";
  if (probes.short_length > config.train.sequence_length)
    throw ConfigError(at + "probes.short_length (" + text(probes.short_length) +
                      ") must be at most train.sequence_length (" + text(config.train.sequence_length) + ")" + unless);
  if (probes.positions > probes.short_length)
    throw ConfigError(at + "probes.positions (" + text(probes.positions) + ") must be at most probes.short_length (" +
                      text(probes.short_length) + ") and train.sequence_length (" +
                      text(config.train.sequence_length) + ")" + unless);
  if (probes.from_layer >= config.model.layers)
    throw ConfigError(at + "probes.from_layer (" + text(probes.from_layer) + ") must be at most model.layers - 1 (" +
                      text(config.model.layers - 1) + "), since layers count from 0" + unless);
}

}  // namespace

ModelConfig preset_defaults(ModelPreset preset) {
  ModelConfig model;
  model.preset = preset;
  switch (preset) {
    case ModelPreset::gpt2:
      model.norm = NormType::layernorm;
      model.position = PositionEncoding::learned;
      model.mlp = MlpType::gelu;
      model.bias = true;
      model.tied_embedding = true;
      model.init = InitScheme::gpt2;
      break;
    case ModelPreset::llama:
      break;  // the struct's own defaults
    case ModelPreset::qwen2:
      model.norm_eps = 1e-6;
      model.rope_theta = 1e6;
      model.qkv_bias = true;
      model.tied_embedding = true;
      break;
    case ModelPreset::gpt_neox:
      model.norm = NormType::layernorm;
      model.mlp = MlpType::gelu_erf;
      model.bias = true;
      model.parallel_block = true;
      break;
    case ModelPreset::qwen3:
      model.norm_eps = 1e-6;
      model.rope_theta = 1e6;
      model.tied_embedding = true;
      model.qk_norm = true;
      model.head_dim = 128;
      break;
  }
  return model;
}

void check_fp8(const ModelConfig& model, const std::string& at) {
  const auto check = [&](const char* what, std::int64_t value) {
    if (value % kFp8Extents != 0)
      throw ConfigError(at + "precision is \"fp8\", and " + what + " is " + text(value) + "; expected a multiple of " +
                        text(kFp8Extents));
  };
  check("model.channels", model.channels);
  check("model.hidden", model.hidden);
  check("model.heads * model.head_dim", model.heads * model.head_dim);
  check("(model.heads + 2 * model.kv_heads) * model.head_dim", (model.heads + 2 * model.kv_heads) * model.head_dim);
}

void check_together(const Config& config, const std::string& origin) {
  const std::string at = origin + ": ";
  check_model(config, at);
  if (config.precision == Precision::fp8) check_fp8(config.model, at);
  if (!config.data.path.empty() && !config.data.train.empty())
    throw ConfigError(at + "data.path and data.train are both given; the data come from one of them");
  if (!config.data.path.empty() && !config.data.validation.empty())
    throw ConfigError(at + "data.validation goes with data.train; the dataset at data.path has its own");
  check_train(config.train, at);
  check_probes(config, at);
}

Config resolve_tree(const Json& tree, const std::string& origin) {
  Config config;
  const Json named = tree.value("model", Json::object());
  ModelConfig chosen;
  decode(named, chosen);
  config.model = preset_defaults(chosen.preset);
  decode(tree, config);
  if (config.model.head_dim == 0 && config.model.channels % config.model.heads != 0)
    throw ConfigError(origin + ": model.channels (" + text(config.model.channels) +
                      ") must be divisible by model.heads (" + text(config.model.heads) +
                      ") unless model.head_dim is given");
  derive_sizes(config.model, named, config.derived);
  if (!tree.value("probes", Json::object()).contains("from_layer")) {
    if (config.probes.enabled) config.probes.from_layer = std::min(config.probes.from_layer, config.model.layers - 1);
    config.derived.emplace_back("probes.from_layer");
  }
  check_together(config, origin);
  return config;
}

void resolve_with_dataset(Config& config, std::int64_t vocab_size, std::int64_t bos_id, std::int64_t eos_id) {
  ModelConfig& model = config.model;
  DataConfig& data = config.data;
  const std::string at = config.name + ": ";
  const std::int64_t vocab = model.vocab_size == 0 ? vocab_size : model.vocab_size;
  const std::int64_t bos = data.bos_id < 0 ? bos_id : data.bos_id;
  const std::int64_t eos = data.eos_id < 0 ? eos_id : data.eos_id;
  if (vocab < 2)
    throw ConfigError(at + "model.vocab_size is not given and the dataset's vocabulary is " + text(vocab_size) +
                      "; give at least 2");
  if (vocab < vocab_size)
    throw ConfigError(at + "model.vocab_size (" + text(vocab) + ") must be at least the dataset's vocabulary (" +
                      text(vocab_size) + ")");
  if (data.bos != BosPolicy::none && bos < 0)
    throw ConfigError(at + "data.bos_id must be given for data.bos \"" + std::string(to_string(data.bos)) +
                      "\", since the dataset has no BOS token");
  if (data.bos != BosPolicy::none && bos >= vocab)
    throw ConfigError(at + "model.vocab_size (" + text(vocab) + ") must be at least " + text(bos + 1) +
                      " to hold data.bos_id (" + text(bos) + ")");
  if (eos >= vocab)
    throw ConfigError(at + "model.vocab_size (" + text(vocab) + ") must be at least " + text(eos + 1) +
                      " to hold data.eos_id (" + text(eos) + ")");
  const std::int64_t positions =
      model.max_sequence_length == 0 ? config.train.sequence_length : model.max_sequence_length;
  if (model.position == PositionEncoding::learned && positions < config.train.sequence_length)
    throw ConfigError(at + "model.max_sequence_length (" + text(positions) +
                      ") must be at least train.sequence_length (" + text(config.train.sequence_length) + ")");
  model.vocab_size = vocab;
  model.max_sequence_length = positions;
  data.bos_id = bos;
  data.eos_id = eos;
}

}  // namespace sinkscope
