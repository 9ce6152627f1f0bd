// What `sinkscope bench` counts, and that every operation of a model can be timed. Times themselves
// are the machine's.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/model/parameters.h"
#include "tests/catch.h"
#include "tests/model/counting_ops.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/kernels.h"
#include "tools/bench/step.h"
#include "tools/bench/step_stages.h"

using namespace sinkscope;

namespace {

constexpr const char* kSmallSteps = R"("sequence_length": 16, "gradient_accumulation": 2)";

Config small_config(const std::string& preset, bool probes, const std::string& train = kSmallSteps,
                    std::int64_t vocabulary = 100) {
  Config config = parse_config(
      R"({"model": {"preset": ")" + preset + R"(", "layers": 3, "channels": 32, "heads": 4, "kv_heads": 2,
                    "head_dim": 8, "hidden": 48, "vocab_size": )" + std::to_string(vocabulary) + R"(},
          "train": {"micro_batch": 2, )" + train + R"(},
          "probes": {"enabled": )" + (probes ? "true" : "false") + R"(, "short_length": 16, "positions": 4}})", "test");
  resolve_with_dataset(config, vocabulary, 0, 1);
  return config;
}

const StageRow& row_named(const StepStages& stages, const std::string& name) {
  for (const StageRow& row : stages.rows)
    if (row.name == name) return row;
  throw std::logic_error("no row " + name);
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

TEST_CASE("a step waits for its losses behind backward, and for norms and sums behind the update") {
  test::CountingOps ops(make_cpu_ops(1));
  StepBench bench(ops, small_config("gpt2", true, R"("sequence_length": 16, "gradient_accumulation": 1)"), true);
  bench.initialize();
  bench.step();
  ops.order.clear();
  bench.step();
  const auto backward = std::find(ops.order.begin(), ops.order.end(), "embedding_backward");
  const auto update = std::find(ops.order.begin(), ops.order.end(), "adamw_step");
  REQUIRE(backward < update);
  REQUIRE(update < ops.order.end());
  CHECK(std::count(ops.order.begin(), backward, "wait") == 0);
  CHECK(std::count(backward, update, "wait") == 1);
  CHECK(std::count(update, ops.order.end(), "wait") >= 2);
}

TEST_CASE("the rows of a step's stages are the operations of a step, each with the floor of its calls") {
  // Products are bound by the matrix rate, the rest by the copy rate.
  const Ceilings ceilings{.copy_rate = 1e9, .copy_bytes = 1, .matrix_rate = 1e9, .matrix_size = 1};
  for (const char* preset : {"gpt2", "llama", "qwen2", "qwen3", "gpt_neox"})
    for (const bool probes : {false, true})
      for (const char* train : {kSmallSteps, R"("sequence_length": 16, "gradient_accumulation": 1)"}) {
        INFO(preset << ", probes " << probes << ", " << train);
        const Config config = small_config(preset, probes, train);
        test::CountingOps ops(make_cpu_ops(1));
        const StepStages stages = time_stages(ops, config, ceilings, 3);
        CHECK(stages.steps == 3);

        std::map<std::string, double> listed, done, least;
        for (const KernelCase& kernel : kernel_cases(ops, config)) {
          least[kernel.name] = floor_ms(ceilings, kernel.bytes, kernel.flops);
          if (kernel.calls > 0) listed[kernel.name] = kernel.calls;
        }
        double sum = 0;
        int zeros = 0, reads = 0, writes = 0;
        Stage stage = Stage::embedding;
        for (const StageRow& row : stages.rows) {
          INFO(row.name);
          CHECK(row.ms > 0);
          CHECK(row.calls > 0);
          CHECK(row.stage >= stage);
          stage = row.stage;
          sum += row.ms;
          double floor = 0;
          for (const std::string& kernel : row.kernels) {
            done[kernel] += row.calls;
            floor += row.calls * least.at(kernel);
          }
          if (row.name == "zero step sums") floor = 8.0 * (2 * 3 * 4 * 4 + 4 * (4 + 2)) / 1e9 * 1e3;
          if (row.name == "zero gradients") {
            const ParameterLayout layout(config.model);
            std::int64_t added = layout.flat_size();
            for (const ParameterSpec& spec : layout.specs())
              if (spec.decay &&
                  (spec.group != ParameterGroup::embedding || (config.model.tied_embedding && spec.offset == 0)))
                added -= spec.size;
            floor = 4.0 * static_cast<double>(added) / 1e9 * 1e3;
          }
          if (row.name.starts_with("zero ")) zeros += row.calls;
          if (row.name == "copy to host") reads += row.calls;
          if (row.name == "copy from host") writes += row.calls;
          CHECK(row.floor.has_value() == (row.stage != Stage::copies));
          CHECK(row.floor.value_or(0) == Approx(floor).epsilon(1e-12));
        }
        CHECK(done == listed);
        CHECK(writes == 2 * config.train.gradient_accumulation);  // tokens and targets
        CHECK(sum + stages.between() == Approx(stages.ms));
        CHECK(stages.total().ms == Approx(sum));
        CHECK(stages.plain_ms > 0);
        double of_stages = 0;
        for (int i = 0; i < kStages; ++i) of_stages += stages.total(static_cast<Stage>(i)).ms;
        CHECK(of_stages == Approx(sum));

        StepBench bench(ops, config, probes);
        bench.initialize();
        ops.zeros = ops.reads = 0;
        bench.step();
        CHECK(zeros == ops.zeros);
        CHECK(reads == ops.reads);
      }
}

TEST_CASE("backward of a linear map is one row, and what is computed again has rows of its own") {
  const auto ops = make_cpu_ops(1);
  const Ceilings ceilings{.copy_rate = 1e9, .copy_bytes = 1, .matrix_rate = 1e9, .matrix_size = 1};
  const StepStages kept = time_stages(*ops, small_config("gpt2", true), ceilings, 1);
  for (const char* name :
       {"linear qkv dx, dweight", "attention backward, bias", "linear attention out dx, dweight",
        "linear up forward, gelu", "linear up dx, dweight", "linear down dx, gelu gradient, bias, dweight"})
    CHECK(row_named(kept, name).calls == 2 * 3);
  CHECK(row_named(kept, "linear head dx, dweight").calls == 2);
  CHECK(row_named(kept, "linear attention out forward").stage == Stage::projections);
  CHECK(row_named(kept, "linear down forward").stage == Stage::mlp);
  for (const StageRow& row : kept.rows) CHECK_FALSE(row.name.ends_with(", recomputed"));

  for (const char* preset : {"gpt2", "llama", "qwen3", "gpt_neox"})
    for (const bool probes : {false, true})
      for (const std::string recompute : {"mlp", "block"}) {
        INFO(preset << ", probes " << probes << ", " << recompute);
        const Config config =
            small_config(preset, probes, std::string(kSmallSteps) + R"(, "recompute": ")" + recompute + "\"");
        const StepStages stages = time_stages(*ops, config, ceilings, 1);
        const bool block = recompute == "block", gated = config.model.mlp == MlpType::swiglu;
        const StageRow& up =
            row_named(stages, gated ? "linear gate and up forward, swiglu" : "linear up forward, gelu");
        const StageRow& again = row_named(stages, up.name + ", recomputed");
        CHECK(up.calls == 2 * 3);
        CHECK(again.calls == 2 * 2);  // the last block's are still there
        CHECK(*again.floor == Approx(*up.floor * 2 / 3));
        int attention = 0;
        for (const StageRow& row : stages.rows)
          if (row.name == "attention forward, no sink scores, recomputed") attention += row.calls;
        CHECK(attention == (block ? 2 * 2 : 0));
      }
}

TEST_CASE("floors of the head's chunks are those of their own rows") {
  const auto ops = make_cpu_ops(1);
  const double V = 20000, C = 32;
  const Config config = small_config("llama", false, R"("sequence_length": 64, "gradient_accumulation": 1)", 20000);
  const double chunks[] = {104, 24};  // 8 MiB of logits hold 104 rows of f32
  {
    const Ceilings copy_bound{.copy_rate = 1e9, .copy_bytes = 1, .matrix_rate = 1e18, .matrix_size = 1};
    const StepStages stages = time_stages(*ops, config, copy_bound, 1);
    double forward = 0, backward = 0, loss = 0;
    for (const double rows : chunks) {
      forward += 4 * (rows * C + V * C + rows * V);
      backward += 4 * (rows * C + V * C + rows * V) + 4 * (rows * C + rows * V) + 8 * V * C;
      loss += 2 * 4 * rows * V + 8 * rows;
    }
    CHECK(row_named(stages, "linear head forward").calls == 2);
    CHECK(*row_named(stages, "linear head forward").floor == Approx(forward / 1e6).epsilon(1e-12));
    CHECK(*row_named(stages, "linear head dx, dweight").floor == Approx(backward / 1e6).epsilon(1e-12));
    CHECK(*row_named(stages, "cross-entropy, gradient").floor == Approx(loss / 1e6).epsilon(1e-12));
  }
  const Ceilings matrix_bound{.copy_rate = 1e18, .copy_bytes = 1, .matrix_rate = 1e12, .matrix_size = 1};
  const StepStages stages = time_stages(*ops, config, matrix_bound, 1);
  CHECK(*row_named(stages, "linear head forward").floor == Approx(2 * 128 * V * C / 1e9).epsilon(1e-12));
  CHECK(*row_named(stages, "linear head dx, dweight").floor == Approx(4 * 128 * V * C / 1e9).epsilon(1e-12));
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
  const double ms = time_in_turns(*ops, source, std::span(&add, 1), 3).at(0);
  CHECK(ms > 0);
  CHECK(std::isfinite(ms));
}

TEST_CASE("operations that are compared are timed in turns") {
  const auto ops = make_cpu_ops(1);
  RandomSource source(*ops);
  std::vector<int> called;
  std::vector<KernelCase> kernels(2);
  for (int i = 0; i < 2; ++i)
    kernels[static_cast<std::size_t>(i)].make = [&called, i](ArraySet&) {
      return [&called, i] { called.push_back(i); };
    };
  CHECK(time_in_turns(*ops, source, kernels, 3).size() == 2);
  const auto last = std::unique(called.begin(), called.end());
  // Each is made and tried, then has three windows.
  CHECK(std::vector(called.begin(), last) == std::vector{0, 1, 0, 1, 0, 1, 0, 1});
  for (const std::string preset : {"gpt2", "llama"})
    for (const KernelCase& kernel : kernel_cases(*ops, small_config(preset, true))) {
      INFO(preset << ", " << kernel.name);
      // In GPT-2 with the bias of qkv as well, in Llama with what rotates back.
      CHECK(kernel.compared ==
            (kernel.name == "attention forward, no sink scores" || kernel.name == "attention backward"));
    }
}

TEST_CASE("a product with an activation moves its operands and its results, each once") {
  const auto ops = make_cpu_ops(1);
  for (const std::string preset : {"gpt2", "llama"}) {
    const Config config = small_config(preset, true);
    const bool gated = preset == "llama";
    const auto d = [](std::int64_t x) { return static_cast<double>(x); };
    const double N = d(config.train.micro_batch * config.train.sequence_length), C = d(config.model.channels),
                 F = d(config.model.hidden);
    const double gates = gated ? 2 : 1, bias = config.model.bias ? gates * F : 0;
    const auto bytes = [&](const std::string& name) {
      for (const KernelCase& kernel : kernel_cases(*ops, config))
        if (kernel.name == name) return kernel.bytes;
      FAIL(preset << " has no \"" << name << "\"");
      return 0.0;
    };
    INFO(preset);
    // x, weight and bias; what they give, and what the activation gives.
    CHECK(bytes(gated ? "linear gate and up forward, swiglu" : "linear up forward, gelu") ==
          4 * (N * C + gates * F * C + bias + gates * N * F + N * F));
    // The output's gradient, weight and what the activation was of; the gradient of that.
    CHECK(bytes(gated ? "linear down dx, swiglu gradient" : "linear down dx, gelu gradient, bias") ==
          4 * (N * C + C * F + gates * N * F + gates * N * F));
  }
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
