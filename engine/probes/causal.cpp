#include "engine/probes/causal.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "engine/metrics/json_lines.h"
#include "engine/model/arena.h"
#include "engine/model/random.h"
#include "engine/probes/circuit.h"
#include "engine/probes/probe_pass.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {
namespace {

constexpr double kFormedExcess = 2.0;  // METRICS section 4

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

/// One value a sequence, at one position.
struct PositionSample {
  std::vector<double> score, rate, ratio;
};

/// What a pass measured.
struct Sample {
  PositionSample first, other;
  std::vector<double> loss;
  std::vector<double> norm_ratio;  // R of METRICS section 2, (L+1): mean over sequences
};

/// h^l_0 of every block: mean direction over sequences and mean norm.
class FirstStates final : public ActivationObserver {
 public:
  FirstStates(Ops& ops, std::int64_t layers, std::int64_t channels)
      : ops_(&ops), directions_(index(layers), std::vector<double>(index(channels), 0.0)), norms_(index(layers), 0.0) {}

  void begin(std::int64_t sequences, std::int64_t length) {
    sequences_ = sequences;
    length_ = length;
    count_ += static_cast<double>(sequences);
  }
  void embedding(const Tensor&) override {}
  void block(const BlockActivations& activations) override {
    const Tensor& h = activations.output;
    std::vector<double>& direction = directions_[index(activations.layer)];
    std::vector<std::byte> raw(direction.size() * size_of(h.dtype));
    std::vector<float> row(direction.size());
    for (std::int64_t b = 0; b < sequences_; ++b) {
      ops_->copy_to_host(raw.data(), h.rows(b * length_, 1));
      widen(raw, h.dtype, row);
      const double length = norm_of(row);
      norms_[index(activations.layer)] += length;
      if (length > 0)
        for (std::size_t c = 0; c < row.size(); ++c) direction[c] += static_cast<double>(row[c]) / length;
    }
  }
  double norm(std::int64_t layer) const { return norms_[index(layer)] / count_; }
  /// The mean direction at this norm.
  std::vector<float> vector(std::int64_t layer, double norm) const { return scaled(directions_[index(layer)], norm); }

  template <class Values>
  static double norm_of(const Values& values) {
    double squares = 0;
    for (const auto x : values) squares += static_cast<double>(x) * static_cast<double>(x);
    return std::sqrt(squares);
  }
  static std::vector<float> scaled(const std::vector<double>& direction, double norm) {
    const double length = norm_of(direction);
    std::vector<float> out;
    for (const double x : direction) out.push_back(static_cast<float>(length > 0 ? x / length * norm : 0.0));
    return out;
  }

 private:
  Ops* ops_;
  std::vector<std::vector<double>> directions_;  // (L, C) sums of unit vectors
  std::vector<double> norms_;                    // (L) sums
  std::int64_t sequences_ = 0, length_ = 0;
  double count_ = 0;
};

nlohmann::ordered_json to_json(const Estimate& estimate) {
  return {{"value", number_to_json(estimate.value)},
          {"low", number_to_json(estimate.low)},
          {"high", number_to_json(estimate.high)}};
}

nlohmann::ordered_json to_json(const SinkEstimates& sink) {
  return {{"score", to_json(sink.score)}, {"excess", to_json(sink.excess)}, {"rate", to_json(sink.rate)},
          {"ratio", to_json(sink.ratio)}};
}

/// A pass to come. `written`: to position p after the layer; empty: nothing.
struct PlannedEdit {
  std::string kind;
  std::optional<std::int64_t> layer;
  ForwardEdits edits;
  std::vector<float> written{};
};

/// Room for a vector that is written into the residual stream, as it comes and in the compute dtype.
struct VectorBuffers {
  Arena arena{"causal tests"};
  std::size_t single, real;

  VectorBuffers(std::int64_t channels, DType compute)
      : single(arena.request("vector, fp32", DType::f32, channels)), real(arena.request("vector", compute, channels)) {}
};

}  // namespace

struct CausalTests::State {
  State(Ops& ops_in, Decoder& decoder_in, const CausalOptions& options_in)
      : ops(ops_in), decoder(decoder_in), model(decoder_in.config()), options(options_in),
        vector(model.channels, ops_in.compute_dtype()) {
    const auto fail = [](const std::string& what) { throw std::invalid_argument("CausalTests: " + what); };
    if (options.position < 1) fail("position " + std::to_string(options.position) + ", expected at least 1");
    if (decoder.options().sink_positions <= options.position)
      fail("position " + std::to_string(options.position) + ", expected one below the decoder's " +
           std::to_string(decoder.options().sink_positions) + " sink positions");
    if (!decoder.options().residual_norms) fail("the decoder keeps no residual norms");
    if (options.isolated_layers < 1)
      fail("isolated_layers " + std::to_string(options.isolated_layers) + ", expected at least 1");
    if (options.rotary_shift < 1)
      fail("rotary_shift " + std::to_string(options.rotary_shift) + ", expected at least 1");
    vector.arena.allocate(ops);
  }

  Sample measure(const ProbeSet& set, const ForwardEdits& edits, FirstStates* states = nullptr);
  Tensor on_device(const std::vector<float>& values);
  void add_part(Sample& sample, const ProbeSet& set, std::int64_t begin, std::int64_t sequences,
                const std::vector<float>& losses) const;
  void add_ratios(Sample& sample, std::int64_t sequences, std::int64_t length) const;
  SinkEstimates estimate(const Bootstrap& bootstrap, const PositionSample& sample, double uniform) const;
  CausalTest compare(const Bootstrap& bootstrap, const ProbeSet& set, const Sample& before, const Sample& after) const;

  Ops& ops;
  Decoder& decoder;
  const ModelConfig model;
  const CausalOptions options;
  VectorBuffers vector;
};

Tensor CausalTests::State::on_device(const std::vector<float>& values) {
  const Tensor from = vector.arena.tensor(vector.single, {model.channels}),
               to = vector.arena.tensor(vector.real, {model.channels});
  ops.copy_from_host(from, values.data());
  if (to.dtype == DType::f32)
    ops.copy(to, from);
  else
    ops.convert(to, from);
  return to;
}

Sample CausalTests::State::measure(const ProbeSet& set, const ForwardEdits& edits, FirstStates* states) {
  const std::int64_t most = ProbePass::batch_sequences(decoder.options(), set);
  Sample sample;
  sample.norm_ratio.assign(index(model.layers + 1), 0.0);
  std::vector<float> losses;
  for (std::int64_t begin = 0, part = 0; begin < set.sequences; begin += part) {
    part = std::min(most, set.sequences - begin);
    const std::int64_t offset = begin * set.length;
    if (states != nullptr) states->begin(part, set.length);
    decoder.forward(part, set.length, set.inputs.data() + offset, states, edits);
    losses.resize(index(part * set.length));
    decoder.loss(set.targets.data() + offset, losses.data());
    add_part(sample, set, begin, part, losses);
  }
  for (double& ratio : sample.norm_ratio) ratio /= static_cast<double>(set.sequences);
  return sample;
}

void CausalTests::State::add_part(Sample& sample, const ProbeSet& set, std::int64_t begin, std::int64_t sequences,
                                  const std::vector<float>& losses) const {
  const std::int64_t L = model.layers, H = model.heads, K = decoder.options().sink_positions;
  const auto places = static_cast<double>(L * H);
  const std::vector<float> scores = decoder.sink_scores();  // (L, B, H, K)
  const auto threshold = static_cast<float>(options.sink_threshold);
  for (std::int64_t b = 0; b < sequences; ++b) {
    const auto add_position = [&](std::int64_t position, PositionSample& to) {
      double sum = 0, above = 0;
      for (std::int64_t l = 0; l < L; ++l)
        for (std::int64_t h = 0; h < H; ++h) {
          const float score = scores[index(((l * sequences + b) * H + h) * K + position)];
          sum += static_cast<double>(score);
          if (score > threshold) above += 1;
        }
      to.score.push_back(sum / places);
      to.rate.push_back(above / places);
    };
    add_position(0, sample.first);
    add_position(options.position, sample.other);
    double loss = 0, targets = 0;
    for (std::int64_t t = 0; t < set.length; ++t) {
      if (set.targets[index((begin + b) * set.length + t)] < 0) continue;
      loss += static_cast<double>(losses[index(b * set.length + t)]);
      targets += 1;
    }
    sample.loss.push_back(targets > 0 ? loss / targets : std::numeric_limits<double>::quiet_NaN());
  }
  add_ratios(sample, sequences, set.length);
}

void CausalTests::State::add_ratios(Sample& sample, std::int64_t sequences, std::int64_t length) const {
  const std::vector<float> norms = decoder.residual_norms();  // (L+1, B, T)
  const std::int64_t p = options.position;
  for (std::int64_t b = 0; b < sequences; ++b) {
    double first = 0, other = 0;
    for (std::int64_t row = 0; row <= model.layers; ++row) {
      const float* norm = norms.data() + (row * sequences + b) * length;
      double rest = 0;
      for (std::int64_t t = 1; t < length; ++t)
        if (t != p) rest += static_cast<double>(norm[t]);
      const double all = rest + static_cast<double>(norm[p]);
      sample.norm_ratio[index(row)] += static_cast<double>(norm[0]) / (all / static_cast<double>(length - 1));
      if (row == 0) continue;
      rest /= static_cast<double>(length - 2);
      first = std::max(first, static_cast<double>(norm[0]) / rest);
      other = std::max(other, static_cast<double>(norm[p]) / rest);
    }
    sample.first.ratio.push_back(first);
    sample.other.ratio.push_back(other);
  }
}

SinkEstimates CausalTests::State::estimate(const Bootstrap& bootstrap, const PositionSample& sample,
                                           double uniform) const {
  SinkEstimates out;
  out.score = bootstrap.mean(sample.score);
  out.excess = {out.score.value / uniform, out.score.low / uniform, out.score.high / uniform};
  out.rate = bootstrap.mean(sample.rate);
  out.ratio = bootstrap.mean(sample.ratio);
  return out;
}

CausalTest CausalTests::State::compare(const Bootstrap& bootstrap, const ProbeSet& set, const Sample& before,
                                       const Sample& after) const {
  const std::vector<double> uniform = uniform_sink_scores(set.length, options.position + 1);
  const double first = uniform.front(), other = uniform.back();
  const auto change = [&](const std::vector<double>& from, const std::vector<double>& to) {
    std::vector<double> differences;
    for (std::size_t i = 0; i < from.size(); ++i) differences.push_back(to[i] - from[i]);
    return bootstrap.mean(differences);
  };
  CausalTest test;
  test.first = estimate(bootstrap, after.first, first);
  test.other = estimate(bootstrap, after.other, other);
  test.loss = bootstrap.mean(after.loss);
  test.score_change = change(before.first.score, after.first.score);
  test.other_score_change = change(before.other.score, after.other.score);
  test.loss_change = change(before.loss, after.loss);
  const std::array<std::span<const double>, 2> of_first = {before.first.score, after.first.score};
  test.removed =
      bootstrap.of_means(of_first, [&](std::span<const double> m) { return (m[0] - m[1]) / (m[0] - first); });
  const std::array<std::span<const double>, 3> of_other = {before.first.score, before.other.score, after.other.score};
  test.moved = bootstrap.of_means(
      of_other, [&](std::span<const double> m) { return (m[2] - m[1]) / other / (m[0] / first - 1); });
  return test;
}

CausalTests::CausalTests(Ops& ops, Decoder& decoder, const CausalOptions& options)
    : state_(std::make_unique<State>(ops, decoder, options)) {}
CausalTests::~CausalTests() = default;
CausalTests::CausalTests(CausalTests&&) noexcept = default;

std::vector<MemoryLine> CausalTests::memory_plan(const ModelConfig& model, DType compute_dtype) {
  const VectorBuffers vector(model.channels, compute_dtype);
  std::vector<MemoryLine> lines;
  for (const ArenaEntry& entry : vector.arena.entries())
    lines.push_back({vector.arena.name(), entry.name, entry.bytes});
  return lines;
}

CausalRecord CausalTests::run(const ProbeSet& set, std::span<const ProbeSet> controls,
                              const std::function<void(const CausalProgress&)>& progress) {
  State& s = *state_;
  const std::int64_t L = s.model.layers, p = s.options.position;
  const auto check = [&](const ProbeSet& checked, std::int64_t least) {
    if (checked.length < least || checked.length > s.decoder.options().max_length)
      throw std::invalid_argument("CausalTests: probe set \"" + checked.name + "\" has length " +
                                  std::to_string(checked.length) + ", expected " + std::to_string(least) + " to " +
                                  std::to_string(s.decoder.options().max_length));
  };
  check(set, std::max<std::int64_t>(s.decoder.options().sink_positions, 3));
  for (const ProbeSet& control : controls)
    check(control, std::max<std::int64_t>(s.decoder.options().sink_positions, 3));
  if (set.sequences < 2)
    throw std::invalid_argument("CausalTests: probe set \"" + set.name +
                                "\" has 1 sequence, expected at least 2 for intervals");

  CausalRecord record;
  record.set = set.name;
  record.length = set.length;
  record.sequences = set.sequences;
  record.with_bos = set.with_bos;
  record.position = p;
  record.sink_threshold = s.options.sink_threshold;
  record.confidence = s.options.confidence;
  record.resamples = s.options.resamples;

  const Bootstrap bootstrap(set.sequences, s.options.resamples, s.options.confidence, s.options.seed);
  FirstStates states(s.ops, L, s.model.channels);
  const Sample before = s.measure(set, {}, &states);
  record.step_up_layer = step_up_layer(before.norm_ratio);
  // What is written after the last block reaches no attention any more.
  const std::int64_t last = std::max<std::int64_t>(L - 2, 0);
  const auto ratios = before.norm_ratio.begin() + 1;
  record.source_layer = record.step_up_layer && *record.step_up_layer <= last
                            ? *record.step_up_layer
                            : std::max_element(ratios, ratios + last + 1) - ratios;
  record.tests.push_back(s.compare(bootstrap, set, before, before));
  record.tests.back().kind = "none";
  record.sink_formed = record.tests.front().first.excess.low >= kFormedExcess;

  std::vector<PlannedEdit> planned;
  const auto add = [&](const std::string& kind, std::int64_t layer, const ForwardEdits& edits) {
    planned.push_back({.kind = kind, .layer = layer, .edits = edits});
  };
  for (std::int64_t l = 0; l < L; ++l) add("knock_out_mlp", l, {.knock_out = {Branch::mlp, l, 0}});
  for (std::int64_t l = 0; l < L; ++l) add("knock_out_attention", l, {.knock_out = {Branch::attention, l, 0}});

  const auto write = [&](const std::string& kind, std::int64_t layer, const std::vector<float>& vector) {
    planned.push_back({.kind = kind, .layer = layer, .edits = {}, .written = vector});
  };
  for (std::int64_t l = 0; l + 1 < L; ++l) write("transplant", l, states.vector(l, states.norm(l)));
  const std::int64_t source = record.source_layer;
  if (L > 1) {
    std::vector<double> direction(index(s.model.channels));
    for (std::size_t c = 0; c < direction.size(); ++c)
      direction[c] = random_normal(random_key(s.options.seed, "causal.direction"), c);
    write("transplant_random_direction", source, FirstStates::scaled(direction, states.norm(source)));
    write("transplant_small", source,
          states.vector(source, states.norm(source) / before.norm_ratio[index(source + 1)]));
  }

  for (const std::int64_t layers : std::set<std::int64_t>{std::min(s.options.isolated_layers, L), source + 1, L})
    add("isolate", layers, {.isolation = {p, layers}});
  if (s.model.position == PositionEncoding::rope && s.options.rotary_shift < set.length)
    add("rotary_shift", s.options.rotary_shift, {.first_rotary_index = s.options.rotary_shift});

  CausalProgress done{.passes = static_cast<std::int64_t>(planned.size())};
  double tokens = static_cast<double>(planned.size() * index(set.sequences * set.length)), tokens_done = 0;
  for (const ProbeSet& control : controls) {
    if (control.name == set.name) continue;
    ++done.passes;
    tokens += static_cast<double>(control.sequences * control.length);
  }
  if (progress) progress(done);
  const auto passed = [&](const ProbeSet& through) {
    ++done.done;
    tokens_done += static_cast<double>(through.sequences * through.length);
    done.share = tokens_done / tokens;
    if (progress) progress(done);
  };
  for (PlannedEdit& next : planned) {
    if (!next.written.empty()) next.edits.transplant = {*next.layer, p, s.on_device(next.written)};
    CausalTest test = s.compare(bootstrap, set, before, s.measure(set, next.edits));
    test.kind = next.kind;
    test.layer = next.layer;
    record.tests.push_back(test);
    passed(set);
  }

  const auto add_control = [&](const ProbeSet& control, const Sample& sample) {
    const Bootstrap own(control.sequences, s.options.resamples, s.options.confidence, s.options.seed);
    record.controls.push_back({.set = control.name,
                               .length = control.length,
                               .sequences = control.sequences,
                               .with_bos = control.with_bos,
                               .first = s.estimate(own, sample.first, uniform_sink_scores(control.length, 1).front()),
                               .loss = own.mean(sample.loss)});
  };
  add_control(set, before);
  for (const ProbeSet& control : controls) {
    if (control.name == set.name) continue;
    add_control(control, s.measure(control, {}));
    passed(control);
  }
  return record;
}

CausalOptions causal_options(const ProbeConfig& config) {
  CausalOptions options;
  options.position = std::min(options.position, config.positions - 1);
  options.sink_threshold = config.sink_threshold;
  return options;
}

const ProbeSet& causal_probe_set(std::span<const ProbeSet> sets, BosPolicy bos) {
  const std::string phases = phase_probe_set(bos);
  for (const std::string& name :
       {phases == "natural_bos" ? std::string("natural_short_bos") : std::string("natural_short"), phases})
    for (const ProbeSet& set : sets)
      if (set.name == name) return set;
  return sets.front();
}

nlohmann::ordered_json to_json(const CausalRecord& record) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["set"] = record.set;
  json["length"] = record.length;
  json["sequences"] = record.sequences;
  json["with_bos"] = record.with_bos;
  json["position"] = record.position;
  json["sink_threshold"] = record.sink_threshold;
  json["confidence"] = record.confidence;
  json["resamples"] = record.resamples;
  json["sink_formed"] = record.sink_formed;
  json["step_up_layer"] = record.step_up_layer ? Json(*record.step_up_layer) : Json(nullptr);
  json["source_layer"] = record.source_layer;
  json["tests"] = Json::array();
  for (const CausalTest& test : record.tests)
    json["tests"].push_back({{"kind", test.kind},
                             {"layer", test.layer ? Json(*test.layer) : Json(nullptr)},
                             {"first", to_json(test.first)},
                             {"other", to_json(test.other)},
                             {"loss", to_json(test.loss)},
                             {"score_change", to_json(test.score_change)},
                             {"other_score_change", to_json(test.other_score_change)},
                             {"loss_change", to_json(test.loss_change)},
                             {"removed", to_json(test.removed)},
                             {"moved", to_json(test.moved)}});
  json["controls"] = Json::array();
  for (const CausalControl& control : record.controls)
    json["controls"].push_back({{"set", control.set},
                                {"length", control.length},
                                {"sequences", control.sequences},
                                {"with_bos", control.with_bos},
                                {"first", to_json(control.first)},
                                {"loss", to_json(control.loss)}});
  return json;
}

}  // namespace sinkscope
