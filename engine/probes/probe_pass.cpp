#include "engine/probes/probe_pass.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/probes/circuit.h"
#include "engine/probes/norms.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {

namespace {

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// The largest part of any set, which sizes every buffer.
struct Extents {
  std::int64_t sequences = 0;       // B
  std::int64_t rows = 0;            // B*T
  std::int64_t gathered_rows = 0;   // B*T of the largest set that goes through in parts; 0: none does

  Extents(const DecoderOptions& options, std::span<const ProbeSet> sets) {
    for (const ProbeSet& set : sets) {
      const std::int64_t batch = ProbePass::batch_sequences(options, set);
      sequences = std::max(sequences, batch);
      rows = std::max(rows, batch * set.length);
      if (batch < set.sequences) gathered_rows = std::max(gathered_rows, set.sequences * set.length);
    }
  }
};

/// The device's side: results of the operations, and rows on their way to the host.
struct DeviceBuffers {
  Arena arena{"probes"};
  std::size_t sink, first_mass, first_argmax, entropy, key_mass, cos_first, cos_rest, norms, directions, gathered;

  DeviceBuffers(const ModelConfig& model, const ProbeConfig& config, const Extents& extents, DType real) {
    const std::int64_t heads = extents.sequences * model.heads;
    sink = arena.request("sink scores", DType::f32, heads * config.positions);
    first_mass = arena.request("first-token mass", DType::f32, heads);
    first_argmax = arena.request("first-token argmax", DType::f32, heads);
    entropy = arena.request("entropy", DType::f32, heads);
    key_mass = arena.request("key mass", DType::f32, extents.rows * model.heads);
    cos_first = arena.request("cosine to the first key", DType::f32, heads);
    cos_rest = arena.request("cosine to the other keys", DType::f32, heads);
    norms = arena.request("row norms", DType::f32, extents.rows * (model.heads + 2 * model.kv_heads));
    directions = arena.request("directions", real, 2 * extents.sequences * model.channels);
    // The median over a set needs all of its rows at once.
    gathered = arena.request("residual stream of a set in parts", real,
                             model.layers * extents.gathered_rows * model.channels);
  }
};

void divide(std::vector<double>& values, double by) {
  for (double& value : values) value /= by;
}

void check_set(const ProbeSet& set, const DecoderOptions& options, const ProbeConfig& config) {
  const std::string at = "ProbePass: probe set \"" + set.name + "\": ";
  const std::int64_t least = std::max<std::int64_t>(2, config.positions);
  if (set.sequences < 1) throw std::invalid_argument(at + "has no sequences");
  if (set.length < least || set.length > options.max_length)
    throw std::invalid_argument(at + "length " + std::to_string(set.length) + ", expected " + std::to_string(least) +
                                " (the positions watched, at least 2) to " + std::to_string(options.max_length) +
                                " (the decoder's max_length)");
  const std::size_t size = index(set.sequences * set.length);
  if (set.inputs.size() != size || set.targets.size() != size)
    throw std::invalid_argument(at + std::to_string(set.inputs.size()) + " inputs and " +
                                std::to_string(set.targets.size()) + " targets, expected " + std::to_string(size));
}

std::vector<ProbeSet> checked(std::vector<ProbeSet> sets, const DecoderOptions& options, const ProbeConfig& config) {
  for (const ProbeSet& set : sets) check_set(set, options, config);
  return sets;
}

}  // namespace

struct ProbePass::State final : ActivationObserver {
  State(Ops& ops_, Decoder& decoder_, const ProbeConfig& config_, std::vector<ProbeSet> sets_)
      : ops(ops_),
        decoder(decoder_),
        model(decoder_.config()),
        config(config_),
        sets(checked(std::move(sets_), decoder_.options(), config_)),
        extents(decoder_.options(), sets),
        device(model, config, extents, ops_.compute_dtype()) {
    device.arena.allocate(ops);
    const auto largest = [](auto... sizes) { return index(std::max({sizes...})); };
    values.resize(largest(extents.rows * (model.heads + 2 * model.kv_heads),
                          extents.sequences * model.heads * config.positions));
    middle_norms.resize(index(extents.rows));
    losses.resize(index(extents.rows));
    raw.resize(index(2 * extents.sequences * model.channels) * size_of(ops.compute_dtype()));
    vectors.resize(index(2 * extents.sequences * model.channels));
    first_directions.assign(index(model.layers), DirectionTally(model.channels));
    middle_directions.assign(index(model.layers), DirectionTally(model.channels));
  }

  // The record of the set at hand gathers sums over its sequences; finish() turns them into means.
  void begin(const ProbeSet& set, std::int64_t step, std::int64_t tokens);
  void finish();
  ProbeRecord probe(const ProbeSet& set, std::int64_t step, std::int64_t tokens);

  void embedding(const Tensor& h) override { add_residual(0, h); }
  void block(const BlockActivations& activations) override;

  void add_residual(std::int64_t row, const Tensor& h);
  void add_attention(const BlockActivations& activations);
  void add_key_value_norms(const BlockActivations& activations);
  void add_directions(std::int64_t layer, const Tensor& h);
  void add_massive(std::int64_t layer, const Tensor& h);
  void set_massive(std::int64_t layer, const AbsStatistics& statistics);

  /// The Euclidean norms of the rows of `x` (n, any), in `out` (n).
  std::span<const float> row_norms(const Tensor& x, std::vector<float>& out);
  std::span<const float> fetch(const Tensor& tensor);
  /// out[h] += sum over the sequences of the part of tensor (B, H)[b,h].
  void add_heads(std::vector<double>& out, std::int64_t layer, const Tensor& tensor);

  Tensor buffer(std::size_t which, std::initializer_list<std::int64_t> shape) const {
    return device.arena.tensor(which, shape);
  }
  /// Row `layer` of an (L or L+1, K) field.
  std::span<double> by_position(std::vector<double>& field, std::int64_t row) const {
    return std::span(field).subspan(index(row * config.positions), index(config.positions));
  }
  bool in_parts() const { return batch_sequences(decoder.options(), *current) < current->sequences; }

  Ops& ops;
  Decoder& decoder;
  const ModelConfig model;
  const ProbeConfig config;
  const std::vector<ProbeSet> sets;
  const Extents extents;
  DeviceBuffers device;

  std::vector<float> values;         // what came from the device last
  std::vector<float> middle_norms;   // (B*T) of m^l
  std::vector<float> losses;         // (B*T)
  std::vector<std::byte> raw;        // (2B, C) in the compute dtype
  std::vector<float> vectors;        // (2B, C)
  std::vector<DirectionTally> first_directions, middle_directions;  // (L): of t = 0 and t = T/2

  const ProbeSet* current = nullptr;
  std::int64_t part_begin = 0;       // first sequence of the part at hand
  std::int64_t part = 0;             // its sequences, B
  SinkTally sinks;
  ProbeRecord record;
};

void ProbePass::State::begin(const ProbeSet& set, std::int64_t step, std::int64_t tokens) {
  current = &set;
  record = ProbeRecord{};
  record.step = step;
  record.tokens = tokens;
  record.set = set.name;
  record.length = set.length;
  record.sequences = set.sequences;
  record.with_bos = set.with_bos;
  record.layers = model.layers;
  record.heads = model.heads;
  record.kv_heads = model.kv_heads;
  record.positions = config.positions;

  sinks = SinkTally(model.layers, model.heads, config.positions, config.sink_threshold);
  const auto sized = [](std::int64_t size, auto&... fields) { (fields.assign(index(size), 0), ...); };
  sized(model.layers * model.heads, record.first_token_mass, record.first_token_argmax, record.entropy,
        record.cosine_first, record.cosine_rest);
  sized(model.layers * set.length, record.key_mass);
  sized((model.layers + 1) * config.positions, record.residual_norm);
  sized(model.layers + 1, record.residual_norm_rest, record.norm_ratio);
  sized(model.layers * config.positions, record.attention_output_norm, record.mlp_output_norm);
  sized(model.layers, record.attention_output_norm_rest, record.mlp_output_norm_rest, record.mlp_amplification,
        record.massive_ratio, record.massive_position, record.massive_channel);
  sized(model.layers * model.kv_heads, record.key_norm_first, record.key_norm_rest, record.value_norm_first,
        record.value_norm_rest);
  for (DirectionTally& tally : first_directions) tally.clear();
  for (DirectionTally& tally : middle_directions) tally.clear();
}

ProbeRecord ProbePass::State::probe(const ProbeSet& set, std::int64_t step, std::int64_t tokens) {
  begin(set, step, tokens);
  double loss = 0;
  double predicted = 0;
  const std::int64_t most = batch_sequences(decoder.options(), set);
  for (part_begin = 0; part_begin < set.sequences; part_begin += part) {
    part = std::min(most, set.sequences - part_begin);
    const std::int64_t offset = part_begin * set.length;
    const std::int32_t* targets = set.targets.data() + offset;
    decoder.forward(part, set.length, set.inputs.data() + offset, this);
    decoder.loss(targets, losses.data());
    for (std::int64_t n = 0; n < part * set.length; ++n) {
      if (targets[n] < 0) continue;
      loss += static_cast<double>(losses[index(n)]);
      predicted += 1;
    }
  }
  record.loss = predicted > 0 ? loss / predicted : std::numeric_limits<double>::quiet_NaN();
  finish();
  return std::move(record);
}

void ProbePass::State::finish() {
  // Section 1.
  record.sink_score = sinks.head_scores();
  record.sink_rate = sinks.rates();
  record.sink_rate_layer = sinks.layer_rates();
  record.sink_rate_from = sinks.rates(config.from_layer);
  const std::vector<double> scores = sinks.scores();
  const std::vector<double> layer_scores = sinks.layer_scores();
  record.sink_excess = sink_excess(scores, record.length);
  record.dominant_position = dominant_position(scores).value_or(-1);
  for (std::int64_t l = 0; l < model.layers; ++l) {
    const auto of_layer = std::span(layer_scores).subspan(index(l * config.positions), index(config.positions));
    record.dominant_position_layer.push_back(dominant_position(of_layer).value_or(-1));
  }
  const auto sequences = static_cast<double>(record.sequences);
  divide(record.key_mass, sequences * static_cast<double>(model.heads));

  // Sections 1 and 2: means over sequences.
  for (std::vector<double>* field :
       {&record.first_token_mass, &record.first_token_argmax, &record.entropy, &record.residual_norm,
        &record.residual_norm_rest, &record.norm_ratio, &record.attention_output_norm,
        &record.attention_output_norm_rest, &record.mlp_output_norm, &record.mlp_output_norm_rest,
        &record.mlp_amplification, &record.key_norm_first, &record.key_norm_rest, &record.value_norm_first,
        &record.value_norm_rest, &record.cosine_first, &record.cosine_rest})
    divide(*field, sequences);
  for (std::int64_t l = 0; l < model.layers; ++l) {
    record.direction_stability.push_back(first_directions[index(l)].mean_cosine());
    record.direction_stability_middle.push_back(middle_directions[index(l)].mean_cosine());
    if (in_parts()) {
      const std::int64_t rows = current->sequences * current->length;
      const Tensor all = buffer(device.gathered, {model.layers, extents.gathered_rows * model.channels}).rows(l, 1);
      const Tensor used(all.data, all.dtype, {rows, model.channels});
      set_massive(l, ops.abs_statistics(used));
    }
  }

  // Section 3.
  record.step_up_layer = step_up_layer(record.norm_ratio);
  record.concentration = first_two_layer_concentration(record.norm_ratio);
}

void ProbePass::State::block(const BlockActivations& activations) {
  const std::int64_t l = activations.layer;
  const std::int64_t length = current->length;
  add_attention(activations);
  add_key_value_norms(activations);
  add_norms(row_norms(activations.attention_output, values), length, by_position(record.attention_output_norm, l),
            record.attention_output_norm_rest[index(l)]);
  add_norms(row_norms(activations.mlp_output, values), length, by_position(record.mlp_output_norm, l),
            record.mlp_output_norm_rest[index(l)]);
  const std::span<const float> middle = row_norms(activations.middle, middle_norms);
  add_residual(l + 1, activations.output);
  const std::span<const float> output(values.data(), middle.size());  // as add_residual left them
  record.mlp_amplification[index(l)] += amplification_sum(output, middle, length);
  add_directions(l, activations.output);
  add_massive(l, activations.output);
}

void ProbePass::State::add_residual(std::int64_t row, const Tensor& h) {
  const std::span<const float> norms = row_norms(h, values);
  add_norms(norms, current->length, by_position(record.residual_norm, row), record.residual_norm_rest[index(row)]);
  record.norm_ratio[index(row)] += norm_ratio_sum(norms, current->length);
}

void ProbePass::State::add_attention(const BlockActivations& activations) {
  const std::int64_t l = activations.layer;
  const std::int64_t heads = model.heads;
  AttentionStatistics args;
  args.qkv = activations.qkv;
  args.query_heads = static_cast<int>(heads);
  args.kv_heads = static_cast<int>(model.kv_heads);
  args.lse = activations.lse;
  args.sink = buffer(device.sink, {part, heads, config.positions});
  args.first_mass = buffer(device.first_mass, {part, heads});
  args.first_argmax = buffer(device.first_argmax, {part, heads});
  args.entropy = buffer(device.entropy, {part, heads});
  args.key_mass = buffer(device.key_mass, {part, heads, current->length});
  args.cos_first = buffer(device.cos_first, {part, heads});
  args.cos_rest = buffer(device.cos_rest, {part, heads});
  ops.attention_statistics(args);

  sinks.add(l, part, fetch(args.sink));
  add_heads(record.first_token_mass, l, args.first_mass);
  add_heads(record.first_token_argmax, l, args.first_argmax);
  add_heads(record.entropy, l, args.entropy);
  add_heads(record.cosine_first, l, args.cos_first);
  add_heads(record.cosine_rest, l, args.cos_rest);
  const std::span<const float> mass = fetch(args.key_mass);
  const std::size_t columns = index(current->length);
  double* out = record.key_mass.data() + index(l) * columns;
  for (std::size_t i = 0; i < mass.size(); ++i) out[i % columns] += static_cast<double>(mass[i]);
}

void ProbePass::State::add_heads(std::vector<double>& out, std::int64_t layer, const Tensor& tensor) {
  const std::size_t heads = index(model.heads);
  const std::span<const float> from = fetch(tensor);
  for (std::size_t i = 0; i < from.size(); ++i) out[index(layer) * heads + i % heads] += static_cast<double>(from[i]);
}

void ProbePass::State::add_key_value_norms(const BlockActivations& activations) {
  const std::int64_t row_heads = model.heads + 2 * model.kv_heads;
  const std::int64_t rows = part * current->length * row_heads;
  const std::span<const float> norms = row_norms(activations.qkv.view({rows, model.head_dim}), values);
  const auto add = [&](std::int64_t head, double& first, double& rest) {
    for (std::int64_t b = 0; b < part; ++b) {
      const float* row = norms.data() + b * current->length * row_heads + head;
      double sum = 0;
      for (std::int64_t t = 1; t < current->length; ++t) sum += static_cast<double>(row[t * row_heads]);
      first += static_cast<double>(row[0]);
      rest += sum / static_cast<double>(current->length - 1);
    }
  };
  for (std::int64_t g = 0; g < model.kv_heads; ++g) {
    const std::size_t place = index(activations.layer * model.kv_heads + g);
    add(model.heads + g, record.key_norm_first[place], record.key_norm_rest[place]);
    add(model.heads + model.kv_heads + g, record.value_norm_first[place], record.value_norm_rest[place]);
  }
}

void ProbePass::State::add_directions(std::int64_t layer, const Tensor& h) {
  const Tensor staged = buffer(device.directions, {2 * part, model.channels});
  for (std::int64_t b = 0; b < part; ++b) {
    ops.copy(staged.rows(b, 1), h.rows(b * current->length, 1));
    ops.copy(staged.rows(part + b, 1), h.rows(b * current->length + current->length / 2, 1));
  }
  ops.copy_to_host(raw.data(), staged);
  const std::span<float> rows = std::span(vectors).first(index(staged.size()));
  widen(raw, staged.dtype, rows);
  first_directions[index(layer)].add(rows.first(rows.size() / 2));
  middle_directions[index(layer)].add(rows.last(rows.size() / 2));
}

void ProbePass::State::add_massive(std::int64_t layer, const Tensor& h) {
  if (!in_parts()) {
    set_massive(layer, ops.abs_statistics(h));
    return;
  }
  const Tensor all = buffer(device.gathered, {model.layers, extents.gathered_rows * model.channels}).rows(layer, 1);
  const Tensor rows(all.data, all.dtype, {extents.gathered_rows, model.channels});
  ops.copy(rows.rows(part_begin * current->length, h.extent(0)), h);
}

void ProbePass::State::set_massive(std::int64_t layer, const AbsStatistics& statistics) {
  record.massive_ratio[index(layer)] = statistics.max / statistics.median;
  record.massive_position[index(layer)] = statistics.max_row % current->length;
  record.massive_channel[index(layer)] = statistics.max_column;
}

std::span<const float> ProbePass::State::row_norms(const Tensor& x, std::vector<float>& out) {
  const Tensor norms = buffer(device.norms, {x.extent(0)});
  ops.row_l2({x, norms});
  ops.copy_to_host(out.data(), norms);
  return std::span(out).first(index(norms.size()));
}

std::span<const float> ProbePass::State::fetch(const Tensor& tensor) {
  ops.copy_to_host(values.data(), tensor);
  return std::span(values).first(index(tensor.size()));
}

ProbePass::ProbePass(Ops& ops, Decoder& decoder, const ProbeConfig& config, std::vector<ProbeSet> sets)
    : state_(std::make_unique<State>(ops, decoder, config, std::move(sets))) {}
ProbePass::~ProbePass() = default;
ProbePass::ProbePass(ProbePass&&) noexcept = default;

std::vector<ProbeRecord> ProbePass::run(std::int64_t step, std::int64_t tokens) {
  std::vector<ProbeRecord> records;
  for (const ProbeSet& set : state_->sets) records.push_back(state_->probe(set, step, tokens));
  return records;
}

const std::vector<ProbeSet>& ProbePass::sets() const { return state_->sets; }

std::int64_t ProbePass::batch_sequences(const DecoderOptions& options, const ProbeSet& set) {
  return std::min(set.sequences, options.max_sequences * options.max_length / set.length);
}

std::vector<MemoryLine> ProbePass::memory_plan(const ModelConfig& model, const DecoderOptions& options,
                                               const ProbeConfig& config, std::span<const ProbeSet> sets,
                                               DType compute_dtype) {
  const DeviceBuffers buffers(model, config, Extents(options, sets), compute_dtype);
  std::vector<MemoryLine> lines;
  for (const ArenaEntry& entry : buffers.arena.entries())
    if (entry.bytes > 0) lines.push_back({buffers.arena.name(), entry.name, entry.bytes});
  return lines;
}

}  // namespace sinkscope
