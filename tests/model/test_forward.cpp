// The forward pass against the double-precision reference: logits, losses, sink scores, residual
// norms and every activation that observers see.
#include <cmath>

#include "tests/catch.h"
#include "tests/model/reference_decoder.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr std::int64_t kWatched = 3;

Doubles row_norms(const Doubles& x, std::int64_t channels) {
  Doubles out;
  for (std::size_t begin = 0; begin < x.size(); begin += at(channels)) {
    double square = 0;
    for (std::size_t i = begin; i < begin + at(channels); ++i) square += x[i] * x[i];
    out.push_back(std::sqrt(square));
  }
  return out;
}

void check_forward(const ModelConfig& config, const Batch& batch, std::uint64_t seed, bool training) {
  INFO(test::describe(config) << ", seed " << seed << ", " << batch.sequences << " x " << batch.length);
  const auto ops = make_cpu_ops(seed % 8 == 3 ? 2 : 1);  // a team of threads costs more than these sizes
  const ParameterLayout layout(config);
  const Values parameters = strong_parameters(layout, seed);
  const std::int64_t watched = std::min(kWatched, batch.length);
  Decoder decoder = make_decoder(*ops, config,
                                 {.max_sequences = batch.sequences,
                                  .max_length = batch.length,
                                  .sink_positions = watched,
                                  .residual_norms = true,
                                  .training = training},
                                 parameters);
  const Step step = run_step(*ops, decoder, batch, 0.0F);
  Values logits(at(batch.sequences * batch.length * config.vocab_size));
  for (std::int64_t row = 0; row < batch.sequences * batch.length; ++row)
    decoder.logits(row, logits.data() + row * config.vocab_size);

  const reference::Activations run =
      reference::forward(config, layout, doubles(parameters), batch.sequences, batch.length, batch.inputs);
  CHECK(relative_error(doubles(logits), run.logits) < kForward);
  CHECK(relative_error(doubles(step.losses), reference::loss(config, run, batch.targets).per_target) < kForward);
  CHECK(relative_error(doubles(step.sink_scores), reference::sink_scores(config, run, watched)) < kForward);
  CHECK(relative_error(doubles(step.residual_norms), reference::residual_norms(config, run)) < kForward);
}

/// The sums of a step's two batches against its scores and norms, one sequence after the other.
void check_step_sums(const ModelConfig& config) {
  const std::int64_t K = 3, T = 7, L = config.layers, HK = config.heads * K;
  const auto ops = make_cpu_ops(2);
  const ParameterLayout layout(config);
  Decoder decoder =
      make_decoder(*ops, config, {.max_sequences = 4, .max_length = T, .sink_positions = K, .residual_norms = true},
                   strong_parameters(layout, 5));
  Random random(17);
  const double threshold = 0.25;
  Doubles scores(at(L * HK), 0.0), above(at(L * HK), 0.0), first(at((L + 1) * K), 0.0), rest(at(L + 1), 0.0),
      ratio(at(L + 1), 0.0);
  for (const bool again : {false, true}) {  // zeroed sums begin anew
    decoder.zero_step_sums();
    for (const std::int64_t sequences : {4, 3}) {
      const Batch batch = random_batch(random, config, sequences, T);
      const Step step = run_step(*ops, decoder, batch, 0.0F);
      decoder.add_step_sums(threshold);
      if (!again) continue;
      for (std::int64_t l = 0; l < L; ++l)
        for (std::int64_t i = 0; i < sequences * HK; ++i) {
          const float score = step.sink_scores[at(l * sequences * HK + i)];
          scores[at(l * HK + i % HK)] += static_cast<double>(score);
          above[at(l * HK + i % HK)] += score > static_cast<float>(threshold) ? 1 : 0;
        }
      for (std::int64_t r = 0; r <= L; ++r)
        for (std::int64_t b = 0; b < sequences; ++b) {
          double tail = 0, others = 0;
          for (std::int64_t t = 0; t < T; ++t) {
            const auto norm = static_cast<double>(step.residual_norms[at((r * sequences + b) * T + t)]);
            if (t < K) first[at(r * K + t)] += norm;
            if (t > 0) others += norm;
            if (t >= K) tail += norm;
          }
          const auto norm = static_cast<double>(step.residual_norms[at((r * sequences + b) * T)]);
          ratio[at(r)] += norm * static_cast<double>(T - 1) / others;
          rest[at(r)] += tail / static_cast<double>(T - K);
        }
    }
  }
  const StepSums sums = decoder.step_sums();
  CHECK(sums.layers == L);
  CHECK(sums.heads == config.heads);
  CHECK(sums.positions == K);
  CHECK(sums.sequences == 7);
  CHECK(sums.sink_scores == scores);
  CHECK(sums.sinks_above == above);
  CHECK(sums.norm_first == first);
  CHECK(relative_error(sums.norm_rest, rest) < 1e-12);
  CHECK(relative_error(sums.norm_ratio, ratio) < 1e-12);
}

/// Copies what it is shown.
class Recorder final : public ActivationObserver {
 public:
  struct Block {
    std::int64_t layer = 0;
    Values input, qkv, lse, attention_output, middle, mlp_output, output;
  };

  explicit Recorder(Ops& ops) : ops_(ops) {}
  void embedding(const Tensor& h) override {
    CHECK(blocks.empty());
    first = to_host(ops_, h);
  }
  void block(const BlockActivations& a) override {
    blocks.push_back({a.layer, to_host(ops_, a.input), to_host(ops_, a.qkv), to_host(ops_, a.lse),
                      to_host(ops_, a.attention_output), to_host(ops_, a.middle), to_host(ops_, a.mlp_output),
                      to_host(ops_, a.output)});
  }

  Values first;
  std::vector<Block> blocks;

 private:
  Ops& ops_;
};

Values sum(Values a, const Values& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b.at(i);
  return a;
}

/// A[t,0] from what an observer sees, (B, H, T).
Doubles first_attention(const ModelConfig& config, const Batch& batch, const Recorder::Block& block) {
  const std::int64_t H = config.heads, G = config.kv_heads, D = config.head_dim, T = batch.length;
  Doubles out;
  for (std::int64_t b = 0; b < batch.sequences; ++b)
    for (std::int64_t h = 0; h < H; ++h)
      for (std::int64_t t = 0; t < T; ++t) {
        double score = 0;
        for (std::int64_t d = 0; d < D; ++d)
          score += static_cast<double>(block.qkv[at(((b * T + t) * (H + 2 * G) + h) * D + d)]) *
                   static_cast<double>(block.qkv[at((b * T * (H + 2 * G) + H + h / (H / G)) * D + d)]);
        const auto lse = static_cast<double>(block.lse[at((b * H + h) * T + t)]);
        out.push_back(std::exp(score / std::sqrt(static_cast<double>(D)) - lse));
      }
  return out;
}

Doubles first_attention(const ModelConfig& config, const Batch& batch, const reference::Layer& layer) {
  Doubles out;
  for (std::int64_t row = 0; row < batch.sequences * config.heads * batch.length; ++row)
    out.push_back(layer.attention[at(row * batch.length)]);
  return out;
}

}  // namespace

TEST_CASE("the presets compute what the reference computes") {
  for (const ModelConfig& config : tiny_presets()) {
    Random random(1);
    for (const std::int64_t length : {1, 7, 12}) {
      const Batch batch = random_batch(random, config, 3, length, 4);
      check_forward(config, batch, 11, true);
      check_forward(config, batch, 12, false);
    }
  }
}

TEST_CASE("a step's statistics are summed over its batches") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    check_step_sums(config);
  }
}

TEST_CASE("random combinations of switches and sizes compute what the reference computes") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Random random(seed);
    const ModelConfig config = random_model(random);
    const std::int64_t sequences = 1 + random.below(4), length = 1 + random.below(config.max_sequence_length);
    check_forward(config, random_batch(random, config, sequences, length, 5), seed, random.below(2) == 0);
  }
}

TEST_CASE("a model with more keys than one attention tile computes what the reference computes") {
  const ModelConfig config = resolved_model(
      R"({"preset": "qwen3", "layers": 2, "channels": 24, "heads": 4, "kv_heads": 2, "head_dim": 10, "hidden": 30})",
      29, 150);
  Random random(2);
  check_forward(config, random_batch(random, config, 2, 150), 3, true);
}

TEST_CASE("observers see every activation, and their sums hold bit for bit") {
  for (const bool training : {true, false})
    for (ModelConfig config : tiny_presets()) {
      config.layers = 3;  // more than the two blocks that are kept without training
      INFO(test::describe(config) << (training ? ", training" : ", no training"));
      const auto ops = make_cpu_ops(1);
      Random random(4);
      const Batch batch = random_batch(random, config, 2, 9);
      const ParameterLayout layout(config);
      const Values parameters = strong_parameters(layout, 5);
      const DecoderOptions options{
          .max_sequences = 2, .max_length = 9, .residual_norms = true, .training = training};
      Decoder decoder = make_decoder(*ops, config, options, parameters);
      Recorder recorder(*ops);
      const Step step = run_step(*ops, decoder, batch, 0.0F, &recorder);
      const reference::Activations run = reference::forward(config, layout, doubles(parameters), 2, 9, batch.inputs);

      REQUIRE(static_cast<std::int64_t>(recorder.blocks.size()) == config.layers);
      CHECK(relative_error(doubles(recorder.first), run.embedding) < kForward);
      Doubles norms = row_norms(doubles(recorder.first), config.channels);
      const Values* before = &recorder.first;
      for (std::size_t l = 0; l < recorder.blocks.size(); ++l) {
        const Recorder::Block& block = recorder.blocks[l];
        const reference::Layer& expected = run.layers[l];
        CHECK(block.layer == static_cast<std::int64_t>(l));
        CHECK(same_bits(block.input, *before));
        CHECK(same_bits(block.middle, sum(block.input, block.attention_output)));
        CHECK(same_bits(block.output, sum(block.middle, block.mlp_output)));
        before = &block.output;
        CHECK(relative_error(doubles(block.qkv), expected.qkv) < kForward);
        CHECK(relative_error(doubles(block.attention_output), expected.attention_output) < kForward);
        CHECK(relative_error(doubles(block.mlp_output), expected.mlp_output) < kForward);
        CHECK(relative_error(doubles(block.output), expected.output) < kForward);
        CHECK(relative_error(first_attention(config, batch, block), first_attention(config, batch, expected)) <
              kForward);
        const Doubles row = row_norms(doubles(block.output), config.channels);
        norms.insert(norms.end(), row.begin(), row.end());
      }
      CHECK(relative_error(doubles(step.residual_norms), norms) < kSingle);
    }
}

TEST_CASE("an observer changes no bit") {
  for (const ModelConfig& config : tiny_presets()) {
    INFO(test::describe(config));
    const auto ops = make_cpu_ops(1);
    Random random(6);
    const Batch batch = random_batch(random, config, 3, 8);
    const Values parameters = strong_parameters(ParameterLayout(config), 7);
    const DecoderOptions options{.max_sequences = 3, .max_length = 8, .sink_positions = 2, .residual_norms = true};
    Decoder watched = make_decoder(*ops, config, options, parameters);
    Decoder alone = make_decoder(*ops, config, options, parameters);
    Recorder recorder(*ops);
    CHECK(same_bits(run_step(*ops, watched, batch, 0.1F, &recorder), run_step(*ops, alone, batch, 0.1F)));
  }
}

TEST_CASE("a decoder that is not for training computes the same bits with two blocks' memory") {
  for (ModelConfig config : tiny_presets())
    for (const std::int64_t layers : {1, 2, 5}) {
      config.layers = layers;
      INFO(test::describe(config));
      const auto ops = make_cpu_ops(1);
      Random random(8);
      const Batch batch = random_batch(random, config, 2, 11, 3);
      const Values parameters = strong_parameters(ParameterLayout(config), 9);
      DecoderOptions options{.max_sequences = 2, .max_length = 11, .sink_positions = 4, .residual_norms = true};
      Decoder training = make_decoder(*ops, config, options, parameters);
      options.training = false;
      Decoder lean = make_decoder(*ops, config, options, parameters);
      CHECK(same_bits(run_step(*ops, training, batch, 0.0F), run_step(*ops, lean, batch, 0.0F)));
    }
}
