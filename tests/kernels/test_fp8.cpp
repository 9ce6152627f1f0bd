// Linear maps with FP8 products on the CPU, against numbers enumerated by their definition.
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "tests/catch.h"
#include "tests/kernels/fp8_formats.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// Scales of x, weight and dout, and places for their amax.
struct Scalings {
  explicit Scalings(std::array<double, 3> scales) {
    for (std::size_t i = 0; i < 3; ++i) {
      values[i].set({scales[i]});
      inverses[i].set({1 / scales[i]});
      amax[i].fill(0);
    }
  }
  Fp8Linear linear(bool measure = false) const {
    const auto scaling = [&](std::size_t i) {
      return Fp8Scaling{.scale = values[i], .inverse = inverses[i], .amax = amax[i]};
    };
    return {.x = scaling(0), .weight = scaling(1), .dout = scaling(2), .measure = measure};
  }
  std::array<Floats, 3> values = {Floats({1}), Floats({1}), Floats({1})},
                        inverses = {Floats({1}), Floats({1}), Floats({1})};
  std::array<Floats, 3> amax = {Floats({1}), Floats({1}), Floats({1})};
};

Doubles identity(std::int64_t n) {
  Doubles out(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i) out[static_cast<std::size_t>(i * n + i)] = 1;
  return out;
}

/// Every number of a format, every middle of two and its neighbours in f32, numbers beyond the ends, and random ones
/// between.
Doubles edges(const Doubles& magnitudes, Random& random) {
  Doubles out;
  const auto add = [&](double x) {
    for (const double sign : {1.0, -1.0}) out.push_back(static_cast<double>(static_cast<float>(sign * x)));
  };
  for (std::size_t i = 0; i < magnitudes.size(); ++i) {
    add(magnitudes[i]);
    const double next = i + 1 < magnitudes.size() ? magnitudes[i + 1] : 2 * magnitudes[i] - magnitudes[i - 1];
    const auto middle = static_cast<float>((magnitudes[i] + next) / 2);
    for (const float x : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)}) add(x);
  }
  for (const double x : {1e6, 1e30, 1e-9, 1e-42}) add(x);
  while (out.size() % 16 != 0 || out.size() < 2048)
    out.push_back(std::ldexp(random.normal(), static_cast<int>(random.below(40)) - 20));
  for (double& x : out) x = static_cast<double>(static_cast<float>(x));
  return out;
}

void check_equal(const Doubles& found, const Doubles& expected, const Doubles& of) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    INFO(of[i]);
    CHECK(found[i] == expected[i]);
  }
}

}  // namespace

TEST_CASE("operands of FP8 products are the nearest numbers of their format, ties to even, saturated") {
  const auto ops = make_cpu_ops(2);
  Random random(91);
  const Doubles unit = identity(16);
  for (const double scale : {1.0, 0x1p-7, 0x1p12}) {
    INFO("scale " << scale);
    Scalings scalings({scale, 1, scale});
    Doubles x = edges(e4m3(), random), dout = edges(e5m2(), random);
    for (Doubles* values : {&x, &dout})
      for (double& value : *values) value = static_cast<double>(static_cast<float>(value / scale));
    const auto rows = std::ssize(x) / 16, out_rows = std::ssize(dout) / 16;
    const Floats weight({16, 16}, unit), x_single({rows, 16}, x), dout_single({out_rows, 16}, dout);
    Floats out({rows, 16}), dx({out_rows, 16});
    ops->linear_forward({.out = out, .x = x_single, .weight = weight, .bias = {}, .fp8 = scalings.linear()});
    check_equal(out.doubles(), rounded(e4m3(), x, scale), x);
    ops->linear_backward({.dout = dout_single, .x = {}, .weight = weight, .dx = dx, .dweight = {}, .dbias = {},
                          .fp8 = scalings.linear()});
    check_equal(dx.doubles(), rounded(e5m2(), dout, scale), dout);
    CHECK(scalings.amax[0].doubles() == Doubles{largest_magnitude(x)});
    CHECK(scalings.amax[1].doubles() == Doubles{1});
    CHECK(scalings.amax[2].doubles() == Doubles{largest_magnitude(dout)});
  }
}

TEST_CASE("a linear map with FP8 products is that of its rounded operands") {
  Random random(92);
  for (const int threads : {1, 2})
    for (const auto [n, i, o] : {std::array<std::int64_t, 3>{1, 16, 16}, {3, 48, 16}, {65, 32, 144}, {200, 64, 48}}) {
      INFO(n << " x " << i << " -> " << o << ", " << threads << " threads");
      const auto ops = make_cpu_ops(threads);
      const std::array<double, 3> scales = {0x1p6, 0x1p3, 0x1p14};
      Scalings scalings(scales);
      const Doubles x = random.normals(n * i), weight = random.normals(o * i, 4.0), bias = random.normals(o),
                    dout = random.normals(n * o, 0.5);
      const Doubles x8 = rounded(e4m3(), x, scales[0]), weight8 = rounded(e4m3(), weight, scales[1]),
                    dout8 = rounded(e5m2(), dout, scales[2]);
      const Floats x_single({n, i}, x), weight_single({o, i}, weight), bias_single({o}, bias),
          dout_single({n, o}, dout);
      Floats out({n, o}), gelu({n, o});
      ops->linear_forward({.out = out, .x = x_single, .weight = weight_single, .bias = bias_single, .gelu = gelu,
                           .fp8 = scalings.linear()});
      const Doubles z = linear_forward(x8, weight8, bias, i, o);
      CHECK(relative_error(out, z) < kSingle);
      CHECK(relative_error(gelu, gelu_forward(GeluKind::tanh, z)) < 2 * kSingle);
      CHECK(relative_error(out, linear_forward(x, weight, bias, i, o)) > 5e-3);  // they were rounded
      CHECK(relative_error(out, linear_forward(x, weight, bias, i, o)) < 6e-2);

      const LinearGradients gradients = linear_backward(x8, weight8, dout8, i, o);
      const Doubles dweight0 = random.normals(o * i), dbias0 = random.normals(o), dx0 = random.normals(n * i);
      Floats dx({n, i}), dweight({o, i}, dweight0), dbias({o}, dbias0);
      LinearBackward args{.dout = dout_single, .x = x_single, .weight = weight_single, .dx = dx, .dweight = dweight,
                          .dbias = dbias,
                          .fp8 = scalings.linear()};
      ops->linear_backward(args);
      CHECK(relative_error(dx, gradients.dx) < kSingle);
      CHECK(relative_error(dweight, plus(dweight0, gradients.dweight)) < kSingle);
      // The sums are of dout as it is.
      CHECK(relative_error(dbias, plus(dbias0, linear_backward(x, weight, dout, i, o).dbias)) < kSingle);

      dx.set(dx0);
      dweight.spoil();
      args.dbias = {};
      args.accumulate = args.replace = true;
      ops->linear_backward(args);
      CHECK(relative_error(dx, plus(dx0, gradients.dx)) < kSingle);
      CHECK(relative_error(dweight, gradients.dweight) < kSingle);

      const Doubles inner = random.normals(n * i, 2.0), sums0 = random.normals(i);
      const Floats inner_single({n, i}, inner);
      Floats dz({n, i}), sums({i}, sums0);
      args = {.dout = dout_single, .x = {}, .weight = weight_single, .dx = dz, .dweight = {}, .dbias = {},
              .gelu_input = inner_single, .dx_sums = sums, .fp8 = scalings.linear()};
      ops->linear_backward(args);
      const Doubles dz_reference = gelu_backward(GeluKind::tanh, inner, gradients.dx);
      CHECK(relative_error(dz, dz_reference) < 2 * kSingle);
      Doubles sums_reference = sums0;
      for (std::size_t at = 0; at < dz_reference.size(); ++at)
        sums_reference[at % static_cast<std::size_t>(i)] += dz_reference[at];
      CHECK(relative_error(sums, sums_reference) < 2 * kSingle);

      Floats swiglu({n, o / 2}), dgates({n, 2 * i});
      ops->linear_forward({.out = out, .x = x_single, .weight = weight_single, .bias = bias_single, .swiglu = swiglu,
                           .fp8 = scalings.linear()});
      CHECK(relative_error(swiglu, swiglu_forward(z, o / 2)) < 2 * kSingle);
      const Doubles gates = random.normals(n * 2 * i);
      const Floats gates_single({n, 2 * i}, gates);
      ops->linear_backward({.dout = dout_single, .x = {}, .weight = weight_single, .dx = dx, .dweight = {}, .dbias = {},
                            .swiglu_input = gates_single, .dswiglu_input = dgates, .fp8 = scalings.linear()});
      CHECK(relative_error(dgates, swiglu_backward(gates, gradients.dx, i)) < 2 * kSingle);
    }
}

TEST_CASE("where magnitudes alone are taken a linear map is as without, and they only rise") {
  const auto ops = make_cpu_ops(2);
  Random random(93);
  const std::int64_t n = 40, i = 32, o = 16;
  Scalings scalings({std::nan(""), std::nan(""), std::nan("")});  // not read
  const Floats x({n, i}, random.normals(n * i)), weight({o, i}, random.normals(o * i)),
      dout({n, o}, random.normals(n * o));
  Floats out({n, o}), plain({n, o}), dx({n, i}), plain_dx({n, i}), dweight({o, i}), plain_dweight({o, i});
  ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}, .fp8 = scalings.linear(true)});
  ops->linear_forward({.out = plain, .x = x, .weight = weight, .bias = {}});
  CHECK(out.same_bits(plain));
  ops->linear_backward({.dout = dout, .x = x, .weight = weight, .dx = dx, .dweight = dweight, .dbias = {},
                        .replace = true, .fp8 = scalings.linear(true)});
  ops->linear_backward(
      {.dout = dout, .x = x, .weight = weight, .dx = plain_dx, .dweight = plain_dweight, .dbias = {}, .replace = true});
  CHECK(dx.same_bits(plain_dx));
  CHECK(dweight.same_bits(plain_dweight));
  CHECK(scalings.amax[0].doubles() == Doubles{largest_magnitude(x.doubles())});
  CHECK(scalings.amax[1].doubles() == Doubles{largest_magnitude(weight.doubles())});
  CHECK(scalings.amax[2].doubles() == Doubles{largest_magnitude(dout.doubles())});
  scalings.amax[0].fill(100);
  ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}, .fp8 = scalings.linear(true)});
  CHECK(scalings.amax[0].doubles() == Doubles{100});
}

TEST_CASE("what is not finite in an FP8 operand shows in the product and in its magnitude") {
  const auto bad =
      GENERATE(std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), std::nan(""));
  const auto ops = make_cpu_ops(1);
  Scalings scalings({1, 1, 1});
  Doubles values(16 * 16, 0.5);
  values[37] = bad;
  const Floats x({16, 16}, values), weight({16, 16}, identity(16));
  Floats out({16, 16});
  ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}, .fp8 = scalings.linear()});
  for (std::int64_t i = 0; i < 256; ++i) CHECK(std::isnan(out[i]) == (i / 16 == 2));
  CHECK((std::isnan(bad) ? std::isnan(scalings.amax[0][0]) : std::isinf(scalings.amax[0][0])));
}

TEST_CASE("extents and scalings that FP8 products cannot have are refused by name") {
  const auto ops = make_cpu_ops(1);
  Scalings scalings({1, 1, 1});
  const Floats x({4, 24}, Doubles(96)), weight({16, 24}, Doubles(384)), even({4, 16}, Doubles(64)),
      square({16, 16}, Doubles(256));
  Floats out({4, 16}), bias({2});
  LinearForward args{.out = out, .x = x, .weight = weight, .bias = {}, .fp8 = scalings.linear()};
  CHECK(message_of<std::invalid_argument>([&] { ops->linear_forward(args); }) ==
        "linear_forward: fp8 is of 24 inputs and 16 outputs, expected multiples of 16");
  args = {.out = out, .x = even, .weight = square, .bias = {}, .fp8 = scalings.linear()};
  args.fp8.dout.amax = {};
  CHECK(message_of<std::invalid_argument>([&] { ops->linear_forward(args); }).starts_with("linear_forward: fp8.dout"));
  args.fp8.dout.amax = bias;
  CHECK(message_of<std::invalid_argument>([&] {
          ops->linear_forward(args);
        }).starts_with("linear_forward: fp8.dout is (2) f32"));
}
