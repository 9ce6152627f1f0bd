// NCCL with one rank: every call of a Communicator, ordered with the operations of the GPU.
#include <string>
#include <vector>

#include "engine/comm/backends.h"
#include "engine/comm/world.h"
#include "engine/train/gradient_sums.h"
#include "tests/catch.h"
#include "tests/files.h"
#include "tests/gpu/support.h"
#include "tests/model/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

TEST_CASE("NCCL with one rank changes nothing, and comes between the operations before and after it") {
  const bool copy_engines = GENERATE(true, false);
  INFO("copy engines " << copy_engines);
  Backends backends(DType::f32);
  const World world;
  const CarriedBytes carried{.reduced = 2 * 4 * (100032 + 1024), .shared = 4 * (50048 + 60032)};
  const auto ranks =
      make_nccl_communicator(world, backends.gpu(), make_nccl_id(), copy_engines ? carried : CarriedBytes{});
  CHECK(ranks->size() == 1);
  CHECK(contains(ranks->description(), "copy engines") == ranks->shares_beside());
  if (!copy_engines) CHECK_FALSE(ranks->shares_beside());
  CHECK(contains(ranks->description(), "1 rank, NCCL 2."));
  Doubles values(100000);
  // These are exact in bf16, and so is twice as much.
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 256) - 100;
  const BothFloats x = backends.input({100000}, values), sum = backends.single_output({100000}),
                   apart = backends.single_output({100000});
  Ops& gpu = backends.gpu();
  for (int i = 0; i < 20; ++i) {
    gpu.copy(sum.gpu, x.gpu);
    ranks->start_all_reduce(sum.gpu.rows(50000, 50000), DType::f32);
    ranks->start_all_reduce(sum.gpu.rows(0, 50000), DType::bf16);
    const Stretch short_part[] = {{.x = sum.gpu.rows(3, 501), .part = 100000},
                                  {.x = sum.gpu.rows(504, 1000), .part = 1000}};
    ranks->start_reduce(short_part, DType::f32);
    ranks->start_reduce({&short_part[1], 1}, DType::bf16);
    i % 2 == 0 ? ranks->finish() : ranks->join();
    gpu.add(sum.gpu.view({1, 100000}), sum.gpu.view({1, 100000}), x.gpu.view({1, 100000}));
    ranks->broadcast(sum.gpu, 0);
    gpu.zero(apart.gpu);
    const Stretch kept_apart[] = {{.x = sum.gpu, .part = 100000, .own = apart.gpu}};
    const std::int64_t before = ranks->mark();
    ranks->start_reduce(kept_apart, i % 2 == 0 ? DType::f32 : DType::bf16);
    ranks->join(before);  // which is none of the sum: what copy engines carry is still in their window
    if (ranks->shares_beside()) CHECK(backends.read(apart.gpu) == Doubles(values.size()));
    ranks->join();
    gpu.zero(sum.gpu);
    const Stretch halves[] = {{.x = sum.gpu.rows(0, 50000), .part = 50000, .own = apart.gpu.rows(0, 50000)},
                              {.x = sum.gpu.rows(50000, 50000), .part = 60000, .own = apart.gpu.rows(50000, 50000)}};
    i % 3 == 0 ? ranks->start_share(halves) : ranks->start_share_beside(halves);
    i % 2 == 0 ? ranks->finish() : ranks->join();
    Doubles expected = values;
    for (double& value : expected) value *= 2;
    CHECK(backends.read(sum.gpu) == expected);
    gpu.zero(sum.gpu);
  }
  std::vector<double> numbers = {0.1, -2};
  ranks->sum(std::span<double>(numbers));
  CHECK(numbers == std::vector<double>{0.1, -2});
  CHECK(ranks->any(true));
  CHECK_FALSE(ranks->any(false));
  if (ranks->shares_beside()) {
    const Stretch too_much[] = {{.x = x.gpu, .part = 100000}, {.x = x.gpu, .part = 100000}};
    CHECK_THROWS_AS(ranks->start_reduce(too_much, DType::f32), std::logic_error);
  }
  const std::string large(std::size_t{3} << 20, 'x');  // more than is kept for it
  CHECK(ranks->text_of(0, large) == large);
}

TEST_CASE("gradients that one rank sums over NCCL in buckets while backward runs are its own") {
  const ModelConfig config =
      resolved_model(R"({"preset": "llama", "layers": 3, "channels": 64, "heads": 2, "hidden": 96})", 61, 40);
  const DecoderOptions options{.max_sequences = 3, .max_length = 40};
  const Values parameters = strong_parameters(ParameterLayout(config), 7);
  Random random(97);
  const Batch batch = random_batch(random, config, 3, 40), more = random_batch(random, config, 2, 40);
  const auto gradients_of = [&](bool summed) {
    const auto ops = make_cuda_ops({.device = 0, .compute = DType::f32});
    const World world;
    const auto nccl = make_nccl_communicator(world, *ops, make_nccl_id(), {});
    OneProcess alone;
    Decoder decoder = make_decoder(*ops, config, options, parameters);
    RanksConfig ranks;
    ranks.bucket_megabytes = 0.02;
    GradientSums sums(*ops, decoder, summed ? *nccl : static_cast<Communicator&>(alone), ranks);
    std::vector<float> losses(3 * 40);
    for (int step = 0; step < 3; ++step) {
      sums.begin_step();
      for (const Batch* pass : {&batch, &more}) {
        const BackwardHooks hooks = sums.begin_pass(pass == &more);
        CHECK(static_cast<bool>(hooks.close) == (summed && pass == &more));
        decoder.forward(pass->sequences, pass->length, pass->inputs.data());
        decoder.loss(pass->targets.data(), losses.data(), 0.01F);
        decoder.backward(hooks);
      }
      sums.finish();
    }
    return to_host(*ops, sums.gradients());
  };
  CHECK(same_bits(gradients_of(true), gradients_of(false)));
}
