#include <functional>
#include <string>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/world.h"
#include "engine/train/gradient_buckets.h"
#include "kernels/ops.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

/// One process that writes down what it is asked to sum.
class Recorder final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string description() const override { return "recorder"; }
  void start_all_reduce(const Tensor& x) override {
    const auto begin = x.as<float>() - base;
    parts.emplace_back(begin, begin + x.size());
  }
  void finish() override { ++finished; }
  void broadcast(const Tensor&, int) override {}
  void all_gather(const Tensor&, const Tensor&) override {}
  void share_parts(const Tensor&, std::int64_t) override {}
  void reduce_scatter(const Tensor&, const Tensor&) override {}
  std::vector<std::byte> gather(std::span<const std::byte> mine) override { return {mine.begin(), mine.end()}; }

  const float* base = nullptr;
  std::vector<std::pair<std::int64_t, std::int64_t>> parts;
  int finished = 0;
};

TEST_CASE("buckets are cut from the end, none before it is ready, the same ones whatever was ready when") {
  std::vector<float> values(100);
  Recorder recorder;
  recorder.base = values.data();
  GradientBuckets buckets(recorder, Tensor(values.data(), DType::f32, {100}), 30);
  using Parts = std::vector<std::pair<std::int64_t, std::int64_t>>;
  const Parts all = {{70, 100}, {40, 70}, {10, 40}, {0, 10}};
  buckets.ready(80);
  CHECK(recorder.parts.empty());
  buckets.ready(40);
  CHECK(recorder.parts == Parts(all.begin(), all.begin() + 2));
  buckets.ready(9);
  CHECK(recorder.parts == Parts(all.begin(), all.begin() + 3));
  buckets.ready(0);
  CHECK(recorder.parts == all);
  buckets.finish();
  CHECK(recorder.parts == all);
  CHECK(recorder.finished == 1);
  recorder.parts.clear();
  buckets.finish();  // a rank that broke off sums the same
  CHECK(recorder.parts == all);
}

TEST_CASE("one process is its own sum") {
  const auto ops = make_cpu_ops(1);
  World world;
  const auto alone = world.connect(*ops);
  CHECK(alone->size() == 1);
  CHECK(alone->leads());
  CHECK(alone->description() == "one process");
  std::vector<float> values = {1, 2, 3};
  const Tensor x(values.data(), DType::f32, {3});
  alone->all_reduce(x);
  alone->broadcast(x, 0);
  alone->all_gather(x, x);
  alone->share_parts(x, 3);
  alone->reduce_scatter(x, x);
  CHECK(values == std::vector<float>{1, 2, 3});
  CHECK(alone->any(true));
  CHECK_FALSE(alone->any(false));
  CHECK(alone->text_of(0, "text") == "text");
  CHECK_FALSE(alone->first(std::nullopt).has_value());
  CHECK(alone->first("found") == "found");
  std::vector<float> other(3);
  CHECK_THROWS_AS(alone->all_gather(Tensor(other.data(), DType::f32, {3}), x), std::invalid_argument);
  CHECK(world.exchange("mine") == std::vector<std::string>{"mine"});
  CHECK(test::message_of([&] { static_cast<void>(world.together([]() -> int { throw std::runtime_error("own"); })); }) == "own");
}

}  // namespace
}  // namespace sinkscope
