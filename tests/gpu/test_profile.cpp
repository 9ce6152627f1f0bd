// Clock, memory and name of the GPU.
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
