#include "engine/probes/probe_pass.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/probes/circuit.h"
#include "engine/probes/directions.h"
#include "engine/probes/probe_sums.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {

namespace {

/// The largest part of any set, which sizes every buffer.
struct Extents {
  std::int64_t sequences = 0;       // B
  std::int64_t rows = 0;            // B*T
  std::int64_t length = 0;          // T
  std::int64_t gathered_rows = 0;   // B*T of the largest set that goes through in parts; 0: none does

  Extents(const DecoderOptions& options, std::span<const ProbeSet> sets) {
    for (const ProbeSet& set : sets) {
      const std::int64_t batch = ProbePass::batch_sequences(options, set);
      sequences = std::max(sequences, batch);
      rows = std::max(rows, batch * set.length);
      length = std::max(length, set.length);
      if (batch < set.sequences) gathered_rows = std::max(gathered_rows, set.sequences * set.length);
    }
  }
};

/// The device's side: what the operations give for every layer of a part, and its sums.
struct DeviceBuffers {
  Arena arena{"probes"};
  std::size_t sink, heads, key_mass, norms, head_norms, sums, gathered;

  DeviceBuffers(const ModelConfig& model, const ProbeConfig& config, const Extents& extents, DType real) {
    const std::int64_t L = model.layers, heads_of_part = extents.sequences * model.heads;
    sink = arena.request("sink scores", DType::f32, L * heads_of_part * config.positions);
    heads = arena.request("statistics of heads", DType::f32, head_statistics(model) * L * heads_of_part);
    key_mass = arena.request("key mass", DType::f32, L * extents.rows * model.heads);
    norms = arena.request("row norms", DType::f32, (ProbeSums::places(model) + L) * extents.rows);
    head_norms = arena.request("key and value norms", DType::f32, 2 * model.kv_heads * L * extents.rows);
    sums = arena.request("sums over sequences", DType::f64,
                         ProbeSums::elements(model, config.positions, extents.length));
    // The median over a set needs all of its rows at once.
    gathered = arena.request("residual stream of a set in parts", real, L * extents.gathered_rows * model.channels);
  }
};

void check_set(const ProbeSet& set, const DecoderOptions& options, const ProbeConfig& config) {
  const std::string at = "ProbePass: probe set \"" + set.name + "\": ";
  const std::int64_t least = std::max<std::int64_t>(2, config.positions);
  if (set.sequences < 1) throw std::invalid_argument(at + "has no sequences");
  if (set.length < least || set.length > options.max_length)
    throw std::invalid_argument(at + "length " + std::to_string(set.length) + ", expected " + std::to_string(least) +
                                " (the positions watched, at least 2) to " + std::to_string(options.max_length) +
                                " (the decoder's max_length)");
  const std::size_t size = static_cast<std::size_t>(set.sequences * set.length);
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
    losses.resize(static_cast<std::size_t>(extents.rows));
  }

  ProbeRecord probe(const ProbeSet& set, std::int64_t step, std::int64_t tokens);
  void begin(const ProbeSet& set, std::int64_t step, std::int64_t tokens);
  void finish();

  // While a part goes through, operations are enqueued alone: nothing waits for the device.
  void embedding(const Tensor& h) override { measure_rows(h, 0); }
  void block(const BlockActivations& activations) override;
  void measure_rows(const Tensor& x, std::int64_t place);
  void measure_attention(const BlockActivations& activations);
  void measure_keys_and_values(const BlockActivations& activations);
  void measure_directions(std::int64_t layer, const Tensor& h);
  void measure_magnitudes(std::int64_t layer, const Tensor& h);
  void add_part();

  // Out of the sums of the whole set.
  void fill_attention();
  void fill_norms();
  void fill_hidden_states();

  Tensor buffer(std::size_t which, std::initializer_list<std::int64_t> shape) const {
    return device.arena.tensor(which, shape);
  }
  // Of every layer of the part at hand.
  Tensor sink_scores() const { return buffer(device.sink, {model.layers, part, model.heads, config.positions}); }
  Tensor statistics_of_heads() const {  // the layers of each statistic
    return buffer(device.heads, {head_statistics(model) * model.layers, part, model.heads, 1});
  }
  Tensor key_masses() const { return buffer(device.key_mass, {model.layers, part * model.heads, 1, current->length}); }
  /// Of the places of ProbeSums, then of m^l of each layer.
  Tensor norms() const {
    return buffer(device.norms, {ProbeSums::places(model) + model.layers, part, current->length});
  }
  /// Of the keys of each layer, then its values.
  Tensor head_norms() const {
    return buffer(device.head_norms, {2 * model.kv_heads * model.layers, part, current->length});
  }
  Tensor gathered_rows(std::int64_t layer, std::int64_t first, std::int64_t count) const {
    return buffer(device.gathered, {model.layers * extents.gathered_rows, model.channels})
        .rows(layer * extents.gathered_rows + first, count);
  }
  bool in_parts() const { return batch_sequences(decoder.options(), *current) < current->sequences; }

  /// Means over the sequences of the set, of what was summed.
  std::vector<double> means(const Tensor& view) const;

  Ops& ops;
  Decoder& decoder;
  const ModelConfig model;
  const ProbeConfig config;
  const std::vector<ProbeSet> sets;
  const Extents extents;
  DeviceBuffers device;
  std::vector<float> losses;         // (B*T)

  const ProbeSet* current = nullptr;
  std::int64_t part_begin = 0;       // first sequence of the part at hand
  std::int64_t part = 0;             // its sequences, B
  ProbeSums sums;                    // of the set at hand
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

  sums = ProbeSums(buffer(device.sums, {ProbeSums::elements(model, config.positions, extents.length)}), model,
                   config.positions, set.length);
  sums.zero(ops);
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
    add_part();
    decoder.loss(targets, losses.data());
    for (std::int64_t n = 0; n < part * set.length; ++n) {
      if (targets[n] < 0) continue;
      loss += static_cast<double>(losses[static_cast<std::size_t>(n)]);
      predicted += 1;
    }
  }
  record.loss = predicted > 0 ? loss / predicted : std::numeric_limits<double>::quiet_NaN();
  finish();
  return std::move(record);
}

void ProbePass::State::block(const BlockActivations& activations) {
  const std::int64_t L = model.layers, l = activations.layer;
  const StageRange range(ops, "probes of a block", l);
  measure_attention(activations);
  measure_keys_and_values(activations);
  measure_rows(activations.output, 1 + l);
  measure_rows(activations.attention_output, 1 + L + l);
  measure_rows(activations.mlp_output, 1 + 2 * L + l);
  measure_rows(activations.middle, ProbeSums::places(model) + l);
  measure_directions(l, activations.output);
  measure_magnitudes(l, activations.output);
}

void ProbePass::State::measure_rows(const Tensor& x, std::int64_t place) {
  const std::int64_t rows = x.extent(0);
  ops.row_l2({.x = x.view({rows, 1, model.channels}), .first = 0, .out = norms().rows(place, 1).view({1, rows})});
}

void ProbePass::State::measure_attention(const BlockActivations& activations) {
  const std::int64_t l = activations.layer, H = model.heads;
  const auto statistic = [&](HeadStatistic which) {
    return statistics_of_heads().rows(static_cast<std::int64_t>(which) * model.layers + l, 1).view({part, H});
  };
  ops.attention_statistics({.qkv = activations.qkv,
                            .query_heads = static_cast<int>(H),
                            .kv_heads = static_cast<int>(model.kv_heads),
                            .lse = activations.lse,
                            .sink = sink_scores().rows(l, 1).view({part, H, config.positions}),
                            .first_mass = statistic(HeadStatistic::first_mass),
                            .first_argmax = statistic(HeadStatistic::first_argmax),
                            .entropy = statistic(HeadStatistic::entropy),
                            .key_mass = key_masses().rows(l, 1).view({part, H, current->length}),
                            .cos_first = statistic(HeadStatistic::cos_first),
                            .cos_rest = statistic(HeadStatistic::cos_rest),
                            .sink_logits = activations.sink_logits,
                            .sink_logit_mass =
                                activations.sink_logits ? statistic(HeadStatistic::sink_logit_mass) : Tensor()});
}

void ProbePass::State::measure_keys_and_values(const BlockActivations& activations) {
  const std::int64_t rows = part * current->length, selected = 2 * model.kv_heads;
  ops.row_l2({.x = activations.qkv.view({rows, model.heads + selected, model.head_dim}),
              .first = static_cast<int>(model.heads),
              .out = head_norms().rows(activations.layer * selected, selected).view({selected, rows})});
}

void ProbePass::State::measure_directions(std::int64_t layer, const Tensor& h) {
  const Tensor x = h.view({part, current->length, model.channels});
  for (const std::int64_t middle : {0, 1})
    ops.direction_sums({.x = x,
                        .position = middle * (current->length / 2),
                        .sum = sums.directions.rows(2 * layer + middle, 1).view({model.channels}),
                        .count = sums.direction_counts.rows(2 * layer + middle, 1)});
}

void ProbePass::State::measure_magnitudes(std::int64_t layer, const Tensor& h) {
  if (in_parts())
    ops.copy(gathered_rows(layer, part_begin * current->length, h.extent(0)), h);
  else
    ops.abs_statistics({.x = h, .out = sums.massive.rows(layer, 1).view({4})});
}

/// Sums the part over its sequences.
void ProbePass::State::add_part() {
  const std::int64_t L = model.layers, places = ProbeSums::places(model);
  ops.sink_sums({.sink = sink_scores(),
                 .threshold = static_cast<float>(config.sink_threshold),
                 .scores = sums.sink_scores,
                 .above = sums.sinks_above});
  ops.sink_sums({.sink = statistics_of_heads(), .scores = sums.heads, .above = {}});
  ops.sink_sums({.sink = key_masses(), .scores = sums.key_mass, .above = {}});
  ops.norm_sums({.norms = norms().rows(0, places),
                 .first = sums.norm_first,
                 .rest = sums.norm_rest,
                 .ratio = sums.norm_ratio});
  // G: |h^l| / |m^l|, position 0 over the rest.
  ops.norm_sums({.norms = norms().rows(1, L),
                 .over = norms().rows(places, L),
                 .first = sums.gain_first,
                 .rest = sums.gain_rest,
                 .ratio = sums.gain_ratio});
  ops.norm_sums({.norms = head_norms(), .first = sums.head_first, .rest = sums.head_rest, .ratio = sums.head_ratio});
}

void ProbePass::State::finish() {
  if (in_parts())
    for (std::int64_t l = 0; l < model.layers; ++l)
      ops.abs_statistics({.x = gathered_rows(l, 0, current->sequences * current->length),
                          .out = sums.massive.rows(l, 1).view({4})});
  sums.read(ops);
  fill_attention();
  fill_norms();
  fill_hidden_states();
  record.step_up_layer = step_up_layer(record.norm_ratio);
  record.concentration = first_two_layer_concentration(record.norm_ratio);
}

std::vector<double> ProbePass::State::means(const Tensor& view) const {
  const std::span<const double> values = sums.values(view);
  std::vector<double> out(values.begin(), values.end());
  for (double& value : out) value /= static_cast<double>(current->sequences);
  return out;
}

/// Section 1, and the cosines of section 2.
void ProbePass::State::fill_attention() {
  const std::int64_t L = model.layers;
  SinkTally sinks(L, model.heads, config.positions);
  sinks.add_sums(current->sequences, sums.values(sums.sink_scores), sums.values(sums.sinks_above));
  record.sink_score = sinks.head_scores();
  record.sink_rate = sinks.rates();
  record.sink_rate_layer = sinks.layer_rates();
  record.sink_rate_from = sinks.rates(config.from_layer);
  const std::vector<double> scores = sinks.scores(), layer_scores = sinks.layer_scores();
  record.sink_excess = sink_excess(scores, record.length);
  record.dominant_position = dominant_position(scores).value_or(-1);
  for (std::int64_t l = 0; l < L; ++l) {
    const auto of_layer = std::span(layer_scores)
                              .subspan(static_cast<std::size_t>(l * config.positions),
                                       static_cast<std::size_t>(config.positions));
    record.dominant_position_layer.push_back(dominant_position(of_layer).value_or(-1));
  }
  const auto statistic = [&](HeadStatistic which) {
    return means(sums.heads.rows(static_cast<std::int64_t>(which) * L, L));
  };
  record.first_token_mass = statistic(HeadStatistic::first_mass);
  record.first_token_argmax = statistic(HeadStatistic::first_argmax);
  record.entropy = statistic(HeadStatistic::entropy);
  record.cosine_first = statistic(HeadStatistic::cos_first);
  record.cosine_rest = statistic(HeadStatistic::cos_rest);
  record.key_mass = means(sums.key_mass);
  for (double& mass : record.key_mass) mass /= static_cast<double>(model.heads);
  if (model.attention.sink == AttentionSink::none) return;
  const std::vector<double> masses = statistic(HeadStatistic::sink_logit_mass);
  const auto heads = static_cast<std::size_t>(model.heads);
  record.sink_logit_mass.assign(static_cast<std::size_t>(L), 0.0);
  for (std::size_t i = 0; i < masses.size(); ++i)
    record.sink_logit_mass[i / heads] += masses[i] / static_cast<double>(model.heads);
}

void ProbePass::State::fill_norms() {
  const std::int64_t L = model.layers, G = model.kv_heads;
  const auto rows = [&](std::int64_t place, std::int64_t count, std::vector<double>& first, std::vector<double>& rest) {
    first = means(sums.norm_first.rows(place, count));
    rest = means(sums.norm_rest.rows(place, count));
  };
  rows(0, L + 1, record.residual_norm, record.residual_norm_rest);
  rows(L + 1, L, record.attention_output_norm, record.attention_output_norm_rest);
  rows(2 * L + 1, L, record.mlp_output_norm, record.mlp_output_norm_rest);
  record.norm_ratio = means(sums.norm_ratio.rows(0, L + 1));
  record.mlp_amplification = means(sums.gain_ratio);
  const auto append = [&](std::vector<double>& field, const Tensor& heads, std::int64_t begin) {
    const std::vector<double> more = means(heads.rows(begin, G));
    field.insert(field.end(), more.begin(), more.end());
  };
  for (std::int64_t l = 0; l < L; ++l) {
    append(record.key_norm_first, sums.head_first, 2 * G * l);
    append(record.key_norm_rest, sums.head_rest, 2 * G * l);
    append(record.value_norm_first, sums.head_first, 2 * G * l + G);
    append(record.value_norm_rest, sums.head_rest, 2 * G * l + G);
  }
}

/// Massive activations and directions of h^l.
void ProbePass::State::fill_hidden_states() {
  const auto stability = [&](std::int64_t row) {
    return mean_pairwise_cosine(sums.values(sums.directions.rows(row, 1)),
                                sums.values(sums.direction_counts.rows(row, 1)).front(), current->sequences);
  };
  for (std::int64_t l = 0; l < model.layers; ++l) {
    const std::span<const double> found = sums.values(sums.massive.rows(l, 1));  // maximum, row, column, median
    record.massive_ratio.push_back(found[0] / found[3]);
    record.massive_position.push_back(static_cast<std::int64_t>(found[1]) % current->length);
    record.massive_channel.push_back(static_cast<std::int64_t>(found[2]));
    record.direction_stability.push_back(stability(2 * l));
    record.direction_stability_middle.push_back(stability(2 * l + 1));
  }
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
