// What a decoder promises beside its numbers: memory as planned, the same bits every time, statistics
// that change nothing, and clear refusals.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <new>

#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tests/model/support.h"

namespace {

// Below this are the words of messages; no array of a model is as small.
constexpr std::size_t kSmallestArray = 256;  // bytes
std::atomic<long> heap_arrays{0};

void* counted_or_null(std::size_t bytes) noexcept {
  if (bytes >= kSmallestArray) ++heap_arrays;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

void* counted(std::size_t bytes) {
  if (void* data = counted_or_null(bytes)) return data;
  throw std::bad_alloc();
}

}  // namespace

// Every C++ allocation of an array in this program is counted.
void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted_or_null(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return counted_or_null(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t) noexcept { std::free(data); }
void operator delete(void* data, const std::nothrow_t&) noexcept { std::free(data); }
void operator delete[](void* data, const std::nothrow_t&) noexcept { std::free(data); }

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// Big enough that operations are cut into parts, with every kind of reduction.
ModelConfig parallel_model(const std::string& preset) {
  return resolved_model(R"({"layers": 2, "channels": 48, "heads": 4, "kv_heads": )" +
                            std::string(preset == "gpt2" || preset == "gpt_neox" ? "4" : "2") +
                            R"(, "head_dim": 16, "hidden": 100, "preset": ")" + preset + "\"}",
                        211, 130);
}

Step fresh_step(int threads, const ModelConfig& config, const DecoderOptions& options, const Values& parameters,
                const Batch& batch, float scale) {
  const auto ops = make_cpu_ops(threads);
  Decoder decoder = make_decoder(*ops, config, options, parameters);
  return run_step(*ops, decoder, batch, scale);
}

template <class Exception>
void check_refusal(const std::string& expected, const std::function<void()>& action) {
  CHECK(message_of<Exception>(action) == expected);
}

}  // namespace

TEST_CASE("a step gives the same bits every time, on one thread and on two") {
  for (const std::string preset : {"gpt2", "llama", "qwen3", "gpt_neox"}) {
    const ModelConfig config = parallel_model(preset);
    Random random(61);
    const Batch batch = random_batch(random, config, 2, 130, 9);
    const Values parameters = strong_parameters(ParameterLayout(config), 62);
    const DecoderOptions options{.max_sequences = 2, .max_length = 130, .sink_positions = 5, .residual_norms = true};
    std::vector<Step> steps;
    for (const int threads : {1, 2}) {
      INFO(preset << ", " << threads << " threads");
      const Step expected = fresh_step(threads, config, options, parameters, batch, 0.01F);
      for (int repeat = 0; repeat < 2; ++repeat)
        CHECK(same_bits(fresh_step(threads, config, options, parameters, batch, 0.01F), expected));
      const auto ops = make_cpu_ops(threads);
      Decoder decoder = make_decoder(*ops, config, options, parameters);
      for (int repeat = 0; repeat < 2; ++repeat) {
        decoder.zero_gradients();
        CHECK(same_bits(run_step(*ops, decoder, batch, 0.01F), expected));
      }
      steps.push_back(expected);
    }
    CHECK(relative_error(doubles(steps[0].losses), doubles(steps[1].losses)) < kSingle);
    CHECK(relative_error(doubles(steps[0].gradients), doubles(steps[1].gradients)) < 1e-5);
  }
}

TEST_CASE(
    "gradients that replace what is there are those that are added to zeros, and those of the next pass are added") {
  std::vector<ModelConfig> configs = tiny_presets();
  Random variants(71);
  for (int i = 0; i < 12; ++i) configs.push_back(random_model(variants));
  for (const ModelConfig& config : configs) {
    INFO(test::describe(config));
    const auto ops = make_cpu_ops(1);
    Random random(72);
    const Batch batch = random_batch(random, config, 4, 12);  // 48 rows: two chunks of logits
    const auto decoder_of = [&](bool by_section) {
      return make_decoder(*ops, config,
                          {.max_sequences = 4, .max_length = 12, .gradients_by_section = by_section, .logits_bytes = 0},
                          strong_parameters(ParameterLayout(config), 73));
    };
    Decoder decoder = decoder_of(false);
    Values losses(batch.targets.size());
    const auto pass = [&](Decoder& of, const BackwardHooks& hooks) {
      of.forward(batch.sequences, batch.length, batch.inputs.data());
      of.loss(batch.targets.data(), losses.data(), 0.1F);
      of.backward(hooks);
    };
    const auto gradients = [&] { return to_host(*ops, decoder.gradients()); };
    const auto spoil = [&](const Tensor& x) {
      std::fill_n(x.as<float>(), x.size(), std::numeric_limits<float>::quiet_NaN());
    };
    decoder.zero_gradients();
    pass(decoder, {});
    const Values once = gradients();
    pass(decoder, {});
    const Values twice = gradients();
    spoil(decoder.gradients());
    decoder.replace_gradients();
    pass(decoder, {});
    CHECK(gradients() == once);
    pass(decoder, {});
    CHECK(gradients() == twice);
    // By section, where places of blocks hold what the block before last left.
    Decoder sections = decoder_of(true);
    const std::vector<Section>& all = sections.layout().sections();
    Values found(once.size());
    for (std::int64_t section = 0; section < std::ssize(all); ++section) spoil(sections.section_gradients(section));
    sections.replace_gradients();
    sections.zero_added(0);
    sections.zero_added(std::ssize(all) - 1);
    pass(sections, {.open = [&](std::int64_t section) { sections.zero_added(section); },
                    .close = [&](std::int64_t section) {
                      const Tensor values = sections.section_gradients(section);
                      std::copy_n(values.as<float>(), values.size(),
                                  found.begin() + all[static_cast<std::size_t>(section)].begin);
                      if (section > 0 && section + 1 < std::ssize(all)) spoil(values);
                    }});
    CHECK(found == once);
  }
}

TEST_CASE("sink scores and residual norms change no bit of losses and gradients") {
  for (const ModelConfig& config : tiny_presets())
    for (const std::int64_t watched : {0, 1, 6})
      for (const bool norms : {false, true}) {
        INFO(test::describe(config) << ", K " << watched << (norms ? ", norms" : ""));
        Random random(63);
        const Batch batch = random_batch(random, config, 2, 6);
        const Values parameters = strong_parameters(ParameterLayout(config), 64);
        DecoderOptions options{.max_sequences = 2, .max_length = 6};
        const Step plain = fresh_step(1, config, options, parameters, batch, 0.1F);
        CHECK(plain.sink_scores.empty());
        CHECK(plain.residual_norms.empty());
        options.sink_positions = watched;
        options.residual_norms = norms;
        const Step probed = fresh_step(1, config, options, parameters, batch, 0.1F);
        CHECK(same_bits(probed.losses, plain.losses));
        CHECK(same_bits(probed.gradients, plain.gradients));
        CHECK(static_cast<std::int64_t>(probed.sink_scores.size()) == config.layers * 2 * config.heads * watched);
        CHECK(static_cast<std::int64_t>(probed.residual_norms.size()) == (norms ? (config.layers + 1) * 2 * 6 : 0));
      }
}

TEST_CASE("batches smaller than planned, after larger ones, give what a decoder of their size gives") {
  for (const ModelConfig& config : tiny_presets()) {
    Random random(65);
    const Values parameters = strong_parameters(ParameterLayout(config), 66);
    const auto ops = make_cpu_ops(1);
    const DecoderOptions planned{.max_sequences = 4, .max_length = 12, .sink_positions = 2, .residual_norms = true};
    Decoder decoder = make_decoder(*ops, config, planned, parameters);
    const std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{4, 12}, {3, 5}, {24, 2}, {1, 12}, {12, 4}, {1, 2}};
    for (const auto& [sequences, length] : sizes) {
      INFO(test::describe(config) << ", " << sequences << " x " << length);
      const Batch batch = random_batch(random, config, sequences, length, 4);
      decoder.zero_gradients();
      DecoderOptions exact = planned;
      exact.max_sequences = sequences;
      exact.max_length = length;
      CHECK(same_bits(run_step(*ops, decoder, batch, 0.1F), fresh_step(1, config, exact, parameters, batch, 0.1F)));
    }
  }
}

TEST_CASE("the memory plan is what a decoder takes, once, before its first step") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    const ModelConfig config = random_model(random);
    const DecoderOptions options{.max_sequences = 1 + random.below(4),
                                 .max_length = 2 + random.below(10),
                                 .sink_positions = random.below(3),
                                 .residual_norms = random.below(2) == 0,
                                 .attention_sums = random.below(2) == 0,
                                 .training = random.below(3) > 0,
                                 .recompute = static_cast<Recompute>(random.below(3))};
    INFO(test::describe(config) << ", seed " << seed);
    CountingOps ops(make_cpu_ops(1));
    std::vector<std::size_t> planned;
    std::vector<std::string> arenas;
    for (const MemoryLine& line : Decoder::memory_plan(config, options, DType::f32)) {
      if (arenas.empty() || arenas.back() != line.arena) {
        arenas.push_back(line.arena);
        planned.push_back(0);
      }
      planned.back() += line.bytes;
      CHECK(!line.buffer.empty());
      CHECK(line.bytes % 256 == 0);
    }
    CHECK(arenas == (options.training ? std::vector<std::string>{"parameters", "gradients", "activations", "scratch"}
                                      : std::vector<std::string>{"parameters", "activations", "scratch"}));
    Decoder decoder(ops, config, options);
    CHECK(ops.allocations == planned);
    const Batch batch = random_batch(random, config, options.max_sequences, options.max_length);
    for (int step = 0; step < 2; ++step) run_step(ops, decoder, batch, options.training ? 0.1F : 0.0F);
    CHECK(ops.allocations == planned);
  }
}

TEST_CASE("the memory plan counts the bytes of a known model") {
  const ModelConfig config = tiny_presets()[1];  // llama: L 2, C 12, H = G 3, D 4, F 13, V 11
  std::map<std::string, std::size_t> bytes;
  for (const MemoryLine& line : Decoder::memory_plan(config, {.max_sequences = 20, .max_length = 10}, DType::f32))
    bytes[line.arena + ": " + line.buffer] = line.bytes;
  const auto floats = [](std::size_t count) { return (4 * count + 255) / 256 * 256; };
  const std::size_t rows = 200;
  CHECK(bytes["activations: block 1 residual"] == floats(rows * 12));
  CHECK(bytes["activations: block 1 qkv"] == floats(rows * 36));
  CHECK(bytes["activations: block 1 lse"] == floats(rows * 3));
  CHECK(bytes["activations: block 1 mlp up"] == floats(rows * 26));
  CHECK(bytes["activations: final norm"] == floats(rows * 12));
  CHECK(bytes["scratch: logits"] == floats(rows * 11));
  CHECK(bytes["parameters: parameters"] == 4 * static_cast<std::size_t>(ParameterLayout(config).flat_size()));
  CHECK(bytes["gradients: gradients"] == bytes["parameters: parameters"]);
  CHECK(bytes.count("activations: block 1 norm1 mean") == 0);
  CHECK(bytes.count("activations: sink scores") == 0);
  CHECK(bytes.count("activations: block 2 residual") == 0);
}

TEST_CASE("a step asks no array of the heap") {
  for (const ModelConfig& config : tiny_presets())
    for (const Recompute recompute : {Recompute::none, Recompute::block}) {
      INFO(test::describe(config) << ", recompute " << to_string(recompute));
      const auto ops = make_cpu_ops(1);
      Random random(67);
      const Batch batch = random_batch(random, config, 3, 12);
      Decoder decoder = make_decoder(
          *ops, config,
          {.max_sequences = 3, .max_length = 12, .sink_positions = 2, .residual_norms = true, .attention_sums = true,
           .recompute = recompute},
          strong_parameters(ParameterLayout(config), 68));
      Values losses(batch.targets.size());
      const auto step = [&] {
        decoder.zero_gradients();
        decoder.forward(batch.sequences, batch.length, batch.inputs.data());
        decoder.loss(batch.targets.data(), losses.data(), 0.1F);
        decoder.backward_with_attention_sums();
      };
      step();  // scratch memory of the operations grows to its size
      const long before = heap_arrays;
      step();
      const long after = heap_arrays;
      CHECK(after == before);
      CHECK(before > 0);
    }
}

TEST_CASE("parameters and gradients start at zero and are seen in their own shapes") {
  const ModelConfig config = tiny_presets()[2];
  const auto ops = make_cpu_ops(1);
  Decoder decoder(*ops, config, {.max_sequences = 1, .max_length = 4});
  const auto zero = [](const Values& values) {
    return std::all_of(values.begin(), values.end(), [](float x) { return x == 0.0F; });
  };
  CHECK(zero(to_host(*ops, decoder.parameters())));
  CHECK(zero(to_host(*ops, decoder.gradients())));
  const Values parameters = strong_parameters(decoder.layout(), 69);
  ops->copy_from_host(decoder.parameters(), parameters.data());
  for (const ParameterSpec& spec : decoder.layout().specs()) {
    INFO(spec.name);
    const Tensor tensor = decoder.parameter(spec);
    REQUIRE(tensor.rank == static_cast<int>(spec.shape.size()));
    for (std::size_t i = 0; i < spec.shape.size(); ++i) CHECK(tensor.extent(static_cast<int>(i)) == spec.shape[i]);
    const Values expected(parameters.begin() + spec.offset, parameters.begin() + spec.offset + spec.size);
    CHECK(same_bits(to_host(*ops, tensor), expected));
  }
  Decoder moved(std::move(decoder));
  CHECK(same_bits(to_host(*ops, moved.parameters()), parameters));
}

TEST_CASE("bad batches are refused in words, and the last good one stays") {
  const ModelConfig config = tiny_presets()[0];  // 11 tokens, 12 learned positions
  const auto ops = make_cpu_ops(1);
  Random random(70);
  const Values parameters = strong_parameters(ParameterLayout(config), 71);
  Decoder decoder = make_decoder(*ops, config, {.max_sequences = 2, .max_length = 8, .sink_positions = 2}, parameters);
  const Batch batch = random_batch(random, config, 2, 8);
  Values losses(16), again(16);
  decoder.forward(2, 8, batch.inputs.data());
  decoder.loss(batch.targets.data(), losses.data());

  Tokens tokens(64, 3);
  const auto refusal = [&](std::int64_t sequences, std::int64_t length, const std::string& message) {
    check_refusal<std::invalid_argument>("Decoder::forward: a batch of " + message,
                                         [&] { decoder.forward(sequences, length, tokens.data()); });
  };
  refusal(0, 8, "0 x 8 tokens is empty");
  refusal(2, 0, "2 x 0 tokens is empty");
  refusal(-1, 8, "-1 x 8 tokens is empty");
  refusal(1, 9, "1 x 9 tokens is longer than the 8 positions planned for");
  refusal(3, 8, "3 x 8 tokens does not fit into the 16 rows planned for");
  refusal(std::int64_t{1} << 62, 4, "4611686018427387904 x 4 tokens does not fit into the 16 rows planned for");
  refusal(4, 1, "4 x 1 tokens is shorter than the 2 sink positions that are watched");
  tokens[5] = 11;
  refusal(2, 8, "2 x 8 tokens holds token 11 at index 5; the vocabulary has 11");
  tokens[5] = -1;
  refusal(2, 8, "2 x 8 tokens holds token -1 at index 5; the vocabulary has 11");

  Tokens targets = batch.targets;
  targets[7] = -2;
  check_refusal<std::invalid_argument>("Decoder::loss: target -2 at index 7; expected -1 or one of 11 tokens",
                                       [&] { decoder.loss(targets.data(), again.data()); });
  targets[7] = 11;
  check_refusal<std::invalid_argument>("Decoder::loss: target 11 at index 7; expected -1 or one of 11 tokens",
                                       [&] { decoder.loss(targets.data(), again.data()); });
  decoder.loss(batch.targets.data(), again.data());
  CHECK(same_bits(losses, again));

  Decoder longer = make_decoder(*ops, config, {.max_sequences = 1, .max_length = 20}, parameters);
  check_refusal<std::invalid_argument>(
      "Decoder::forward: a batch of 1 x 13 tokens is longer than the 12 learned positions",
      [&] { longer.forward(1, 13, Tokens(13, 0).data()); });
  check_refusal<std::invalid_argument>("Decoder: a batch of 0 x 8 tokens; expected at least 1 x 1",
                                       [&] { Decoder(*ops, config, {.max_sequences = 0, .max_length = 8}); });
}

TEST_CASE("calls out of order are refused") {
  const ModelConfig config = tiny_presets()[1];
  const auto ops = make_cpu_ops(1);
  Random random(72);
  const Batch batch = random_batch(random, config, 1, 4);
  Values losses(4), logits(11);
  Decoder decoder(*ops, config, {.max_sequences = 1, .max_length = 4, .sink_positions = 1, .residual_norms = true});
  CHECK(decoder.sink_scores().empty());
  CHECK(decoder.residual_norms().empty());
  check_refusal<std::logic_error>("Decoder::add_step_sums: no forward pass came before",
                                  [&] { decoder.add_step_sums(0.3); });
  check_refusal<std::logic_error>("Decoder::loss: no forward pass came before",
                                  [&] { decoder.loss(batch.targets.data(), losses.data()); });
  check_refusal<std::logic_error>("Decoder::logits: no forward pass came before",
                                  [&] { decoder.logits(0, logits.data()); });
  const std::string no_gradient = "Decoder::backward: no loss with a gradient scale came before it";
  check_refusal<std::logic_error>(no_gradient, [&] { decoder.backward(); });
  run_step(*ops, decoder, batch, 0.0F);
  check_refusal<std::logic_error>(no_gradient, [&] { decoder.backward(); });
  run_step(*ops, decoder, batch, 1.0F);
  check_refusal<std::logic_error>(no_gradient, [&] { decoder.backward(); });

  Decoder lean(*ops, config, {.max_sequences = 1, .max_length = 4, .training = false});
  lean.forward(1, 4, batch.inputs.data());
  check_refusal<std::logic_error>("Decoder::gradients: the decoder is not for training", [&] { lean.gradients(); });
  check_refusal<std::logic_error>("Decoder::gradients: the decoder is not for training",
                                  [&] { lean.zero_gradients(); });
  check_refusal<std::logic_error>("Decoder::loss: gradients asked of a decoder that is not for training",
                                  [&] { lean.loss(batch.targets.data(), losses.data(), 1.0F); });
}
