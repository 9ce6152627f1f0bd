// Which algorithm a large matrix product takes: timed once, then from the record.
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// The gradient of a weight, added to what was there, and the outputs of a product.
struct Results {
  std::vector<float> dweight, out;
  bool operator==(const Results&) const = default;
};

constexpr std::int64_t N = 4096, I = 1024, O = 2048;  // 17 GFLOP

Results multiply(const ChooseAlgorithm& choose) {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16, .choose = choose});
  Random random(31);
  std::vector<Buffer> buffers;
  const auto array = [&](std::int64_t rows, std::int64_t columns, DType dtype) {
    const Doubles values = random.normals(rows * columns);
    const std::vector<float> floats(values.begin(), values.end());
    buffers.push_back(ops->allocate(floats.size() * 4));
    const Tensor wide = Tensor(buffers.back().get(), DType::f32, {rows, columns});
    ops->copy_from_host(wide, floats.data());
    if (dtype == DType::f32) return wide;
    buffers.push_back(ops->allocate(floats.size() * size_of(dtype)));
    const Tensor narrow = Tensor(buffers.back().get(), dtype, {rows, columns});
    ops->convert(narrow, wide);
    return narrow;
  };
  const Tensor x = array(N, I, DType::bf16), dout = array(N, O, DType::bf16), weight = array(O, I, DType::bf16);
  const Tensor dweight = array(O, I, DType::f32), out = array(N, O, DType::bf16), wide = array(N, O, DType::f32);
  Results results{std::vector<float>(static_cast<std::size_t>(O * I)), std::vector<float>(static_cast<std::size_t>(N * O))};
  ops->linear_backward({.dout = dout, .x = x, .weight = {}, .dx = {}, .dweight = dweight, .dbias = {}});
  ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}});
  ops->convert(wide, out);
  ops->copy_to_host(results.dweight.data(), dweight);
  ops->copy_to_host(results.out.data(), wide);
  return results;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_error(Doubles(a.begin(), a.end()), Doubles(b.begin(), b.end()));
}

}  // namespace

TEST_CASE("a large product is timed once, on its own arrays, and taken from the record afterwards") {
  std::map<std::string, std::string> record;
  int timings = 0;
  const auto choose = [&](const std::string& product, const std::function<std::string()>& time) {
    const auto known = record.find(product);
    if (known != record.end()) return known->second;
    ++timings;
    return record[product] = time();
  };
  const Results untimed = multiply({});
  const Results timed = multiply(choose);
  CHECK(timings == 2);
  CHECK(record.size() == 2);
  // What was timed added nothing to the gradient.
  CHECK(difference(timed.dweight, untimed.dweight) < 1e-5);
  CHECK(difference(timed.out, untimed.out) < 4e-3);
  CHECK(multiply(choose) == timed);
  CHECK(timings == 2);
  for (const auto& [product, word] : record) {
    INFO(product);
    CHECK(product.find("bf16 " + std::to_string(product.find("+=") == std::string::npos ? O : I) + " ") != std::string::npos);
    CHECK(word.size() == 128);
  }
}

TEST_CASE("a record that is no algorithm of the product is an error that names the product") {
  const auto word = GENERATE(std::string("fast"), std::string(128, 'f'), std::string(128, 'x'));
  INFO(word);
  const std::string message = [&]() -> std::string {
    try {
      multiply([&](const std::string&, const std::function<std::string()>&) { return word; });
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  }();
  INFO(message);
  CHECK(message.find("bf16 " + std::to_string(I) + " " + std::to_string(O) + " " + std::to_string(N)) != std::string::npos);
  CHECK(message.find("delete the record") != std::string::npos);
}
