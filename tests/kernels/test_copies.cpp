// Copies that the host does not wait for, and values in bf16.
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/ops.h"
#include "tests/catch.h"

using namespace sinkscope;

TEST_CASE("a copy to the host that is waited for later holds what was there when it began") {
  const auto ops = make_cpu_ops(1);
  const Buffer buffer = ops->allocate(3 * sizeof(float));
  const Tensor tensor(buffer.get(), DType::f32, {3});
  const std::vector<float> first = {1, 2, 3}, second = {4, 5, 6};
  std::vector<float> then(3, -1.0F), now(3, -1.0F);
  ops->copy_from_host(tensor, first.data());
  const std::function<void()> wait = ops->copy_to_host_later(then.data(), tensor);
  ops->copy_from_host(tensor, second.data());
  const std::function<void()> wait_for_second = ops->copy_to_host_later(now.data(), tensor);
  CHECK(then == std::vector<float>(3, -1.0F));
  wait_for_second();
  wait();
  CHECK(then == first);
  CHECK(now == second);
  CHECK_THROWS_AS(ops->copy_to_host_later(nullptr, tensor), std::invalid_argument);
}

TEST_CASE("arrays become zeros together, and nothing between them") {
  const auto ops = make_cpu_ops(2);
  std::vector<float> values(9, 1.0F);
  const Tensor all(values.data(), DType::f32, {9});
  ops->zero_each(std::vector{all.rows(1, 3), all.rows(4, 0), all.rows(5, 2)});
  CHECK(values == std::vector<float>{1, 0, 0, 0, 1, 0, 0, 1, 1});
  std::vector<std::int32_t> others(2, 1);
  CHECK_THROWS_WITH(ops->zero_each(std::vector{Tensor(others.data(), DType::i32, {2})}),
                    "zero_each: arrays is (2) i32, expected (2) f32");
  CHECK(others.front() == 1);
}

TEST_CASE("bf16 is the nearest, of two the even one, and comes back as it was") {
  for (std::uint32_t bits = 0; bits < 1U << 16; ++bits) {
    const float value = std::bit_cast<float>(bits << 16);
    if (std::isnan(value)) {
      CHECK(std::isnan(from_bf16(to_bf16(value))));
      continue;
    }
    if (to_bf16(value) != bits ||
        std::bit_cast<std::uint32_t>(from_bf16(static_cast<std::uint16_t>(bits))) != bits << 16)
      FAIL("value " << value);
    if (std::isinf(value)) continue;
    const auto rounded = [&](std::uint32_t low) {
      return std::uint32_t{to_bf16(std::bit_cast<float>(bits << 16 | low))};
    };
    if (rounded(0x7fff) != bits || rounded(0x8001) != bits + 1 || rounded(0x8000) != bits + bits % 2)
      FAIL("near " << value);
  }
  CHECK(to_bf16(std::numeric_limits<float>::max()) == 0x7f80);  // infinity is nearer
  CHECK(std::isnan(from_bf16(to_bf16(std::bit_cast<float>(0x7f800001U)))));  // whose payload would be lost
}
