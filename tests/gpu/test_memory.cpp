// What is planned is what is taken: scratch memory of operations, a whole run's memory; recomputed activations,
// recorded passes.
#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/optim/adamw.h"
#include "engine/train/run_memory.h"
#include "engine/train/trainer.h"
#include "tests/catch.h"
#include "tests/gpu/support.h"
#include "tests/model/support.h"
#include "tests/train/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr std::int64_t kLength = 131;

std::vector<ModelConfig> models() {
  const auto model = [](const std::string& text) { return resolved_model(text, 211, kLength); };
  return {model(R"({"preset": "gpt2", "layers": 3, "channels": 96, "heads": 3, "hidden": 101})"),
          model(R"({"preset": "llama", "layers": 3, "channels": 100, "heads": 4, "kv_heads": 1, "head_dim": 64,
                   "hidden": 131})"),
          model(R"({"preset": "qwen3", "layers": 3, "channels": 88, "heads": 4, "kv_heads": 2, "head_dim": 64,
                   "hidden": 77})"),
          model(R"({"preset": "qwen2", "layers": 3, "channels": 96, "heads": 6, "kv_heads": 2, "head_dim": 32,
                   "hidden": 83})"),
          model(R"({"preset": "gpt_neox", "layers": 3, "channels": 128, "heads": 2, "hidden": 101})")};
}

/// Those whose products with activations our own kernel can do.
std::vector<ModelConfig> models_of_own_kernel() {
  const auto model = [](const std::string& text) { return resolved_model(text, 211, kLength); };
  return {
      model(R"({"preset": "gpt2", "layers": 3, "channels": 96, "heads": 3, "hidden": 264})"),
      model(
          R"({"preset": "llama", "layers": 3, "channels": 104, "heads": 4, "kv_heads": 1, "head_dim": 64, )"
          R"("hidden": 136})")};
}

/// A model, on backends of one compute dtype that choose alike.
struct OnGpu {
  DType compute;
  ModelConfig config;
  ChooseAlgorithm choose{};
  CudaOptions options() const { return {.device = 0, .compute = compute, .choose = choose, .worth_timing = 0}; }
};

/// All models in both dtypes, and those of our own kernel with it; `products` gets the names of its products.
std::vector<OnGpu> models_on_gpu(std::set<std::string>& products) {
  std::vector<OnGpu> all;
  for (const DType compute : kComputeTypes)
    for (const ModelConfig& config : models()) all.push_back({compute, config});
  for (const ModelConfig& config : models_of_own_kernel())
    all.push_back({DType::bf16, config, prefer_own_kernel(products)});
  return all;
}

/// Strong parameters into a decoder on the GPU.
void load(Ops& ops, const Decoder& decoder) {
  const Values parameters = strong_parameters(decoder.layout(), 91);
  const Buffer staging = ops.allocate(parameters.size() * sizeof(float));
  const Tensor wide(staging.get(), DType::f32, {static_cast<std::int64_t>(parameters.size())});
  ops.copy_from_host(wide, parameters.data());
  ops.convert(decoder.parameters(), wide);
}

/// As many as there are sequences, whose norms are all 1. Needs 16 bytes of scratch memory a sequence.
double summed_ratio(Ops& ops, std::int64_t sequences) {
  const Buffer buffer = ops.allocate(static_cast<std::size_t>(sequences) * 8 + 24);
  const Tensor norms(buffer.get() + 24, DType::f32, {1, sequences, 2}), ratio(buffer.get(), DType::f64, {1});
  const Tensor first(buffer.get() + 8, DType::f64, {1, 1}), rest(buffer.get() + 16, DType::f64, {1});
  const std::vector<float> ones(static_cast<std::size_t>(2 * sequences), 1.0F);
  ops.copy_from_host(norms, ones.data());
  for (const Tensor& sum : {first, rest, ratio}) ops.zero(sum);
  ops.norm_sums({.norms = norms, .first = first, .rest = rest, .ratio = ratio});
  double found = 0;
  ops.copy_to_host(&found, ratio);
  return found;
}

Step step_of(const OnGpu& model, Recompute recompute) {
  const auto ops = make_cuda_ops(model.options());
  const ModelConfig& config = model.config;
  Decoder decoder(*ops, config, {.max_sequences = 3, .max_length = kLength, .sink_positions = 8, .residual_norms = true,
                                 .recompute = recompute});
  load(*ops, decoder);
  Random random(92);
  const Batch batch = random_batch(random, config, 3, kLength, 9);
  return run_step(*ops, decoder, batch, 1.0F / static_cast<float>(batch.targets.size()));
}

}  // namespace

TEST_CASE("a copy from the GPU that is waited for later holds what was there when it began", "[sanitize]") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
  constexpr std::int64_t kSize = 100003;
  const Buffer buffer = ops->allocate(kSize * sizeof(float));
  const Tensor tensor(buffer.get(), DType::f32, {kSize});
  const auto filled = [](float value) { return std::vector<float>(kSize, value); };
  std::vector<std::vector<float>> there(4, filled(-1));
  std::vector<std::function<void()>> waits;
  for (std::size_t i = 0; i < there.size(); ++i) {
    ops->copy_from_host(tensor, filled(static_cast<float>(i)).data());
    waits.push_back(ops->copy_to_host_later(there[i].data(), tensor));
  }
  ops->zero(tensor);
  for (std::size_t i = there.size(); i-- > 0;) waits[i]();  // in any order
  for (std::size_t i = 0; i < there.size(); ++i) CHECK(there[i] == filled(static_cast<float>(i)));
  waits.clear();
  std::vector<float> last(kSize, -1.0F), small(3, -1.0F);
  ops->copy_to_host_later(last.data(), tensor)();  // into memory that is free again
  CHECK(last == filled(0));
  ops->copy_to_host_later(small.data(), tensor.rows(0, 3))();
  CHECK(small == std::vector<float>(3, 0.0F));
  CHECK_THROWS_AS(ops->copy_to_host_later(nullptr, tensor), std::invalid_argument);
}

TEST_CASE("a copy to the GPU holds what was there at the call, however far behind the GPU is", "[sanitize]") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::f32});
  constexpr std::int64_t kSize = 70000, kCopies = 30;  // more than are staged at a time
  const Buffer buffer = ops->allocate(kCopies * kSize * sizeof(float)), work = ops->allocate(std::size_t{64} << 20);
  const Tensor all(buffer.get(), DType::f32, {kCopies, kSize}), large(work.get(), DType::f32, {std::int64_t{16} << 20});
  for (int i = 0; i < 50; ++i) ops->zero(large);  // what the GPU is busy with
  std::vector<float> values(kSize), back(kSize);
  std::vector<std::function<void()>> waits;
  for (std::int64_t i = 0; i < kCopies; ++i) {
    std::fill(values.begin(), values.end(), static_cast<float>(i + 1));
    ops->copy_from_host(all.rows(i, 1), values.data());
    if (i == kCopies / 2) waits.push_back(ops->copy_to_host_later(back.data(), all.rows(i, 1)));
  }
  std::fill(values.begin(), values.end(), -1.0F);
  for (const auto& wait : waits) wait();
  CHECK(back == std::vector<float>(kSize, static_cast<float>(kCopies / 2 + 1)));
  for (std::int64_t i = 0; i < kCopies; ++i) {
    ops->copy_to_host(values.data(), all.rows(i, 1));
    CHECK(values == std::vector<float>(kSize, static_cast<float>(i + 1)));
  }
}

TEST_CASE("repeated work is called, recorded and launched, and called again when memory that it needs has moved",
          "[sanitize]") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
  const auto work = ops->repeated_work();
  constexpr std::int64_t kRows = 64, kHeads = 2, kDim = 16;
  const Buffer buffer = ops->allocate(kRows * kHeads * kDim * 2);
  const Tensor heads(buffer.get(), DType::bf16, {1, kRows, kHeads, kDim});
  ops->zero(heads);
  int calls = 0;
  const auto run = [&] {
    work->run([&] {
      ++calls;
      ops->rope({.qkv = heads, .heads = 2});
      ops->add(heads.view({kRows, kHeads * kDim}), heads.view({kRows, kHeads * kDim}),
               heads.view({kRows, kHeads * kDim}));
    });
    ops->synchronize();
  };
  std::vector<std::uint16_t> values(kRows * kHeads * kDim, to_bf16(0.5F));
  const auto norm = [&] {  // which a rotation keeps, and the addition doubles
    ops->copy_to_host(values.data(), heads);
    double sum = 0;
    for (const std::uint16_t value : values) sum += std::pow(from_bf16(value), 2);
    return std::sqrt(sum);
  };
  ops->copy_from_host(heads, values.data());
  double expected = norm();
  for (int i = 0; i < 5; ++i) {
    run();
    expected *= 2;
    CHECK(norm() == Approx(expected).epsilon(1e-2));
    CHECK(calls == std::min(i + 1, 2));
  }
  // Longer sequences need a longer table of angles.
  const Buffer other = ops->allocate(8 * kRows * kHeads * kDim * 2);
  ops->zero(Tensor(other.get(), DType::bf16, {8 * kRows * kHeads * kDim}));
  ops->rope({.qkv = Tensor(other.get(), DType::bf16, {1, 8 * kRows, kHeads, kDim}), .heads = 2});
  for (int i = 0; i < 3; ++i) {
    run();
    expected *= 2;
    CHECK(norm() == Approx(expected).epsilon(1e-2));
    CHECK(calls == std::min(i + 3, 4));
  }
  // So do operations that take more scratch memory.
  constexpr std::int64_t kMany = std::int64_t{1} << 20;
  CHECK(summed_ratio(*ops, kMany) == static_cast<double>(kMany));
  run();
  expected *= 2;
  CHECK(norm() == Approx(expected).epsilon(1e-2));
  CHECK(calls == 5);
  // What fails while it is recorded leaves the backend as it was, and is tried again.
  const auto failing = ops->repeated_work();
  const auto turn = [&](bool fails) {
    failing->run([&] {
      ops->rope({.qkv = heads, .heads = 2});
      if (fails) ops->rope({.qkv = heads.view({kRows, kHeads * kDim}), .heads = 2});
    });
  };
  turn(false);
  CHECK_THROWS_AS(turn(true), std::invalid_argument);
  for (int i = 0; i < 3; ++i) turn(false);
  CHECK(norm() == Approx(expected).epsilon(1e-2));
}

TEST_CASE("recorded passes change no bit on the GPU") {
  std::set<std::string> own;
  for (const OnGpu& model : models_on_gpu(own)) {
    INFO(name_of(model.compute) << ", " << test::describe(model.config));
    const auto steps = [&](bool recorded) {
      const auto ops = make_cuda_ops(model.options());
      Decoder decoder(*ops, model.config,
                      {.max_sequences = 3, .max_length = kLength, .sink_positions = 8, .residual_norms = true,
                       .recorded = recorded});
      load(*ops, decoder);
      Random random(93);
      std::vector<Step> all;
      // Each size is called, recorded and launched; the larger one moves scratch memory, and the smaller one begins
      // anew.
      int i = 0;
      for (const std::int64_t sequences : {2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 2, 3, 3, 2}) {
        const Batch batch = random_batch(random, model.config, sequences, kLength, 9);
        if (i++ == 0) decoder.replace_gradients();
        all.push_back(run_step(*ops, decoder, batch, 0.01F));
      }
      return all;
    };
    const std::vector<Step> expected = steps(false), found = steps(true);
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(same_bits(found[i], expected[i]));
  }
  // Forward and gradient of both models for two sizes of batch, or more where layers' weights differ in alignment.
  if (is_hopper(*make_cuda_ops({.device = 0, .compute = DType::bf16}))) CHECK(own.size() >= 8);
}

TEST_CASE("recomputed activations change no bit on the GPU") {
  std::set<std::string> own;
  for (const OnGpu& model : models_on_gpu(own)) {
    const Step kept = step_of(model, Recompute::none);
    for (const Recompute recompute : {Recompute::mlp, Recompute::block}) {
      INFO(name_of(model.compute) << ", " << test::describe(model.config) << ", recompute " << to_string(recompute));
      CHECK(same_bits(step_of(model, recompute), kept));
    }
  }
}

TEST_CASE("after a reservation no operation asks for more") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::f32});
  const std::size_t before = ops->memory_available().value();
  BackendExtents extents;
  extents.training = {.sequences = 1, .length = 8};
  extents.channels = 8;
  ops->reserve(extents);
  CHECK(ops->memory_available().value() > before - (std::size_t{32} << 20));  // what it holds counts as available
  const auto sums = [&](std::int64_t sequences) { return summed_ratio(*ops, sequences); };
  CHECK(sums(16) == 16);
  CHECK_THROWS_AS(sums(1 << 20), std::logic_error);
  CHECK(sums(16) == 16);  // as before
  extents.training = {.sequences = 1 << 20, .length = 2};
  ops->reserve(extents);
  CHECK(sums(1 << 20) == 1 << 20);
}

TEST_CASE("a run takes the memory that was planned, none of it in a step") {
  TemporaryFolder folder;
  make_dataset(folder.path());
  for (const char* preset : {"gpt2", "llama", "qwen3", "qwen2", "gpt_neox"})
    for (const char* recompute : {"none", "block"}) {
      const std::string precision = std::string(recompute) == "block" ? "fp8" : "bf16";
      INFO(preset << ", recompute " << recompute << ", " << precision);
      const Config config = small_config(
          folder.path(),
          {std::string("name=") + preset + "-" + recompute, "device=cuda", std::string("model.preset=") + preset,
           "model.channels=256", "model.heads=4", "model.head_dim=64", "model.hidden=1024", "train.micro_batch=64",
           "train.sequence_length=150", "train.gradient_accumulation=1", "train.steps=4", "evaluation.batches=1",
           "probes.sequences=70", "probes.short_length=40", "probes.causal_every=2",
           std::string("train.recompute=") + recompute, "precision=" + precision});
      const RunPlan plan = plan_run(config);
      REQUIRE(plan.memory_available);
      // The run reserves what the plan says and is held to it: an operation that needs more would throw.
      CHECK(train_quietly(config).finished);
      const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
      CHECK(total_bytes(plan.memory) < ops->total_memory());
    }
}

TEST_CASE("a run that does not fit into the GPU is refused before it takes memory") {
  TemporaryFolder folder;
  make_dataset(folder.path());
  const Config config = small_config(folder.path(), {"device=cuda", "model.layers=512", "model.channels=8192",
                                                     "model.heads=64", "model.hidden=32768", "train.micro_batch=64"});
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
  const std::size_t before = ops->memory_available().value();
  const std::string error = train_error(config);
  CHECK(contains(error, "small: a train.micro_batch of 64 takes "));
  CHECK(contains(error, "; not even 1 fits\nmemory "));
  CHECK_THROWS_AS(plan_run(config), ConfigError);
  CHECK(ops->memory_available().value() > before - (std::size_t{128} << 20));
  CHECK(!std::filesystem::exists(folder.path() / "runs"));
}
