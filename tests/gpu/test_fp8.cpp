// Linear maps with FP8 products on the GPU against the CPU, which rounds to the same numbers.
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct Shape {
  std::int64_t rows, inputs, outputs;
};

/// Scales of x, weight and dout, and places for their amax.
struct Scalings {
  Scalings(Backends& both, std::array<double, 3> scales) {
    for (const double scale : scales) {
      values.push_back(both.single({1}, {scale}));
      inverses.push_back(both.single({1}, {1 / scale}));
      amax.push_back(both.single({1}, {0}));
    }
  }
  template <class Side>
  Fp8Linear linear(const Side& side, bool measure = false) const {
    const auto scaling = [&](std::size_t i) {
      return Fp8Scaling{.scale = side(values[i]), .inverse = side(inverses[i]), .amax = side(amax[i])};
    };
    return {.x = scaling(0), .weight = scaling(1), .dout = scaling(2), .measure = measure};
  }
  std::vector<BothFloats> values, inverses, amax;
};

bool has_fp8(Backends& both) {
  if (!both.gpu().has_fp8()) WARN("not tested: this GPU has no FP8 products");
  return both.gpu().has_fp8();
}

void check_linear(const std::vector<Shape>& shapes) {
  Backends both(DType::bf16);
  if (!has_fp8(both)) return;
  Random random(95);
  for (const auto [n, i, o] : shapes)
    for (const bool more : {false, true}) {  // bias, GELU, gradients added to; each by itself otherwise
      INFO(n << " x " << i << " -> " << o << ", more " << more);
      const Scalings scalings(both, {0x1p6, 0x1p3, 0x1p14});
      const auto x = both.input({n, i}, random.normals(n * i)), weight = both.input({o, i}, random.normals(o * i, 4.0));
      const auto bias = both.input({o}, random.normals(o)), inner = both.input({n, i}, random.normals(n * i, 2.0));
      const auto dout = both.input({n, o}, random.normals(n * o, 0.5));
      const auto out = both.output({n, o}), gelu = both.output({n, o}), dx = both.output({n, i});
      const auto dweight = more ? both.single({o, i}, random.normals(o * i)) : both.single_output({o, i});
      const auto dbias = both.single({o}, random.normals(o)), sums = both.single({i}, random.normals(i));
      const auto run = [&](Ops& ops, auto side) {
        ops.linear_forward({.out = side(out), .x = side(x), .weight = side(weight),
                            .bias = side(more ? &bias : nullptr), .gelu = side(more ? &gelu : nullptr),
                            .fp8 = scalings.linear(side)});
        ops.linear_backward({.dout = side(dout), .x = side(x), .weight = side(weight), .dx = side(dx),
                             .dweight = side(dweight), .dbias = side(dbias),
                             .gelu_input = side(more ? &inner : nullptr), .dx_sums = side(more ? &sums : nullptr),
                             .replace = !more, .fp8 = scalings.linear(side)});
      };
      run(both.cpu(), kCpu);
      run(both.gpu(), kGpu);
      CHECK(both.difference(out) < 4e-3);
      if (more) CHECK(both.difference(gelu) < 6e-3);
      CHECK(both.difference(dx) < 6e-3);
      CHECK(both.difference(dweight) < 1e-3);
      CHECK(both.difference(dbias) < 1e-4);
      if (more) CHECK(both.difference(sums) < 6e-3);
      for (const BothFloats& amax : scalings.amax) CHECK(both.read(amax.gpu) == amax.cpu.doubles());

      const auto gates = both.input({n, 2 * i}, random.normals(n * 2 * i)), swiglu = both.output({n, o / 2}),
                 dgates = both.output({n, 2 * i});
      const auto run_gated = [&](Ops& ops, auto side) {
        ops.linear_forward({.out = side(out), .x = side(x), .weight = side(weight), .bias = {}, .swiglu = side(swiglu),
                            .fp8 = scalings.linear(side)});
        ops.linear_backward({.dout = side(dout), .x = {}, .weight = side(weight), .dx = side(dx), .dweight = {},
                             .dbias = {}, .swiglu_input = side(gates), .dswiglu_input = side(dgates),
                             .fp8 = scalings.linear(side)});
      };
      run_gated(both.cpu(), kCpu);
      run_gated(both.gpu(), kGpu);
      CHECK(both.difference(swiglu) < 6e-3);
      CHECK(both.difference(dgates) < 6e-3);
      run(both.gpu(), kGpu);

      // The same bits again; in other memory than the first time where only one gradient is asked for.
      const auto first_out = both.bytes(out.gpu), first_dx = both.bytes(dx.gpu);
      both.spoil(out.gpu);
      both.spoil(dx.gpu);
      if (!more) both.spoil(dweight.gpu);
      run(both.gpu(), kGpu);
      CHECK(both.bytes(out.gpu) == first_out);
      CHECK(both.bytes(dx.gpu) == first_dx);
      if (!more) CHECK(both.difference(dweight) < 1e-3);
    }
}

}  // namespace

TEST_CASE("linear layers with FP8 products on the GPU agree with the CPU") {
  check_linear({{16, 16, 16}, {1, 32, 48}, {17, 64, 80}, {100, 144, 112}, {1000, 768, 2304}, {2049, 512, 768}});
}
TEST_CASE("linear layers with FP8 products on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_linear({{1, 16, 32}, {16, 32, 16}, {130, 80, 48}});
}

TEST_CASE("each gradient by itself, and magnitudes alone, in FP8 on the GPU", "[sanitize]") {
  Backends both(DType::bf16);
  if (!has_fp8(both)) return;
  Random random(96);
  const std::int64_t n = 150, i = 48, o = 64;
  const Scalings scalings(both, {0x1p5, 0x1p2, 0x1p10});
  const auto x = both.input({n, i}, random.normals(n * i)), weight = both.input({o, i}, random.normals(o * i));
  const auto dout = both.input({n, o}, random.normals(n * o)), dx = both.input({n, i}, random.normals(n * i));
  const auto dweight = both.single({o, i}, random.normals(o * i)), out = both.output({n, o}),
             plain = both.output({n, o});
  const auto run = [&](Ops& ops, auto side) {
    ops.linear_backward({.dout = side(dout), .x = {}, .weight = side(weight), .dx = side(dx), .dweight = {},
                         .dbias = {}, .accumulate = true, .fp8 = scalings.linear(side)});
    ops.linear_backward({.dout = side(dout), .x = side(x), .weight = {}, .dx = {}, .dweight = side(dweight),
                         .dbias = {},
                         .fp8 = scalings.linear(side)});
  };
  run(both.cpu(), kCpu);
  run(both.gpu(), kGpu);
  CHECK(both.difference(dx) < 6e-3);
  CHECK(both.difference(dweight) < 1e-3);
  const Scalings measured(both, {std::nan(""), std::nan(""), std::nan("")});
  both.gpu().linear_forward(
      {.out = out.gpu, .x = x.gpu, .weight = weight.gpu, .bias = {}, .fp8 = measured.linear(kGpu, true)});
  both.gpu().linear_forward({.out = plain.gpu, .x = x.gpu, .weight = weight.gpu, .bias = {}});
  CHECK(both.bytes(out.gpu) == both.bytes(plain.gpu));
  both.gpu().linear_backward({.dout = dout.gpu, .x = x.gpu, .weight = weight.gpu, .dx = dx.gpu, .dweight = dweight.gpu,
                              .dbias = {},
                              .fp8 = measured.linear(kGpu, true)});
  both.cpu().linear_forward({.out = out.cpu.view(), .x = x.cpu.view(), .weight = weight.cpu.view(), .bias = {},
                             .fp8 = measured.linear(kCpu, true)});
  both.cpu().linear_backward({.dout = dout.cpu.view(), .x = x.cpu.view(), .weight = weight.cpu.view(),
                              .dx = dx.cpu.view(), .dweight = dweight.cpu.view(), .dbias = {},
                              .fp8 = measured.linear(kCpu, true)});
  for (const BothFloats& amax : measured.amax) CHECK(both.read(amax.gpu) == amax.cpu.doubles());
}

TEST_CASE("what is not finite in an FP8 operand shows on the GPU", "[sanitize]") {
  const auto bad =
      GENERATE(std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), std::nan(""));
  Backends both(DType::bf16);
  if (!has_fp8(both)) return;
  const Scalings scalings(both, {1, 1, 1});
  Doubles values(32 * 16, 0.5), unit(16 * 16);
  values[37] = bad;
  for (std::size_t at = 0; at < 16; ++at) unit[17 * at] = 1;
  const auto x = both.input({32, 16}, values), weight = both.input({16, 16}, unit), out = both.output({32, 16}),
             dx = both.output({32, 16});
  both.gpu().linear_forward(
      {.out = out.gpu, .x = x.gpu, .weight = weight.gpu, .bias = {}, .fp8 = scalings.linear(kGpu)});
  both.gpu().linear_backward({.dout = x.gpu, .x = {}, .weight = weight.gpu, .dx = dx.gpu, .dweight = {}, .dbias = {},
                              .fp8 = scalings.linear(kGpu)});
  for (const Tensor& result : {out.gpu, dx.gpu}) {
    const Doubles read = both.read(result);
    for (std::size_t at = 0; at < read.size(); ++at) CHECK(std::isnan(read[at]) == (at / 16 == 2));
  }
  for (const std::size_t operand : {0, 2}) CHECK(!std::isfinite(both.read(scalings.amax[operand].gpu)[0]));
}

TEST_CASE("a backend of fp32 on the GPU refuses FP8 products") {
  Backends both(DType::f32);
  CHECK_FALSE(both.gpu().has_fp8());
  const Scalings scalings(both, {1, 1, 1});
  const auto x = both.input({16, 16}, Doubles(256)), out = both.output({16, 16});
  CHECK(message_of<std::invalid_argument>([&] {
          both.gpu().linear_forward(
              {.out = out.gpu, .x = x.gpu, .weight = x.gpu, .bias = {}, .fp8 = scalings.linear(kGpu)});
        }) == "linear_forward: fp8 is given to a backend of f32, expected one of bf16");
}
