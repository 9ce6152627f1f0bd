// Which algorithm a large matrix product takes: timed once, then from the record.
#include <cmath>
#include <functional>
#include <initializer_list>
#include <map>
#include <set>
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
  Results results{std::vector<float>(static_cast<std::size_t>(O * I)),
                  std::vector<float>(static_cast<std::size_t>(N * O))};
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
    CHECK(product.find("bf16 " + std::to_string(product.find("+=") == std::string::npos ? O : I) + " ") !=
          std::string::npos);
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
  CHECK(message.find("bf16 " + std::to_string(I) + " " + std::to_string(O) + " " + std::to_string(N)) !=
        std::string::npos);
  CHECK(message.find("delete the record") != std::string::npos);
}

namespace {

/// GELU beside a product, and a product times GELU'(z), with its column sums.
struct GeluResults {
  std::vector<float> out, gelu, dz, dz_sums;
  bool operator==(const GeluResults&) const = default;
};

GeluResults multiply_with_gelu(const ChooseAlgorithm& choose) {
  const auto ops = make_cuda_ops({.device = 0, .compute = DType::bf16, .choose = choose});
  Random random(32);
  std::vector<Buffer> buffers;
  const auto take = [&](std::initializer_list<std::int64_t> extents, std::int64_t size, DType dtype) {
    buffers.push_back(ops->allocate(static_cast<std::size_t>(size) * size_of(dtype)));
    return Tensor(buffers.back().get(), dtype, extents);
  };
  const auto single = [&](std::initializer_list<std::int64_t> extents, std::int64_t size, double scale) {
    const Doubles values = random.normals(size, scale);
    const std::vector<float> floats(values.begin(), values.end());
    const Tensor tensor = take(extents, size, DType::f32);
    ops->copy_from_host(tensor, floats.data());
    return tensor;
  };
  const auto input = [&](std::int64_t rows, std::int64_t columns, double scale) {
    const Tensor narrow = take({rows, columns}, rows * columns, DType::bf16);
    ops->convert(narrow, single({rows, columns}, rows * columns, scale));
    return narrow;
  };
  const Tensor x = input(N, I, 1), weight = input(O, I, 0.03), z = input(N, O, 1), dout = input(N, I, 1),
               weight2 = input(I, O, 0.03);
  const Tensor out = take({N, O}, N * O, DType::bf16), gelu = take({N, O}, N * O, DType::bf16),
               dz = take({N, O}, N * O, DType::bf16);
  const Tensor dz_sums = single({O}, O, 1), wide = take({N, O}, N * O, DType::f32);
  ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}, .gelu = gelu});
  ops->linear_backward({.dout = dout, .x = {}, .weight = weight2, .dx = dz, .dweight = {}, .dbias = {}, .gelu_input = z,
                        .dx_sums = dz_sums});
  const auto read = [&](const Tensor& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    if (tensor.dtype != DType::f32) ops->convert(wide, tensor);
    ops->copy_to_host(values.data(), tensor.dtype == DType::f32 ? tensor : wide);
    return values;
  };
  return {read(out), read(gelu), read(dz), read(dz_sums)};
}

bool has_epilogue(const std::string& product) { return product.find(" gelu") != std::string::npos; }

struct Shape {
  std::int64_t N, I, O;
};

/// Products with activations by our own kernel, whatever was in their outputs.
void check_own_kernel(const std::vector<Shape>& shapes) {
  std::set<std::string> own;
  Backends both(DType::bf16, prefer_own_kernel(own));
  if (!is_hopper(both.gpu())) {
    WARN("only for GPUs of the Hopper generation, this is " << both.gpu().gpu_name());
    return;
  }
  Random random(33);
  for (const auto [n, i, o] : shapes) {
    for (const bool more : {false, true}) {  // with a bias, and its gradient
      INFO(n << " x " << i << " -> " << o << ", more " << more);
      const double scale = 1 / std::sqrt(static_cast<double>(i));
      const auto x = both.input({n, i}, random.normals(n * i)),
                 weight = both.input({o, i}, random.normals(o * i, scale));
      const auto bias = both.input({o}, random.normals(o)),
                 dout = both.input({n, o}, random.normals(n * o, 1 / std::sqrt(static_cast<double>(o))));
      const auto z = both.input({n, i}, random.normals(n * i, 2.0)),
                 gates = both.input({n, 2 * i}, random.normals(n * 2 * i));
      const auto out = both.output({n, o}), gated_out = both.output({n, o}), gelu = both.output({n, o}),
                 swiglu = both.output({n, o / 2});
      const auto dz = both.output({n, i}), work = both.output({n, i}), dgates = both.output({n, 2 * i});
      const Doubles eights(static_cast<std::size_t>(i), 8.0);  // cancel with nothing
      const auto sums = both.single({i}, eights), sums_again = both.single({i}, eights);
      const auto run = [&](Ops& ops, auto side, const BothFloats& sums_to) {
        ops.linear_forward({.out = side(out), .x = side(x), .weight = side(weight),
                            .bias = side(more ? &bias : nullptr), .gelu = side(gelu)});
        ops.linear_forward({.out = side(gated_out), .x = side(x), .weight = side(weight),
                            .bias = side(more ? &bias : nullptr), .swiglu = side(swiglu)});
        ops.linear_backward({.dout = side(dout), .x = {}, .weight = side(weight), .dx = side(dz), .dweight = {},
                             .dbias = {}, .gelu_input = side(z), .dx_sums = side(more ? &sums_to : nullptr)});
        ops.linear_backward({.dout = side(dout), .x = {}, .weight = side(weight), .dx = side(work), .dweight = {},
                             .dbias = {}, .swiglu_input = side(gates), .dswiglu_input = side(dgates)});
      };
      run(both.cpu(), kCpu, sums);
      run(both.gpu(), kGpu, sums);
      const auto results = {&out, &gelu, &gated_out, &swiglu, &dz, &dgates};
      for (const BothFloats* result : results) CHECK(both.difference(*result) < 4e-3);
      CHECK(both.difference(sums) < 4e-3);

      std::vector<Bytes> first;
      for (const BothFloats* result : results) {
        first.push_back(both.bytes(result->gpu));
        both.spoil(result->gpu);
      }
      run(both.gpu(), kGpu, sums_again);
      std::size_t at = 0;
      for (const BothFloats* result : results) CHECK(both.bytes(result->gpu) == first[at++]);
      CHECK(both.bytes(sums_again.gpu) == both.bytes(sums.gpu));
    }
  }
  CHECK(own.size() == shapes.size() * 7);  // each of four, with a bias or sums three of them anew
}

}  // namespace

// One tile and less, rows and columns that fill no tile, one stage of factors and many; several tiles for every
// warpgroup, of the forward kernels and, in the fifth to seventh, of the gradients, narrow and wide. Then wide
// gradients where a block of a cluster has no rows, and where the last stage is part of one, or whole.
TEST_CASE("products of our own kernel with activations agree with the CPU") {
  check_own_kernel(
      {{200, 200, 1040}, {1000, 1544, 528}, {3000, 136, 2064}, {16, 4104, 32}, {6400, 2064, 64}, {3200, 2064, 144},
       {6400, 2064, 2064}, {100, 136, 2096}, {257, 72, 2048}});
}
TEST_CASE("products of our own kernel with activations agree with the CPU at small shapes", "[sanitize][cluster]") {
  check_own_kernel({{1, 8, 16}, {128, 64, 256}, {129, 72, 272}, {130, 72, 2064}});
}

TEST_CASE("a record that names a library's algorithm for SwiGLU, which no library has in a product, is an error") {
  std::set<std::string> own;
  const ChooseAlgorithm prefer = prefer_own_kernel(own);
  std::string algorithm;  // of a product without an activation
  Backends both(DType::bf16, [&](const std::string& product, const std::function<std::string()>& time) {
    const std::string word = prefer(product, time);
    if (word.size() == 128) algorithm = word;
    return product.find(" swiglu") == std::string::npos ? word : algorithm;
  });
  if (!is_hopper(both.gpu())) {
    WARN("only for GPUs of the Hopper generation, this is " << both.gpu().gpu_name());
    return;
  }
  Random random(34);
  const auto x = both.input({64, 64}, random.normals(64 * 64)),
             weight = both.input({128, 64}, random.normals(128 * 64));
  const auto out = both.output({64, 128}), swiglu = both.output({64, 64});
  const std::string message = message_of<std::runtime_error>([&] {
    both.gpu().linear_forward({.out = out.gpu, .x = x.gpu, .weight = weight.gpu, .bias = {}, .swiglu = swiglu.gpu});
  });
  INFO(message);
  CHECK(algorithm.size() == 128);
  CHECK(message.find(" swiglu, own kernel") != std::string::npos);
  CHECK(message.find("delete the record") != std::string::npos);
}

TEST_CASE("GELU is in a product's epilogue or apart, whichever is on record or faster") {
  const GeluResults fused = multiply_with_gelu({});
  std::map<std::string, std::string> record;
  const auto choose = [&](const std::string& product, const std::function<std::string()>& time) {
    auto [known, added] = record.emplace(product, "");
    if (added) known->second = time();
    return record[product];
  };
  const auto check = [&](const GeluResults& results) {
    CHECK(difference(results.out, fused.out) < 4e-3);
    CHECK(difference(results.gelu, fused.gelu) < 5e-3);
    CHECK(difference(results.dz, fused.dz) < 5e-3);
    CHECK(difference(results.dz_sums, fused.dz_sums) < 4e-3);  // timing added nothing to them
  };
  const GeluResults timed = multiply_with_gelu(choose);
  check(timed);
  REQUIRE(record.size() == 4);  // each with its epilogue and without
  CHECK(multiply_with_gelu(choose) == timed);
  int epilogues = 0;
  for (auto& [product, word] : record) {
    INFO(product << ": " << word);
    CHECK((word.size() == 128 || (has_epilogue(product) && (word == "apart" || word == "own-kernel"))));
    epilogues += has_epilogue(product) ? 1 : 0;
    if (has_epilogue(product)) word = "apart";
  }
  CHECK(epilogues == 2);
  check(multiply_with_gelu(choose));
  // A product without an epilogue has nothing to be apart from.
  for (auto& [product, word] : record) word = "apart";
  CHECK_THROWS_AS(multiply_with_gelu(choose), std::runtime_error);
}
