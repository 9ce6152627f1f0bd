// Copies that the host does not wait for.
#include <functional>
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
