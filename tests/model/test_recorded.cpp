// Which passes of a decoder are repeated work, which a GPU records as CUDA graphs.
#include <memory>
#include <vector>

#include "kernels/forwarding_ops.h"
#include "tests/catch.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// Counts pieces of repeated work, and their runs.
class RepeatingOps final : public ForwardingOps {
 public:
  explicit RepeatingOps(Ops& inner) : ForwardingOps(inner) {}
  std::unique_ptr<RepeatedWork> repeated_work() override {
    ++pieces;
    return std::make_unique<Work>(runs);
  }
  int pieces = 0, runs = 0;

 private:
  class Work final : public RepeatedWork {
   public:
    explicit Work(int& runs) : runs_(runs) {}
    void run(const std::function<void()>& work) override {
      ++runs_;
      work();
    }

   private:
    int& runs_;
  };
};

/// All parameters lie there, which it says or does not.
class Source final : public ParameterSource {
 public:
  bool has_all() const override { return all; }
  void begin_forward() override {}
  void need(std::int64_t) override { ++asked; }
  void expect(std::int64_t) override {}
  void end_forward() override {}
  bool all = false;
  int asked = 0;
};

class Looker final : public ActivationObserver {
 public:
  void embedding(const Tensor&) override {}
  void block(const BlockActivations&) override {}
};

}  // namespace

TEST_CASE("passes that do the same operations again are one piece of repeated work, and no others are") {
  const ModelConfig config =
      resolved_model(R"({"preset": "llama", "layers": 2, "channels": 32, "heads": 2, "hidden": 48})", 13, 12);
  DecoderOptions options{.max_sequences = 3, .max_length = 12, .attention_sums = true, .fp8 = true, .recorded = true};
  const auto cpu = make_cpu_ops(1);
  Random random(75);
  const Values parameters = strong_parameters(ParameterLayout(config), 8);
  const Batch batch = random_batch(random, config, 3, 12), fewer = random_batch(random, config, 2, 12),
              shorter = random_batch(random, config, 3, 11);

  RepeatingOps ops(*cpu);
  Decoder decoder = make_decoder(ops, config, options, parameters);
  const auto expect = [&](int pieces, int runs) {
    CHECK(ops.pieces == pieces);
    CHECK(ops.runs == runs);
  };
  run_step(ops, decoder, batch, 0.25F);
  expect(3, 3);  // forward, loss, backward
  run_step(ops, decoder, batch, 0.25F);
  expect(3, 6);
  run_step(ops, decoder, batch, 0.0F);  // an evaluation
  expect(4, 8);
  run_step(ops, decoder, fewer, 0.25F);
  expect(7, 11);
  decoder.replace_gradients();
  run_step(ops, decoder, batch, 0.25F);
  expect(9, 14);
  run_step(ops, decoder, batch, 0.25F);
  expect(9, 17);

  run_step(ops, decoder, shorter, 0.25F);  // as text that is sampled, at each length once
  expect(9, 17);
  Looker looker;
  decoder.forward(batch.sequences, batch.length, batch.inputs.data(), &looker);
  decoder.forward(batch.sequences, batch.length, batch.inputs.data(), nullptr, {.first_rotary_index = 2});
  expect(9, 17);
  std::vector<float> losses(batch.targets.size());
  const auto back = [&](const auto& backward) {
    decoder.forward(batch.sequences, batch.length, batch.inputs.data());
    decoder.loss(batch.targets.data(), losses.data(), 0.25F);
    backward();
  };
  back([&] { decoder.backward({.close = [](std::int64_t) {}}); });
  expect(9, 19);
  back([&] { decoder.backward_with_attention_sums(); });
  expect(9, 21);

  // There are other operations from here on.
  decoder.set_fp8_scales(std::vector<float>(static_cast<std::size_t>(2 * 4 * 3), 8.0F));
  run_step(ops, decoder, batch, 0.25F);
  expect(12, 24);

  // While parameters are on their way passes ask for them; once they are there, they are repeated as before.
  Source source;
  decoder.set_parameter_source(source);
  run_step(ops, decoder, batch, 0.25F);
  expect(12, 24);
  CHECK(source.asked == 4 + 2);
  source.all = true;
  run_step(ops, decoder, batch, 0.25F);
  expect(12, 27);

  options.recorded = false;
  RepeatingOps others(*cpu);
  Decoder called = make_decoder(others, config, options, parameters);
  run_step(others, called, batch, 0.25F);
  CHECK(others.pieces == 0);
}
