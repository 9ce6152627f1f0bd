// Matrix products, the optimizer's operations over flat arrays, statistics, copies. Cases tagged [sanitize]
// take every kernel through small shapes, for compute-sanitizer.
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

const CpuSide kCpu;
const GpuSide kGpu;

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
          INFO(both.name() << " " << s.N << " x " << s.I << " x " << s.O << ", bias " << bias << ", accumulate " << accumulate);
          const auto x = both.input({s.N, s.I}, random.normals(s.N * s.I)), dout = both.input({s.N, s.O}, random.normals(s.N * s.O));
          const auto weight = both.input({s.O, s.I}, random.normals(s.O * s.I)), b = both.input({s.O}, random.normals(s.O));
          const auto out = both.output({s.N, s.O});
          const auto dx = accumulate ? both.input({s.N, s.I}, random.normals(s.N * s.I)) : both.output({s.N, s.I});
          const auto dweight = both.single({s.O, s.I}, random.normals(s.O * s.I)), dbias = both.single({s.O}, random.normals(s.O));
          const auto run = [&](Ops& ops, auto side) {
            ops.linear_forward({.out = side(out), .x = side(x), .weight = side(weight), .bias = side(bias ? &b : nullptr)});
            ops.linear_backward({.dout = side(dout), .x = side(x), .weight = side(weight), .dx = side(dx),
                                 .dweight = side(dweight), .dbias = side(bias ? &dbias : nullptr), .accumulate = accumulate});
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

}  // namespace

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
    const std::vector<Segment> segments = {{0, 1, true}, {1, 16384, false}, {16385, 60001, true}, {76386, 0, true}, {76400, 23600, false}};
    const auto param = both.single({kSize}, random.normals(kSize)), grad = both.single({kSize}, random.normals(kSize, 0.1));
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
                          .compute = ops.compute_dtype() == DType::bf16 ? side(rounded) : Tensor{}, .m = side(m), .v = side(v),
                          .segments = segments, .clip = side(clip), .lr = 1e-2, .weight_decay = 0.1, .step = step});
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
    const std::vector<std::byte> before = both.bytes(param.gpu);
    both.gpu().sum_of_squares({.x = infinite.gpu, .segments = segments, .sums = sums.gpu});
    both.gpu().clip_scale({.sums = sums.gpu, .max_norm = 1, .out = clip.gpu});
    both.gpu().adamw_step({.param = param.gpu, .grad = infinite.gpu, .compute = real == DType::bf16 ? rounded.gpu : Tensor{},
                           .m = m.gpu, .v = v.gpu, .segments = segments, .clip = clip.gpu, .lr = 1e-2, .step = 1});
    CHECK(std::isnan(both.read(clip.gpu)[1]));
    CHECK(both.bytes(param.gpu) == before);
  }
}

TEST_CASE("row norms and magnitudes on the GPU agree with the CPU", "[sanitize]") {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(23);
    struct Extents {
      std::int64_t rows, channels;
    };
    for (const auto [n, c] : {Extents{1, 1}, {5, 7}, {100, 768}, {33, 1001}}) {
      INFO(both.name() << " " << n << " x " << c);
      const auto x = both.input({n, c}, random.normals(n * c));
      const auto l2 = both.single_output({n});
      both.cpu().row_l2({.x = x.cpu, .out = l2.cpu});
      both.gpu().row_l2({.x = x.gpu, .out = l2.gpu});
      CHECK(both.difference(l2) < 1e-6);
      const AbsStatistics a = both.cpu().abs_statistics(x.cpu), b = both.gpu().abs_statistics(x.gpu);
      CHECK(a.max == b.max);
      CHECK(a.median == b.median);
      CHECK(a.max_row == b.max_row);
      CHECK(a.max_column == b.max_column);
    }
  }
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
    const auto first = both.double_output({L + 1, K}), rest = both.double_output({L + 1}), ratio = both.double_output({L + 1});
    const auto run = [&](Ops& ops, auto side) {
      for (const Tensor& sums : {side(scores), side(above), side(first), side(rest), side(ratio)}) ops.zero(sums);
      for (int batch = 0; batch < 2; ++batch) {
        ops.sink_sums({.sink = side(sink), .threshold = 0.3F, .scores = side(scores), .above = side(above)});
        ops.norm_sums({.norms = side(norms), .first = side(first), .rest = side(rest), .ratio = side(ratio)});
      }
    };
    run(both.cpu(), kCpu);
    run(both.gpu(), kGpu);
    CHECK(both.difference(scores) < 1e-14);
    CHECK(both.read(above.gpu) == above.cpu.doubles());
    CHECK(both.difference(first) < 1e-14);
    CHECK(both.difference(ratio) < 1e-14);
    if (K < T) CHECK(both.difference(rest) < 1e-14);
    if (K == T)
      for (const double value : both.read(rest.gpu)) CHECK(std::isnan(value));
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
