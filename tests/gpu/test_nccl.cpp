// NCCL with one rank: every call of a Communicator, ordered with the operations of the GPU.
#include <string>
#include <vector>

#include "engine/comm/backends.h"
#include "engine/comm/world.h"
#include "tests/catch.h"
#include "tests/files.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

TEST_CASE("NCCL with one rank changes nothing, and comes between the operations before and after it") {
  Backends backends(DType::f32);
  const World world;
  const auto ranks = make_nccl_communicator(world, backends.gpu(), make_nccl_id());
  CHECK(ranks->size() == 1);
  CHECK(contains(ranks->description(), "1 rank, NCCL 2."));
  Doubles values(100000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 256) - 100;  // exact in bf16, and so is twice as much
  const BothFloats x = backends.input({100000}, values), sum = backends.single_output({100000}), apart = backends.single_output({100000});
  Ops& gpu = backends.gpu();
  for (int i = 0; i < 20; ++i) {
    gpu.copy(sum.gpu, x.gpu);
    ranks->start_all_reduce(sum.gpu.rows(50000, 50000), DType::f32);
    ranks->start_all_reduce(sum.gpu.rows(0, 50000), DType::bf16);
    ranks->start_reduce({.x = sum.gpu.rows(3, 501), .part = 100000}, DType::f32);  // a part that is not full
    ranks->start_reduce({.x = sum.gpu.rows(504, 1000), .part = 1000}, DType::bf16);
    i % 2 == 0 ? ranks->finish() : ranks->join();
    gpu.add(sum.gpu.view({1, 100000}), sum.gpu.view({1, 100000}), x.gpu.view({1, 100000}));
    ranks->broadcast(sum.gpu, 0);
    gpu.zero(apart.gpu);
    ranks->start_reduce({.x = sum.gpu, .part = 100000, .own = apart.gpu}, i % 2 == 0 ? DType::f32 : DType::bf16);
    ranks->join();
    gpu.zero(sum.gpu);
    const Stretch halves[] = {{.x = sum.gpu.rows(0, 50000), .part = 50000, .own = apart.gpu.rows(0, 50000)},
                              {.x = sum.gpu.rows(50000, 50000), .part = 60000, .own = apart.gpu.rows(50000, 50000)}};
    ranks->start_share(halves);
    ranks->finish();
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
  const std::string large(std::size_t{3} << 20, 'x');  // more than is kept for it
  CHECK(ranks->text_of(0, large) == large);
}
