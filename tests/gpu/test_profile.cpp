// Clock, memory and name of the GPU.
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;

TEST_CASE("the GPU's clock sees what is enqueued, and nothing else") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
  const std::int64_t elements = std::int64_t{64} << 20;
  const std::size_t bytes = static_cast<std::size_t>(elements) * 4;
  const Buffer a = ops->allocate(bytes), b = ops->allocate(bytes);
  const Tensor from(a.get(), DType::f32, {elements}), to(b.get(), DType::f32, {elements});
  ops->zero(from);
  const auto copies = [&](int count) {
    return ops->time_ms([&] {
      for (int i = 0; i < count; ++i) ops->copy(to, from);
    });
  };
  copies(1);
  const double once = copies(1), often = copies(20);
  CHECK(once > 512e6 / 20e12 * 1e3);  // no GPU moves 20 TB/s
  CHECK(often > 5 * once);
  CHECK(ops->time_ms([] {}) < once);
}

TEST_CASE("the GPU's marks stand in the order of its work, and their events are used again") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16});
  const std::int64_t elements = std::int64_t{64} << 20;
  const std::size_t bytes = static_cast<std::size_t>(elements) * 4;
  const Buffer a = ops->allocate(bytes), b = ops->allocate(bytes);
  const Tensor from(a.get(), DType::f32, {elements}), to(b.get(), DType::f32, {elements});
  ops->zero(from);
  ops->copy(to, from);
  CHECK(ops->marked_ms().empty());
  for (int round = 0; round < 3; ++round) {
    INFO("round " << round);
    const int copies = 1 + 4 * (round % 2);  // fewer marks after more
    ops->mark();
    for (int i = 0; i < copies; ++i) {
      ops->copy(to, from);
      ops->mark();
    }
    const std::vector<double> times = ops->marked_ms();
    REQUIRE(times.size() == static_cast<std::size_t>(copies) + 1);
    CHECK(times.front() == 0);
    for (std::size_t i = 1; i < times.size(); ++i)
      CHECK(times[i] - times[i - 1] > 512e6 / 20e12 * 1e3);  // no GPU moves 20 TB/s
    CHECK(ops->marked_ms().empty());
  }
  // Beside time_ms, which has events of its own.
  ops->mark();
  const double timed = ops->time_ms([&] { ops->copy(to, from); });
  ops->mark();
  CHECK(ops->marked_ms().at(1) >= timed);
}

TEST_CASE("the GPU tells its name and memory, and ranges nest") {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::f32});
  CHECK(ops->gpu_name() == cuda_devices().front());
  const std::size_t before = ops->peak_memory(), bytes = std::size_t{512} << 20;
  { const Buffer buffer = ops->allocate(bytes); }
  CHECK(ops->peak_memory() >= bytes);
  CHECK(ops->peak_memory() >= before);
  CHECK(ops->peak_memory() <= ops->total_memory());
  const StageRange outer(*ops, "outer");
  const StageRange inner(*ops, "inner", 3);
}
