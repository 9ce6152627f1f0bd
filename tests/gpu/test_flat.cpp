// Matrix products, the optimizer's operations over flat arrays, statistics, copies. Cases tagged [sanitize]
// take every kernel through small shapes, for compute-sanitizer.
#include <cmath>
#include <limits>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct Shape {
  std::int64_t N, I, O;
};

void check_linear(const std::vector<Shape>& shapes) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(21);
    for (const Shape s : shapes)
      for (const bool bias : {false, true})
        for (const bool accumulate : {false, true}) {
          const bool replace = bias == accumulate;  // of the weight's gradient
          INFO(both.name() << " " << s.N << " x " << s.I << " x " << s.O << ", bias " << bias << ", accumulate "
                           << accumulate);
          const auto x = both.input({s.N, s.I}, random.normals(s.N * s.I)),
                     dout = both.input({s.N, s.O}, random.normals(s.N * s.O));
          const auto weight = both.input({s.O, s.I}, random.normals(s.O * s.I)),
                     b = both.input({s.O}, random.normals(s.O));
          const auto out = both.output({s.N, s.O});
          const auto dx = accumulate ? both.input({s.N, s.I}, random.normals(s.N * s.I)) : both.output({s.N, s.I});
          const auto dweight =
                         replace ? both.single_output({s.O, s.I}) : both.single({s.O, s.I}, random.normals(s.O * s.I)),
                     dbias = both.single({s.O}, random.normals(s.O));
          const auto run = [&](Ops& ops, auto side) {
            ops.linear_forward(
                {.out = side(out), .x = side(x), .weight = side(weight), .bias = side(bias ? &b : nullptr)});
            ops.linear_backward({.dout = side(dout), .x = side(x), .weight = side(weight), .dx = side(dx),
                                 .dweight = side(dweight), .dbias = side(bias ? &dbias : nullptr),
                                 .accumulate = accumulate,
                                 .replace = replace});
          };
          run(both.cpu(), kCpu);
          run(both.gpu(), kGpu);
          CHECK(both.difference(out) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(dx) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(dweight) < 1e-5);
          CHECK(both.difference(dbias) < 1e-5);
        }
  }
}

/// x -> z -> GELU(z), and from the gradient of an output made of x = GELU(z) to that of z.
void check_gelu_products(const std::vector<Shape>& shapes) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(22);
    for (const Shape s : shapes)
      for (const GeluKind kind : {GeluKind::tanh, GeluKind::erf})
        for (const bool bias : {false, true}) {
          INFO(both.name() << " " << s.N << " x " << s.I << " x " << s.O << ", erf " << (kind == GeluKind::erf)
                           << ", bias " << bias);
          const double scale = 1 / std::sqrt(static_cast<double>(s.I));  // far below zero GELU magnifies rounding
          const auto x = both.input({s.N, s.I}, random.normals(s.N * s.I)),
                     weight = both.input({s.O, s.I}, random.normals(s.O * s.I, scale));
          const auto b = both.input({s.O}, random.normals(s.O)),
                     dout = both.input({s.N, s.O}, random.normals(s.N * s.O));
          const auto out = both.output({s.N, s.O}), gelu = both.output({s.N, s.O}), dz = both.output({s.N, s.I});
          const auto z = both.input({s.N, s.I}, random.normals(s.N * s.I, 2.0));
          const auto dweight = both.single({s.O, s.I}, random.normals(s.O * s.I)),
                     dbias = both.single({s.O}, random.normals(s.O));
          const auto dz_sums = both.single({s.I}, Doubles(static_cast<std::size_t>(s.I), 8.0));  // cancels with nothing
          const auto run = [&](Ops& ops, auto side) {
            ops.linear_forward({.out = side(out), .x = side(x), .weight = side(weight),
                                .bias = side(bias ? &b : nullptr), .gelu = side(gelu), .gelu_kind = kind});
            ops.linear_backward({.dout = side(dout), .x = side(x), .weight = side(weight), .dx = side(dz),
                                 .dweight = side(dweight), .dbias = side(bias ? &dbias : nullptr),
                                 .gelu_input = side(z), .gelu_kind = kind,
                                 .dx_sums = side(bias ? &dz_sums : nullptr)});
          };
          run(both.cpu(), kCpu);
          run(both.gpu(), kGpu);
          CHECK(both.difference(out) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(gelu) < both.bound(1e-5, 5e-3));
          CHECK(both.difference(dz) < both.bound(1e-5, 5e-3));
          CHECK(both.difference(dz_sums) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(dweight) < 1e-5);
          CHECK(both.difference(dbias) < 1e-5);
        }
  }
}

/// x -> gate and up -> SwiGLU, and from the gradient of an output made of x = SwiGLU to that of gate and up.
void check_swiglu_products(const std::vector<Shape>& shapes) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(27);
    for (const Shape s : shapes) {
      INFO(both.name() << " " << s.N << " x " << s.I << " x " << s.O);
      const auto x = both.input({s.N, s.I}, random.normals(s.N * s.I)),
                 weight = both.input({s.O, s.I}, random.normals(s.O * s.I, 0.2));
      const auto b = both.input({s.O}, random.normals(s.O)), dout = both.input({s.N, s.O}, random.normals(s.N * s.O));
      const auto out = both.output({s.N, s.O}), swiglu = both.output({s.N, s.O / 2}), work = both.output({s.N, s.I});
      const auto gates = both.input({s.N, 2 * s.I}, random.normals(s.N * 2 * s.I)),
                 dgates = both.output({s.N, 2 * s.I});
      const auto dweight = both.single({s.O, s.I}, random.normals(s.O * s.I));
      const auto run = [&](Ops& ops, auto side) {
        ops.linear_forward(
            {.out = side(out), .x = side(x), .weight = side(weight), .bias = side(b), .swiglu = side(swiglu)});
        ops.linear_backward({.dout = side(dout), .x = side(x), .weight = side(weight), .dx = side(work),
                             .dweight = side(dweight), .dbias = {}, .swiglu_input = side(gates),
                             .dswiglu_input = side(dgates)});
      };
      run(both.cpu(), kCpu);
      run(both.gpu(), kGpu);
      CHECK(both.difference(out) < both.bound(1e-5, 4e-3));
      CHECK(both.difference(swiglu) < both.bound(1e-5, 6e-3));
      CHECK(both.difference(dgates) < both.bound(1e-5, 6e-3));
      CHECK(both.difference(dweight) < 1e-5);
    }
  }
}

}  // namespace

TEST_CASE("SwiGLU beside products on the GPU agrees with the CPU", "[sanitize]") {
  check_swiglu_products({{1, 1, 2}, {3, 5, 6}, {16, 24, 40}, {20, 33, 66}, {100, 16, 304}});
}

TEST_CASE("GELU beside products on the GPU agrees with the CPU") {
  check_gelu_products({{1, 1, 1}, {3, 5, 7}, {64, 128, 192}, {100, 129, 65}, {1100, 64, 264}, {77, 768, 3072}});
}
TEST_CASE("GELU beside products on the GPU agrees with the CPU at small shapes", "[sanitize]") {
  check_gelu_products({{1, 1, 1}, {3, 5, 7}, {16, 24, 40}, {20, 33, 65}, {20, 16, 304}});
}

TEST_CASE("linear layers on the GPU agree with the CPU") {
  check_linear({{1, 1, 1}, {3, 5, 7}, {64, 128, 192}, {100, 129, 65}, {1100, 64, 257}, {77, 768, 2304}});
}
TEST_CASE("linear layers on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_linear({{1, 1, 1}, {3, 5, 7}, {16, 24, 40}, {20, 33, 65}, {20, 16, 300}, {530, 8, 9}});
}

TEST_CASE("gradient norms, clipping and AdamW on the GPU agree with the CPU", "[sanitize]") {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(22);
    constexpr std::int64_t kSize = 100000;
    const std::vector<Segment> segments = {
        {0, 1, true}, {1, 16384, false}, {16385, 60001, true}, {76386, 0, true}, {76400, 23600, false}};
    const auto param = both.single({kSize}, random.normals(kSize)),
               grad = both.single({kSize}, random.normals(kSize, 0.1));
    const auto m = both.single({kSize}, random.normals(kSize, 0.01));
    Doubles squares = random.normals(kSize, 0.01);
    for (double& s : squares) s = s * s;
    const auto v = both.single({kSize}, squares);
    const auto sums = both.double_output({5});
    const auto clip = both.single_output({2});
    const auto rounded = both.output({kSize});
    for (const double max_norm : {0.0, 1.0, 1e6})
      for (const std::int64_t step : {1, 100}) {
        INFO(both.name() << " max_norm " << max_norm << ", step " << step);
        const auto run = [&](Ops& ops, auto side) {
          ops.sum_of_squares({.x = side(grad), .segments = segments, .sums = side(sums)});
          ops.clip_scale({.sums = side(sums), .max_norm = max_norm, .out = side(clip)});
          ops.adamw_step({.param = side(param), .grad = side(grad),
                          .compute = ops.compute_dtype() == DType::bf16 ? side(rounded) : Tensor{}, .m = side(m),
                          .v = side(v), .segments = segments, .clip = side(clip), .lr = 1e-2, .weight_decay = 0.1,
                          .step = step});
        };
        run(both.cpu(), kCpu);
        run(both.gpu(), kGpu);
        CHECK(both.difference(sums) < 1e-12);
        CHECK(both.difference(clip) < 1e-6);
        CHECK(both.difference(param) < 1e-6);
        CHECK(both.difference(m) < 1e-6);
        CHECK(both.difference(v) < 1e-6);
        if (real == DType::bf16) {
          // What is computed with is the master weight rounded, segment by segment; gaps stay as they are.
          const Doubles master = both.read(param.gpu), half = both.read(rounded.gpu);
          bool equal = true;
          for (const Segment& segment : segments)
            for (std::int64_t i = segment.begin; i < segment.begin + segment.size; ++i) {
              const auto at = static_cast<std::size_t>(i);
              equal = equal && static_cast<double>(round_to_bf16(static_cast<float>(master[at]))) == half[at];
            }
          CHECK(equal);
        }
      }
    // A gradient that is not finite changes nothing.
    Doubles broken(kSize, 0.5);
    broken[70000] = std::numeric_limits<double>::infinity();
    const auto infinite = both.single({kSize}, broken);
    const Bytes before = both.bytes(param.gpu);
    both.gpu().sum_of_squares({.x = infinite.gpu, .segments = segments, .sums = sums.gpu});
    both.gpu().clip_scale({.sums = sums.gpu, .max_norm = 1, .out = clip.gpu});
    both.gpu().adamw_step({.param = param.gpu, .grad = infinite.gpu,
                           .compute = real == DType::bf16 ? rounded.gpu : Tensor{}, .m = m.gpu, .v = v.gpu,
                           .segments = segments, .clip = clip.gpu, .lr = 1e-2, .step = 1});
    CHECK(std::isnan(both.read(clip.gpu)[1]));
    CHECK(both.bytes(param.gpu) == before);
  }
}

TEST_CASE("row norms, directions and magnitudes on the GPU agree with the CPU", "[sanitize]") {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(23);
    struct Extents {
      std::int64_t B, T, M, C;
    };
    for (const auto [B, T, M, C] :
         {Extents{1, 1, 1, 1}, {1, 5, 3, 7}, {67, 2, 1, 768}, {3, 11, 5, 64}, {2, 9, 2, 1001}}) {
      INFO(both.name() << " B " << B << ", T " << T << ", M " << M << ", C " << C);
      const std::int64_t rows = B * T, first = M / 3, selected = M - M / 2, W = M * C, zero = B / 2;
      Doubles values = random.normals(rows * W);
      const std::int64_t t = T / 2;
      // One sequence has no direction, unless it is the only one.
      for (std::int64_t c = 0; B > 1 && c < W; ++c) values[static_cast<std::size_t>((zero * T + t) * W + c)] = 0;
      const auto x = both.input({rows, M, C}, values);
      const auto l2 = both.single_output({selected, rows});
      const auto sum = both.double_output({W}), count = both.double_output({1}), found = both.double_output({4});
      const auto run = [&](Ops& ops, auto side) {
        ops.row_l2({.x = side(x), .first = static_cast<int>(first), .out = side(l2)});
        for (const Tensor& total : {side(sum), side(count)}) ops.zero(total);
        for (int part = 0; part < 2; ++part)
          ops.direction_sums({.x = side(x).view({B, T, W}), .position = t, .sum = side(sum), .count = side(count)});
        ops.abs_statistics({.x = side(x).view({rows, W}), .out = side(found)});
      };
      run(both.cpu(), kCpu);
      run(both.gpu(), kGpu);
      CHECK(both.difference(l2) < 1e-6);
      CHECK(both.difference(sum) < 1e-13);
      CHECK(both.read(count.gpu) == Doubles{2.0 * static_cast<double>(B > 1 ? B - 1 : 1)});
      CHECK(both.read(found.gpu) == found.cpu.doubles());
      const auto bits = both.bytes(sum.gpu), found_bits = both.bytes(found.gpu), l2_bits = both.bytes(l2.gpu);
      for (const Tensor& tensor : {sum.gpu, found.gpu, l2.gpu}) both.spoil(tensor);
      run(both.gpu(), kGpu);
      CHECK(both.bytes(sum.gpu) == bits);
      CHECK(both.bytes(found.gpu) == found_bits);
      CHECK(both.bytes(l2.gpu) == l2_bits);
    }
  }
}

namespace {

struct Matrix {
  std::int64_t rows, columns;
};

/// Maximum, its place and the median of magnitudes that tie, spread far or are not numbers: exact.
void check_magnitudes(const Matrix& shape) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(26);
    INFO(both.name() << " " << shape.rows << " x " << shape.columns);
    const std::int64_t size = shape.rows * shape.columns;
    const auto check = [&](const Doubles& values) {
      const auto x = both.input({shape.rows, shape.columns}, values);
      const auto found = both.double_output({4});
      both.cpu().abs_statistics({.x = x.cpu, .out = found.cpu});
      both.gpu().abs_statistics({.x = x.gpu, .out = found.gpu});
      const Doubles a = both.read(found.gpu), b = found.cpu.doubles();
      CHECK(a[1] == b[1]);
      CHECK(a[2] == b[2]);
      for (const std::size_t i : {0, 3}) CHECK((a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))));
      return a;
    };
    Doubles values(static_cast<std::size_t>(size), -2.5);
    CHECK(check(values) == Doubles{2.5, 0, 0, 2.5});
    values.back() = -std::numeric_limits<double>::infinity();
    CHECK(check(values)[0] == std::numeric_limits<double>::infinity());
    check(Doubles(values.size(), 0.0));
    values = random.normals(size);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::ldexp(values[i], static_cast<int>(i % 200) - 100);
    check(values);
    values[1] = std::nan("");
    CHECK(std::isnan(check(values)[0]));
  }
}

}  // namespace

TEST_CASE("maximum and median of magnitudes on the GPU are exact at small shapes", "[sanitize]") {
  for (const Matrix& shape : {Matrix{1, 3}, {41, 101}, {16, 64}}) check_magnitudes(shape);
}
TEST_CASE("maximum and median of magnitudes on the GPU are exact") {
  // More than all blocks read at once on a GPU of up to 200 processors, in vectors and not.
  for (const Matrix& shape : {Matrix{1650, 1024}, {1651, 1025}}) check_magnitudes(shape);
}

TEST_CASE("probes of a step are summed over sequences on the GPU as on the CPU", "[sanitize]") {
  Backends both(DType::bf16);
  Random random(25);
  struct Extents {
    std::int64_t L, B, H, K, T;
  };
  for (const auto [L, B, H, K, T] : {Extents{1, 1, 1, 1, 2}, {2, 3, 1, 4, 4}, {5, 4, 3, 8, 33}, {4, 9, 16, 140, 300}}) {
    INFO("L " << L << ", B " << B << ", H " << H << ", K " << K << ", T " << T);
    const auto sink = both.single({L, B, H, K}, random.uniforms(L * B * H * K));
    const auto norms = both.single({L + 1, B, T}, random.uniforms((L + 1) * B * T));
    const auto scores = both.double_output({L, H, K}), above = both.double_output({L, H, K});
    const auto first = both.double_output({L + 1, K}), rest = both.double_output({L + 1}),
               ratio = both.double_output({L + 1});
    const auto over = both.single(
        {L + 1, B, T}, plus(random.uniforms((L + 1) * B * T), Doubles(static_cast<std::size_t>((L + 1) * B * T), 0.5)));
    const auto run = [&](Ops& ops, auto side, bool whole) {
      for (const Tensor& sums : {side(scores), side(above), side(first), side(rest), side(ratio)}) ops.zero(sums);
      for (int batch = 0; batch < 2; ++batch) {
        ops.sink_sums(
            {.sink = side(sink), .threshold = 0.3F, .scores = side(scores), .above = whole ? side(above) : Tensor{}});
        ops.norm_sums({.norms = side(norms), .over = whole ? Tensor{} : side(over), .first = side(first),
                       .rest = side(rest),
                       .ratio = side(ratio)});
      }
    };
    for (const bool whole : {true, false}) {  // without what is optional
      run(both.cpu(), kCpu, whole);
      run(both.gpu(), kGpu, whole);
      CHECK(both.difference(scores) < 1e-14);
      CHECK(both.read(above.gpu) == above.cpu.doubles());
      CHECK(both.difference(first) < 1e-14);
      CHECK(both.difference(ratio) < 1e-14);
      if (K < T) CHECK(both.difference(rest) < 1e-14);
      if (K == T)
        for (const double value : both.read(rest.gpu)) CHECK(std::isnan(value));
      const auto bits = both.bytes(scores.gpu), first_bits = both.bytes(first.gpu), ratio_bits = both.bytes(ratio.gpu);
      run(both.gpu(), kGpu, whole);
      CHECK(both.bytes(scores.gpu) == bits);
      CHECK(both.bytes(first.gpu) == first_bits);
      CHECK(both.bytes(ratio.gpu) == ratio_bits);
    }
  }
}

TEST_CASE("copies and conversions on the GPU keep or round every element", "[sanitize]") {
  Backends both(DType::bf16);
  Random random(24);
  const auto x = both.single({1001}, random.normals(1001));
  const Tensor half = both.device_array({1001}, DType::bf16), back = both.device_array({1001}, DType::f32);
  both.gpu().convert(half, x.gpu);
  both.gpu().convert(back, half);
  Doubles rounded = x.cpu.doubles();
  for (double& value : rounded) value = static_cast<double>(round_to_bf16(static_cast<float>(value)));
  CHECK(both.read(half) == rounded);
  CHECK(both.read(back) == rounded);
  both.gpu().copy(back, x.gpu);
  CHECK(both.read(back) == x.cpu.doubles());
  both.gpu().zero(back);
  CHECK(both.read(back) == Doubles(1001, 0.0));
}

TEST_CASE("many arrays on the GPU become zeros, and nothing between them", "[sanitize]") {
  Backends both(DType::bf16);
  // More than a launch takes, one longer than a launch takes, and none.
  std::vector<std::int64_t> sizes = {0, 1, 3, 2048, 2049, (1 << 20) + 5};
  for (std::int64_t i = 0; i < 300; ++i) sizes.push_back(i % 7 * 11 + 1);
  std::int64_t all = 0;
  for (const std::int64_t size : sizes) all += size + 1;
  const Doubles ones(static_cast<std::size_t>(all), 1.0);
  const auto found = both.single({all}, ones);
  std::vector<Tensor> arrays;
  Doubles expected = ones;
  std::int64_t at = 0;
  for (const std::int64_t size : sizes) {
    arrays.push_back(found.gpu.rows(at, size));
    std::fill_n(expected.begin() + at, size, 0.0);
    at += size + 1;
  }
  both.gpu().zero_each(arrays);
  CHECK((both.read(found.gpu) == expected));
  both.gpu().zero_each({});
  CHECK_THROWS_WITH(both.gpu().zero_each(std::vector{both.device_array({3}, DType::bf16)}),
                    "zero_each: arrays is (3) bf16, expected (3) f32");
}
