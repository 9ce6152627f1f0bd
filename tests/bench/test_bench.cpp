// What `sinkscope bench` counts, and that every operation of a model can be timed. Times themselves
// are the machine's.
#include <cmath>
#include <map>
#include <string>

#include "engine/config/load.h"
#include "engine/model/parameters.h"
#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/kernels.h"
#include "tools/bench/step.h"

using namespace sinkscope;

namespace {

Config small_config(const std::string& preset, bool probes) {
  Config config = parse_config(
      R"({"model": {"preset": ")" + preset + R"(", "layers": 3, "channels": 32, "heads": 4, "kv_heads": 2,
                    "head_dim": 8, "hidden": 48, "vocab_size": 100},
          "train": {"micro_batch": 2, "sequence_length": 16, "gradient_accumulation": 2},
          "probes": {"enabled": )" + (probes ? "true" : "false") + R"(, "short_length": 16, "positions": 4}})", "test");
  resolve_with_dataset(config, 100, 0, 1);
  return config;
}

}  // namespace

TEST_CASE("the FLOPs of a step's operations are the model's, and what attention recomputes") {
  const auto ops = make_cpu_ops(1);
  for (const char* preset : {"gpt2", "llama", "qwen2", "qwen3", "gpt_neox"})
    for (const bool probes : {false, true}) {
      INFO(preset << ", probes " << probes);
      const Config config = small_config(preset, probes);
      double flops = 0;
      for (const KernelCase& kernel : kernel_cases(*ops, config)) flops += kernel.calls * kernel.flops;
      const ModelConfig& model = config.model;
      const double tokens = 2.0 * 2.0 * 16.0;
      // Attention backward counts 2.5 times the forward, the model's FLOPs twice: one product is done again.
      const double again = static_cast<double>(model.layers * model.heads * model.head_dim) * 16.0;
      CHECK(flops == Approx(tokens * (training_flops_per_token(model, 16) + again)).epsilon(1e-12));
    }
}

TEST_CASE("the operations of a step, as often as they are said to be called, are those of a step") {
  for (const char* preset : {"gpt2", "llama", "qwen2", "qwen3", "gpt_neox"})
    for (const bool probes : {false, true}) {
      INFO(preset << ", probes " << probes);
      const Config config = small_config(preset, probes);
      test::CountingOps ops(make_cpu_ops(1));
      std::map<std::string, double> listed, done;
      {
        RandomSource source(ops);
        for (KernelCase& kernel : kernel_cases(ops, config)) {
          if (kernel.calls == 0) continue;
          ArraySet arrays(ops, source);
          const auto call = kernel.make(arrays);
          ops.calls.clear();  // of what the arguments were made with
          call();
          for (const auto& [name, count] : ops.calls) listed[name] += kernel.calls * count;
        }
      }
      StepBench bench(ops, config, probes);
      bench.initialize();
      ops.calls.clear();
      bench.step();
      for (const auto& [name, count] : ops.calls) done[name] = count;
      CHECK(listed == done);
    }
}

TEST_CASE("every operation of a model can be timed") {
  const auto ops = make_cpu_ops(1);
  RandomSource source(*ops);
  for (const char* preset : {"gpt2", "llama", "qwen2", "qwen3", "gpt_neox"}) {
    for (KernelCase& kernel : kernel_cases(*ops, small_config(preset, true))) {
      INFO(preset << ", " << kernel.name);
      CHECK(kernel.bytes > 0);
      ArraySet arrays(*ops, source);
      const auto call = kernel.make(arrays);
      call();
      // The least bytes are not above what the arrays hold, read and written.
      CHECK(kernel.bytes <= 2.0 * static_cast<double>(arrays.bytes()));
    }
  }
  const KernelCase add = [&] {
    for (KernelCase& kernel : kernel_cases(*ops, small_config("gpt2", true)))
      if (kernel.name == "add") return kernel;
    throw std::logic_error("no add");
  }();
  const double ms = time_kernel(*ops, source, add, 3);
  CHECK(ms > 0);
  CHECK(std::isfinite(ms));
}

TEST_CASE("a floor is the slower of moving and multiplying") {
  const Ceilings ceilings{.copy_rate = 1e9, .copy_bytes = 1, .matrix_rate = 1e12, .matrix_size = 1};
  CHECK(floor_ms(ceilings, 1e6, 1e8) == Approx(1.0));
  CHECK(floor_ms(ceilings, 1e6, 1e10) == Approx(10.0));
}

TEST_CASE("timed steps train, with and without probes alike") {
  const auto ops = make_cpu_ops(1);
  const Config config = small_config("llama", true);
  StepBench with(*ops, config, true), without(*ops, config, false);
  with.initialize();
  without.copy_weights(with);
  CHECK(with.step() > 0);
  CHECK(with.step(true) > 0);
  CHECK(without.step() > 0);
  CHECK(with.probe_pass() > 0);
  CHECK(with.probe_pass() > 0);
  CHECK(StepBench::planned_bytes(*ops, config, true) > StepBench::planned_bytes(*ops, config, false));
}

TEST_CASE("random tokens are in the vocabulary, frequent ones first") {
  const auto tokens = random_tokens(7, 20000, 1000);
  std::vector<int> counts(1000);
  for (const std::int32_t token : tokens) ++counts.at(static_cast<std::size_t>(token));
  CHECK(counts.front() > 1500);  // ln 2 / ln 1001 of them: 2007
  CHECK(counts.front() < 2500);
  CHECK(counts[0] > counts[1]);
  CHECK(counts[1] > counts[9]);
}
