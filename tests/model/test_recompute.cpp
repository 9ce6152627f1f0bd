// Backward passes that compute activations again instead of keeping them: the same bits, less memory.
#include <map>

#include "tests/catch.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr Recompute kModes[] = {Recompute::none, Recompute::mlp, Recompute::block};

/// Keeps a copy of everything it is shown.
class Witness final : public ActivationObserver {
 public:
  explicit Witness(Ops& ops) : ops_(ops) {}
  void embedding(const Tensor& h) override { add(h); }
  void block(const BlockActivations& b) override {
    for (const Tensor& tensor : {b.input, b.qkv, b.lse, b.attention_output, b.middle, b.mlp_output, b.output})
      add(tensor);
  }
  Values seen;

 private:
  void add(const Tensor& tensor) {
    const Values values = to_host(ops_, tensor);
    seen.insert(seen.end(), values.begin(), values.end());
  }
  Ops& ops_;
};

struct Outcome {
  Step first, second;  // gradients of the second batch on top of the first's
  Values seen;
};

/// Two steps, of a full batch and of a smaller one, and a third forward pass that is looked at.
Outcome outcome_of(int threads, const ModelConfig& config, DecoderOptions options, Recompute mode,
                   const Values& parameters, const Batch& batch, const Batch& smaller) {
  options.recompute = mode;
  const auto ops = make_cpu_ops(threads);
  Decoder decoder = make_decoder(*ops, config, options, parameters);
  Outcome outcome;
  outcome.first = run_step(*ops, decoder, batch, 0.25F);
  outcome.second = run_step(*ops, decoder, smaller, 0.25F);
  Witness witness(*ops);
  run_step(*ops, decoder, batch, 0.0F, &witness);
  outcome.seen = witness.seen;
  return outcome;
}

void check_same(int threads, const ModelConfig& config, const DecoderOptions& options, std::uint64_t seed) {
  Random random(seed);
  const Values parameters = strong_parameters(ParameterLayout(config), seed);
  const Batch batch = random_batch(random, config, options.max_sequences, options.max_length, 7);
  const Batch smaller = random_batch(random, config, 1, options.max_length - 1);
  const auto outcome = [&](Recompute mode) {
    return outcome_of(threads, config, options, mode, parameters, batch, smaller);
  };
  const Outcome kept = outcome(Recompute::none);
  for (const Recompute mode : {Recompute::mlp, Recompute::block}) {
    INFO(test::describe(config) << ", seed " << seed << ", recompute " << to_string(mode));
    const Outcome found = outcome(mode);
    CHECK(same_bits(found.first, kept.first));
    CHECK(same_bits(found.second, kept.second));
    CHECK(same_bits(found.seen, kept.seen));
  }
}

std::map<std::string, std::size_t> bytes_by_arena(const ModelConfig& config, DecoderOptions options, Recompute mode,
                                                  DType compute) {
  options.recompute = mode;
  std::map<std::string, std::size_t> bytes;
  for (const MemoryLine& line : Decoder::memory_plan(config, options, compute)) bytes[line.arena] += line.bytes;
  return bytes;
}

}  // namespace

TEST_CASE("recomputed activations change no bit of losses, gradients, sink scores, norms and what observers see") {
  for (const ModelConfig& config : tiny_presets())
    check_same(1, config, {.max_sequences = 3, .max_length = 11, .sink_positions = 3, .residual_norms = true}, 81);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(2000 + seed);
    const ModelConfig config = random_model(random);
    const std::int64_t length = 3 + random.below(9);
    check_same(seed % 4 == 0 ? 2 : 1, config,
               {.max_sequences = 1 + random.below(4),
                .max_length = length,
                .sink_positions = random.below(3),
                .residual_norms = random.below(2) == 0},
               seed);
  }
}

TEST_CASE("recomputing is bitwise the same at sizes that are cut into parts, on one thread and on two") {
  for (const std::string preset : {"gpt2", "llama", "qwen3", "gpt_neox"}) {
    const ModelConfig config = resolved_model(
        R"({"layers": 4, "channels": 48, "heads": 4, "head_dim": 16, "hidden": 100, "preset": ")" + preset + "\"}", 211,
        130);
    for (const int threads : {1, 2})
      check_same(threads, config, {.max_sequences = 2, .max_length = 130, .sink_positions = 5, .residual_norms = true},
                 82);
  }
}

TEST_CASE("what is recomputed is planned for once, not once a block") {
  for (const DType compute : {DType::f32, DType::bf16})
    for (const std::string preset : {"gpt2", "llama", "qwen3", "qwen2", "gpt_neox"}) {
      INFO(preset << ", " << name_of(compute));
      const ModelConfig config = resolved_model(R"({"layers": 5, "channels": 48, "heads": 4, "kv_heads": )" +
                                                    std::string(preset.starts_with("gpt") ? "4" : "2") +
                                                    R"(, "head_dim": 24, "hidden": 100, "preset": ")" + preset + "\"}",
                                                211, 40);
      const DecoderOptions options{.max_sequences = 7, .max_length = 40, .sink_positions = 4, .residual_norms = true};
      const std::size_t N = 7 * 40, C = 48, H = 4, G = static_cast<std::size_t>(config.kv_heads), D = 24, F = 100;
      const auto real = [&](std::size_t width) { return (N * width * size_of(compute) + 255) / 256 * 256; };
      const auto single = [&](std::size_t width) { return (N * width * 4 + 255) / 256 * 256; };
      const bool layernorm = preset.starts_with("gpt"), swiglu = !layernorm, qk_norm = preset == "qwen3";
      const bool parallel = preset == "gpt_neox";  // whose m^l no backward pass reads
      const std::size_t statistics = (layernorm ? 2 : 1) * single(1), heads = (H + 2 * G) * D;
      const std::size_t mlp = real(C) + statistics + real(swiglu ? 2 * F : F) + real(F);
      const std::size_t block = mlp + real(C) + statistics + (qk_norm ? real(heads) + single(H + G) : 0) + real(heads) +
                                real(H * D) + single(H) + (parallel ? 0 : real(C));

      auto kept = bytes_by_arena(config, options, Recompute::none, compute);
      for (const auto& [mode, saved] : {std::pair{Recompute::mlp, mlp}, {Recompute::block, block}}) {
        auto found = bytes_by_arena(config, options, mode, compute);
        CHECK(kept["activations"] - found["activations"] == (5 - 1) * saved);
        for (const char* arena : {"parameters", "gradients", "scratch"}) CHECK(found[arena] == kept[arena]);
      }
      // A block keeps nothing but its input; beside them there are the statistics of a step.
      const std::size_t sums = ((2 * 5 * H * 4 + (5 + 1) * (4 + 2)) * sizeof(double) + 255) / 256 * 256;
      CHECK(bytes_by_arena(config, options, Recompute::block, compute)["activations"] ==
            5 * real(C) + block + (parallel ? 3 : 2) * real(C) + statistics + single(5 * H) + single(6) + sums);
    }
}

TEST_CASE("a decoder that is not for training keeps what it is told to, whatever would be recomputed") {
  const ModelConfig config = tiny_presets()[2];
  const DecoderOptions options{.max_sequences = 2, .max_length = 9, .training = false};
  for (const Recompute mode : kModes)
    CHECK(bytes_by_arena(config, options, mode, DType::f32) ==
          bytes_by_arena(config, options, Recompute::none, DType::f32));
}
