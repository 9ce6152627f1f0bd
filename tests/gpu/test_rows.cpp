// Norms, QK-norm, activations, rotary embedding, embedding, cross-entropy: one row at a time. Cases tagged
// [sanitize] take every kernel through small shapes, for compute-sanitizer.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct Extents {
  std::int64_t rows, channels;
};
// Below, at and above a vector, a warp's row and a block's row; odd widths take the unaligned path.
const std::vector<Extents> kRows = {{1, 1},    {3, 7},     {37, 129},  {300, 64},  {50, 256},  {9, 257},   {67, 768},
                             {5, 1000}, {700, 512}, {13, 1025}, {21, 2048}, {3, 4096},  {2, 8192},  {2, 5001},
                             // More rows than blocks and groups: they take several each in the backward pass, not all
                             // as many, held by one warp, by four and by eight.
                             {4000, 64}, {4001, 64}, {600, 1100}, {2501, 1001}, {2501, 1024}, {1601, 1100}};
// Both sides of the width of every tile of registers, aligned and not.
const std::vector<Extents> kSmallRows = {{1, 1},    {11, 7},   {5, 256},  {2, 257},  {3, 512},
                                         {2, 513},  {2, 768},  {2, 769},  {3, 1024}, {2, 1025},
                                         {2, 2048}, {2, 2049}, {1, 4096}, {2, 4097}, {1, 8192}};

struct HeadShape {
  std::int64_t B, T;
  int H, G;
  std::int64_t D;
};

struct EmbeddingShape {
  std::int64_t B, T, C, V;
};

void check_norms(const std::vector<Extents>& extents) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(11);
    for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm})
      for (const auto [n, c] : extents)
        for (const bool with_delta : {false, true}) {
          const bool layernorm = kind == NormKind::layernorm;
          INFO(both.name() << " layernorm " << layernorm << ", " << n << " x " << c << ", delta " << with_delta);
          Doubles values = random.normals(n * c, 2.0);
          for (double& v : values) v += 0.5;
          const auto x = both.input({n, c}, values);
          const auto delta = both.input({n, c}, random.normals(n * c));
          const auto weight = both.input({c}, random.normals(c));
          const auto bias = both.input({c}, random.normals(c));
          const auto sum = both.output({n, c}), out = both.output({n, c});
          const auto mean = both.single_output({n}), rstd = both.single_output({n}), l2 = both.single_output({n});
          const auto forward = [&](auto side) {
            return NormForward{.kind = kind, .x = side(x), .delta = side(with_delta ? &delta : nullptr),
                               .sum = side(with_delta ? &sum : nullptr), .weight = side(weight),
                               .bias = side(layernorm ? &bias : nullptr), .eps = 1e-5F, .out = side(out),
                               .mean = side(layernorm ? &mean : nullptr), .rstd = side(rstd), .l2 = side(l2)};
          };
          both.cpu().norm_forward(forward(kCpu));
          both.gpu().norm_forward(forward(kGpu));
          // With one channel LayerNorm's difference from the mean is 0 on the CPU and a rounding here.
          CHECK(both.difference(out) < both.bound(1e-5, 8e-3));
          CHECK(both.difference(rstd) < both.bound(1e-5, c == 1 ? 1.0 : 8e-3));
          CHECK(both.difference(l2) < both.bound(1e-5, 8e-3));
          if (layernorm) CHECK(both.difference(mean) < both.bound(1e-5, 8e-3));
          if (with_delta) CHECK(both.difference(sum) < both.bound(1e-6, 4e-3));
          if (with_delta && real == DType::bf16) continue;  // the sums differ by their rounding from here on

          const auto dout = both.input({n, c}, random.normals(n * c));
          const auto dx = both.input({n, c}, random.normals(n * c));
          const auto dweight = both.single({c}, random.normals(c)), dbias = both.single({c}, random.normals(c));
          const auto dx_sums = both.single({c}, random.normals(c));
          const auto backward = [&](auto side) {
            return NormBackward{.kind = kind, .x = side(with_delta ? sum : x), .dout = side(dout),
                                .weight = side(weight), .mean = side(layernorm ? &mean : nullptr), .rstd = side(rstd),
                                .dx = side(dx), .dweight = side(dweight), .dbias = side(layernorm ? &dbias : nullptr),
                                .dx_sums = side(n % 2 == 0 ? nullptr : &dx_sums)};
          };
          both.cpu().norm_backward(backward(kCpu));
          both.gpu().norm_backward(backward(kGpu));
          CHECK(both.difference(dx) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(dweight) < both.bound(1e-5, 1e-4));
          if (layernorm) CHECK(both.difference(dbias) < both.bound(1e-5, 1e-4));
          CHECK(both.difference(dx_sums) < both.bound(1e-5, 4e-3));
        }
  }
}

/// The same with its GPU array one element further: no vector of it is aligned.
BothFloats shifted(Backends& both, BothFloats array) {
  const Tensor room = both.device_array({array.gpu.size() + 1}, array.gpu.dtype);
  Tensor moved = array.gpu;
  moved.data = static_cast<std::byte*>(room.data) + size_of(room.dtype);
  both.gpu().copy(moved, array.gpu);
  array.gpu = moved;
  return array;
}

/// QK-norm alone, and with rotations of the whole head, one pair, a quarter, half, and one pair less than all.
void check_qk_norm(const std::vector<HeadShape>& shapes) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(18);
    for (const HeadShape s : shapes) {
      std::vector<std::optional<Rotation>> rotations = {std::nullopt};
      if (s.D % 2 == 0) rotations.push_back(Rotation{.theta = 1e4, .first_index = s.T + 3});
      for (const std::int64_t width : {std::int64_t{2}, s.D / 8 * 2, s.D / 4 * 2, (s.D - 1) / 2 * 2})
        if (width > 0 && width <= s.D) rotations.push_back(Rotation{.width = width, .theta = 5e5});
      for (const std::optional<Rotation>& rotation : rotations)
        for (const bool unaligned : {false, true}) {
          INFO(both.name() << " B " << s.B << ", T " << s.T << ", H " << s.H << ", G " << s.G << ", D " << s.D << ", R "
                           << (rotation ? rotation->width : -1) << ", unaligned " << unaligned);
          const std::int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.D;
          const auto placed = [&](BothFloats array) {
            return unaligned ? shifted(both, std::move(array)) : std::move(array);
          };
          const auto in = placed(both.input({s.B, s.T, heads, s.D}, random.normals(size)));
          const auto out = placed(both.output({s.B, s.T, heads, s.D}));
          const auto qw = both.input({s.D}, random.normals(s.D)), kw = both.input({s.D}, random.normals(s.D));
          const auto rstd = both.single_output({s.B * s.T, s.H + s.G});
          const auto forward = [&](auto side) {
            return QkNormForward{.in = side(in), .out = side(out), .query_heads = s.H, .kv_heads = s.G,
                                 .q_weight = side(qw), .k_weight = side(kw), .eps = 1e-6F, .rstd = side(rstd),
                                 .rotation = rotation};
          };
          both.cpu().qk_norm_forward(forward(kCpu));
          both.gpu().qk_norm_forward(forward(kGpu));
          CHECK(both.difference(out) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(rstd) < 1e-5);
          const auto dqkv = placed(both.input({s.B, s.T, heads, s.D}, random.normals(size)));
          const auto dqw = both.single({s.D}, random.normals(s.D)), dkw = both.single({s.D}, random.normals(s.D));
          const auto backward = [&](auto side) {
            return QkNormBackward{.in = side(in), .dqkv = side(dqkv), .query_heads = s.H, .kv_heads = s.G,
                                  .q_weight = side(qw), .k_weight = side(kw), .rstd = side(rstd),
                                  .dq_weight = side(dqw), .dk_weight = side(dkw), .rotation = rotation};
          };
          both.cpu().qk_norm_backward(backward(kCpu));
          both.gpu().qk_norm_backward(backward(kGpu));
          CHECK(both.difference(dqkv) < both.bound(1e-5, 4e-3));
          CHECK(both.difference(dqw) < both.bound(1e-5, 1e-4));
          CHECK(both.difference(dkw) < both.bound(1e-5, 1e-4));
          // Values are copied, and their gradients are not written: the same bits.
          const Doubles out_gpu = both.read(out.gpu), out_cpu = out.cpu.doubles();
          const Doubles dqkv_gpu = both.read(dqkv.gpu), dqkv_cpu = dqkv.cpu.doubles();
          std::int64_t changed = 0;
          for (std::size_t i = 0; i < out_gpu.size(); ++i)
            if (static_cast<std::int64_t>(i) / s.D % heads >= s.H + s.G)
              changed += out_gpu[i] == out_cpu[i] && dqkv_gpu[i] == dqkv_cpu[i] ? 0 : 1;
          CHECK(changed == 0);
        }
    }
  }
}

void check_rope(const std::vector<HeadShape>& shapes) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(12);
    for (const HeadShape s : shapes) {
      INFO(both.name() << " B " << s.B << ", T " << s.T << ", H " << s.H << ", G " << s.G << ", D " << s.D);
      const std::int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.D;
      // The whole head, one pair, half of the channels, and one pair less than all or all but an odd one.
      for (const std::int64_t width : {std::int64_t{0}, std::int64_t{2}, s.D / 4 * 2, (s.D - 1) / 2 * 2})
        for (const bool inverse : {false, true}) {
          INFO("R " << width << ", inverse " << inverse);
          const Doubles before = random.normals(size);
          const auto rotated = both.input({s.B, s.T, heads, s.D}, before);
          const auto rope = [&](auto side) {
            return Rope{.qkv = side(rotated), .heads = s.H + s.G, .width = width, .theta = 1e4, .inverse = inverse,
                        .first_index = width == 0 ? s.T + 3 : 0};
          };
          both.cpu().rope(rope(kCpu));
          both.gpu().rope(rope(kGpu));
          CHECK(both.difference(rotated) < both.bound(1e-6, 4e-3));
          // What is not rotated is not written: the same bits.
          const Doubles on_gpu = both.read(rotated.gpu), on_cpu = rotated.cpu.doubles();
          const std::int64_t channels = width == 0 ? s.D : width;
          std::int64_t changed = 0;
          for (std::int64_t i = 0; i < size; ++i)
            if (i / s.D % heads >= s.H + s.G || i % s.D >= channels)
              changed += on_gpu[static_cast<std::size_t>(i)] == on_cpu[static_cast<std::size_t>(i)] ? 0 : 1;
          CHECK(changed == 0);
        }
    }
  }
}

void check_activations(const std::vector<Extents>& extents) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(13);
    for (const auto [n, f] : extents) {
      INFO(both.name() << " " << n << " x " << f);
      const auto x = both.input({n, f}, random.normals(n * f, 2.0)), dout = both.input({n, f}, random.normals(n * f));
      const auto gates = both.input({n, 2 * f}, random.normals(n * 2 * f, 2.0));
      const auto gelu = both.output({n, f}), dx = both.output({n, f});
      const auto exact = both.output({n, f}), exact_dx = both.output({n, f}),
                 exact_dx_sums = both.single({f}, random.normals(f)), swiglu = both.output({n, f}),
                 sum = both.output({n, f});
      const auto dgates = both.output({n, 2 * f});
      const auto run = [&](Ops& ops, auto side) {
        ops.gelu_forward({.x = side(x), .out = side(gelu)});
        ops.gelu_backward({.x = side(x), .dout = side(dout), .dx = side(dx)});
        ops.gelu_forward({.kind = GeluKind::erf, .x = side(x), .out = side(exact)});
        ops.gelu_backward({.kind = GeluKind::erf, .x = side(x), .dout = side(dout), .dx = side(exact_dx),
                           .dx_sums = side(exact_dx_sums)});
        ops.swiglu_forward({.gate_up = side(gates), .out = side(swiglu)});
        ops.swiglu_backward({.gate_up = side(gates), .dout = side(dout), .dgate_up = side(dgates)});
        ops.add(side(sum), side(x), side(dout));
      };
      run(both.cpu(), kCpu);
      run(both.gpu(), kGpu);
      for (const auto* result : {&gelu, &dx, &exact, &exact_dx, &exact_dx_sums, &swiglu, &dgates, &sum})
        CHECK(both.difference(*result) < both.bound(1e-5, 4e-3));
    }
  }
}

/// `unaligned`: rows begin where no vector of them does.
void check_embedding(const std::vector<EmbeddingShape>& shapes, bool unaligned = false) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(14);
    for (const EmbeddingShape s : shapes)
      for (const bool positions : {false, true}) {
        INFO(both.name() << " B " << s.B << ", T " << s.T << ", C " << s.C << ", V " << s.V << ", positions "
                         << positions);
        const std::int64_t N = s.B * s.T, longest = s.T + 3;
        const auto tokens = both.integers({s.B, s.T}, random.tokens(N, s.V));
        const auto placed = [&](BothFloats array) {
          return unaligned ? shifted(both, std::move(array)) : std::move(array);
        };
        const auto wte = placed(both.input({s.V, s.C}, random.normals(s.V * s.C)));
        const auto wpe = placed(both.input({longest, s.C}, random.normals(longest * s.C)));
        const auto dout = placed(both.input({N, s.C}, random.normals(N * s.C)));
        const Doubles before = random.normals(s.V * s.C), before_positions = random.normals(longest * s.C);
        const auto dwte = both.single({s.V, s.C}, before), again = both.single({s.V, s.C}, before);
        const auto dwpe = both.single({longest, s.C}, before_positions),
                   again_positions = both.single({longest, s.C}, before_positions);
        // With a norm of either kind, or none.
        const auto weight = both.input({s.C}, random.normals(s.C)), bias = both.input({s.C}, random.normals(s.C));
        for (const int kind : {0, 1, 2}) {
          INFO((kind == 0 ? "no norm" : kind == 1 ? "layernorm" : "rmsnorm"));
          const bool layernorm = kind == 1;
          const auto rows = both.output({N, s.C}), normed = both.output({N, s.C});
          const auto mean = both.single_output({N}), rstd = both.single_output({N}), l2 = both.single_output({N});
          const auto look_up = [&](Ops& ops, auto side) {
            EmbeddingForward args{
                .out = side(rows), .tokens = side(tokens), .wte = side(wte), .wpe = side(positions ? &wpe : nullptr)};
            if (kind > 0)
              args.norm = {.kind = layernorm ? NormKind::layernorm : NormKind::rmsnorm, .weight = side(weight),
                           .bias = side(layernorm ? &bias : nullptr), .eps = 1e-5F, .out = side(normed),
                           .mean = side(layernorm ? &mean : nullptr), .rstd = side(rstd),
                           .l2 = side(N % 2 == 0 ? &l2 : nullptr)};
            ops.embedding_forward(args);
          };
          look_up(both.cpu(), kCpu);
          look_up(both.gpu(), kGpu);
          CHECK(both.difference(rows) < both.bound(1e-6, 4e-3));
          if (kind == 0) continue;
          CHECK(both.difference(normed) < both.bound(1e-5, 8e-3));
          CHECK(both.difference(rstd) < both.bound(1e-5, s.C == 1 ? 1.0 : 8e-3));
          if (layernorm) CHECK(both.difference(mean) < both.bound(1e-5, 8e-3));
          if (N % 2 == 0) CHECK(both.difference(l2) < both.bound(1e-5, 8e-3));
        }
        const auto run = [&](Ops& ops, auto side) {
          ops.embedding_backward({.dout = side(dout), .tokens = side(tokens), .dwte = side(dwte),
                                  .dwpe = side(positions ? &dwpe : nullptr)});
        };
        run(both.cpu(), kCpu);
        run(both.gpu(), kGpu);
        CHECK(both.difference(dwte) < 1e-5);
        CHECK(both.difference(dwpe) < 1e-5);
        // The same bits every time.
        both.gpu().embedding_backward({.dout = dout.gpu, .tokens = tokens.gpu, .dwte = again.gpu,
                                       .dwpe = positions ? again_positions.gpu : Tensor{}});
        CHECK(both.bytes(again.gpu) == both.bytes(dwte.gpu));
        CHECK(both.bytes(again_positions.gpu) == both.bytes(dwpe.gpu));
      }
  }
}

/// That every row of the gradient agrees but for its target, whose column alone is larger than all others together;
/// zeros where there is none.
void check_other_columns(Backends& both, const BothFloats& gradient, const Tokens& targets, std::int64_t v,
                         double bound) {
  const Doubles found = both.read(gradient.gpu);
  for (std::size_t row = 0; row < targets.size(); ++row) {
    double difference = 0, norm = 0;
    for (std::int64_t c = 0; c < v; ++c) {
      if (c == targets[row]) continue;
      const std::int64_t i = static_cast<std::int64_t>(row) * v + c;
      const double expected = static_cast<double>(gradient.cpu[i]),
                   other = found[static_cast<std::size_t>(i)] - expected;
      difference += other * other;
      norm += expected * expected;
    }
    INFO("row " << row);
    CHECK(std::sqrt(difference) <= bound * std::sqrt(norm));
  }
}

/// `unaligned`: logits begin where no vector of them does.
void check_cross_entropy(const std::vector<Extents>& extents, bool unaligned = false) {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(15);
    for (const auto [n, v] : extents)
      for (const bool gradient : {false, true})
        for (const double spread : {1.0, 20.0}) {
          INFO(both.name() << " " << n << " x " << v << ", gradient " << gradient << ", spread " << spread);
          const Doubles values = random.normals(n * v, spread);
          const auto logits_like = [&] {
            BothFloats array = both.input({n, v}, values);
            return unaligned ? shifted(both, std::move(array)) : std::move(array);
          };
          const auto logits = logits_like(), again = logits_like();
          Tokens wanted = random.tokens(n, v);
          for (std::int64_t row = 1; row < n; row += row % 5 + 2) wanted[static_cast<std::size_t>(row)] = -1;
          const auto targets = both.integers({n}, wanted);
          const auto losses = both.single_output({n});
          const auto args = [&](auto side) {
            return CrossEntropy{.logits = side(logits), .targets = side(targets), .losses = side(losses),
                                .gradient = gradient, .scale = 0.25F};
          };
          both.cpu().cross_entropy(args(kCpu));
          both.gpu().cross_entropy(args(kGpu));
          CHECK(both.difference(losses) < 1e-5);
          CHECK(both.difference(logits) < both.bound(1e-5, 4e-3));
          if (gradient) check_other_columns(both, logits, wanted, v, both.bound(1e-4, 6e-3));
          if (n > 500 && real != DType::bf16) continue;  // where each row has a block of its own
          // The same bits every time.
          const auto loss_bits = both.bytes(losses.gpu);
          both.spoil(losses.gpu);
          CrossEntropy second = args(kGpu);
          second.logits = again.gpu;
          both.gpu().cross_entropy(second);
          CHECK(both.bytes(losses.gpu) == loss_bits);
          CHECK(both.bytes(again.gpu) == both.bytes(logits.gpu));
        }
  }
}

/// Rows of logits that are huge, infinite or not numbers, `rounds` times over: blocks take several, one after another.
void check_odd_logits(std::int64_t rounds, std::initializer_list<float> scales) {
  constexpr std::int64_t kKinds = 7, v = 33000;  // a thread reads columns of many places, of a warp's several pieces
  const std::int64_t n = rounds * kKinds;
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(16);
    for (const float scale : scales) {
      INFO(both.name() << ", scale " << scale);
      Doubles values = random.normals(n * v);
      Tokens wanted;
      for (std::int64_t round = 0; round < rounds; ++round) {
        const auto row = [&](std::int64_t kind) { return values.begin() + (round * kKinds + kind) * v; };
        std::fill(row(0), row(1), -std::numeric_limits<double>::infinity());
        row(0)[77] = 3;
        for (auto value = row(1); value != row(2); ++value) *value *= 1e4;
        row(2)[4000] = std::numeric_limits<double>::quiet_NaN();
        std::fill(row(3), row(4), -1e4);
        std::fill(row(4), row(4) + 2000, -std::numeric_limits<double>::infinity());
        row(5)[9] = std::numeric_limits<double>::quiet_NaN();  // of a row without a target
        row(5)[32999] = std::numeric_limits<double>::infinity();
        wanted.insert(wanted.end(), {77, 5, 9, 4103, 3000, -1, 0});
      }
      const auto logits = both.input({n, v}, values);
      const auto targets = both.integers({n}, wanted);
      const auto losses = both.single_output({n});
      const auto args = [&](auto side) {
        return CrossEntropy{
            .logits = side(logits), .targets = side(targets), .losses = side(losses), .gradient = true, .scale = scale};
      };
      both.cpu().cross_entropy(args(kCpu));
      both.gpu().cross_entropy(args(kGpu));
      const Doubles found = both.read(losses.gpu), gradient = both.read(logits.gpu);
      for (std::int64_t r = 0; r < n; ++r) {
        INFO("row " << r);
        if (r % kKinds == 2) {
          CHECK(std::isnan(found[static_cast<std::size_t>(r)]));
          CHECK(std::isnan(gradient[static_cast<std::size_t>(r * v + 9)]));
          continue;
        }
        CHECK(found[static_cast<std::size_t>(r)] ==
              Approx(static_cast<double>(losses.cpu[r])).epsilon(1e-5).margin(1e-5));
        double difference = 0, norm = 0;
        for (std::int64_t c = 0; c < v; ++c) {
          const double expected = static_cast<double>(logits.cpu[r * v + c]),
                       other = gradient[static_cast<std::size_t>(r * v + c)] - expected;
          difference += other * other;
          norm += expected * expected;
        }
        CHECK(std::sqrt(difference) <= both.bound(1e-5, 6e-3) * std::sqrt(norm) + 1e-6);
      }
    }
  }
}

}  // namespace

TEST_CASE("norms on the GPU agree with the CPU") { check_norms(kRows); }
TEST_CASE("norms on the GPU agree with the CPU at small shapes", "[sanitize]") { check_norms(kSmallRows); }

TEST_CASE("the gradients of norms on the GPU are the same bits every time") {
  for (const DType real : kComputeTypes)
    for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm})
      for (const auto [n, c] : std::initializer_list<Extents>{{4001, 64}, {2501, 1024}, {1601, 1100}}) {
        const bool layernorm = kind == NormKind::layernorm;
        Backends both(real);
        Random random(12);
        INFO(both.name() << " layernorm " << layernorm << ", " << n << " x " << c);
        const auto x = both.input({n, c}, random.normals(n * c)), dout = both.input({n, c}, random.normals(n * c)),
                   weight = both.input({c}, random.normals(c));
        const auto mean = both.single({n}, random.normals(n)), rstd = both.single({n}, random.normals(n));
        const Doubles before = random.normals(n * c), sums = random.normals(c);
        std::vector<Bytes> first;
        for (int run = 0; run < 3; ++run) {
          const auto dx = both.input({n, c}, before);
          const auto dweight = both.single({c}, sums), dbias = both.single({c}, sums), dx_sums = both.single({c}, sums);
          both.gpu().norm_backward({.kind = kind, .x = x.gpu, .dout = dout.gpu, .weight = weight.gpu,
                                    .mean = layernorm ? mean.gpu : Tensor{}, .rstd = rstd.gpu, .dx = dx.gpu,
                                    .dweight = dweight.gpu, .dbias = layernorm ? dbias.gpu : Tensor{},
                                    .dx_sums = dx_sums.gpu});
          std::vector<Bytes> found;
          for (const BothFloats* result : {&dx, &dweight, &dbias, &dx_sums}) found.push_back(both.bytes(result->gpu));
          if (run == 0) first = found;
          CHECK(found == first);
        }
      }
}

// D below, at and above the width of a group of 8, 16 and 32 lanes, and some that are no whole vectors.
TEST_CASE("QK-norm on the GPU agrees with the CPU") {
  // The last: more rows than blocks and warps, which take several each in the backward pass.
  check_qk_norm({{1, 1, 1, 1, 1},   {2, 7, 3, 1, 6},   {3, 33, 4, 2, 64}, {2, 130, 8, 8, 128}, {1, 9, 2, 1, 256},
                 {2, 40, 6, 3, 96}, {1, 70, 4, 4, 18}, {2, 21, 5, 1, 40}, {3, 19, 6, 2, 80},   {2, 17, 9, 3, 160},
                 {2, 2200, 3, 1, 64}});
}
TEST_CASE("QK-norm on the GPU agrees with the CPU at small shapes", "[sanitize]") {
  check_qk_norm({{1, 1, 1, 1, 1}, {2, 7, 3, 1, 6}, {1, 9, 4, 2, 64}, {1, 5, 20, 4, 128}, {1, 3, 2, 1, 256},
                 {1, 4, 6, 3, 96}, {2, 3, 2, 2, 18}, {1, 3, 3, 1, 40}, {1, 3, 3, 1, 80}});
}

TEST_CASE("the gradients of QK-norm on the GPU are the same bits every time") {
  for (const DType real : kComputeTypes)
    for (const bool unaligned : {false, true}) {
      Backends both(real);
      Random random(19);
      INFO(both.name() << ", unaligned " << unaligned);
      const std::int64_t T = 5000, D = 64;  // rows for every warp of every block
      const int H = 3, G = 1;
      const Doubles before = random.normals(T * (H + 2 * G) * D), gradient = random.normals(T * (H + 2 * G) * D);
      const auto qw = both.input({D}, random.normals(D)), kw = both.input({D}, random.normals(D));
      const Doubles weight_gradient = random.normals(D);
      const auto rstd = both.single({T, H + G}, random.normals(T * (H + G)));
      std::vector<Bytes> results;
      for (int run = 0; run < 3; ++run) {
        const auto placed = [&](const Doubles& values) {
          auto array = both.input({1, T, H + 2 * G, D}, values);
          return unaligned ? shifted(both, std::move(array)) : std::move(array);
        };
        const auto in = placed(before), dqkv = placed(gradient);
        const auto dqw = both.single({D}, weight_gradient), dkw = both.single({D}, weight_gradient);
        both.gpu().qk_norm_backward({.in = in.gpu, .dqkv = dqkv.gpu, .query_heads = H, .kv_heads = G,
                                     .q_weight = qw.gpu, .k_weight = kw.gpu, .rstd = rstd.gpu, .dq_weight = dqw.gpu,
                                     .dk_weight = dkw.gpu, .rotation = Rotation{}});
        results.emplace_back();
        for (const Tensor& tensor : {dqkv.gpu, dqw.gpu, dkw.gpu}) {
          const Bytes bytes = both.bytes(tensor);
          results.back().insert(results.back().end(), bytes.begin(), bytes.end());
        }
        CHECK(results.back() == results.front());
      }
    }
}

TEST_CASE("rotary embedding on the GPU agrees with the CPU") {
  check_rope({{1, 1, 1, 1, 2},   {2, 7, 3, 1, 6},   {3, 33, 4, 2, 64}, {2, 130, 8, 8, 128},
              {1, 9, 2, 1, 256}, {2, 40, 6, 3, 96}, {1, 70, 4, 4, 18}, {2, 300, 8, 8, 64}});
}
TEST_CASE("rotary embedding on the GPU agrees with the CPU at small shapes", "[sanitize]") {
  check_rope({{1, 1, 1, 1, 2}, {2, 7, 3, 1, 6}, {1, 9, 4, 2, 64}, {1, 5, 2, 1, 128},
              {1, 3, 2, 1, 256}, {1, 4, 6, 3, 96}, {2, 3, 2, 2, 18}});
}

TEST_CASE("activations and addition on the GPU agree with the CPU") {
  check_activations({{1, 1}, {3, 7}, {64, 128}, {33, 1000}, {5, 3072}});
}
TEST_CASE("activations and addition on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_activations({{1, 1}, {3, 7}, {5, 64}, {3, 1001}});
}

TEST_CASE("GELU in erf form keeps its tails on the GPU", "[sanitize]") {
  Backends both(DType::f32);
  const Doubles far = {-1e4, -50, -13.5, -10, -5, -3, -1e-20, 0, 1e-20, 3, 5, 13.5, 50, 1e4};
  const auto count = static_cast<std::int64_t>(far.size());
  const auto x = both.input({1, count}, far), ones = both.input({1, count}, Doubles(far.size(), 1.0));
  const auto out = both.output({1, count}), dx = both.output({1, count});
  both.gpu().gelu_forward({.kind = GeluKind::erf, .x = x.gpu, .out = out.gpu});
  both.gpu().gelu_backward({.kind = GeluKind::erf, .x = x.gpu, .dout = ones.gpu, .dx = dx.gpu});
  const Doubles found = both.read(out.gpu), slope = both.read(dx.gpu);
  const Doubles expected = gelu_forward(GeluKind::erf, x.cpu.doubles());
  const Doubles derivative = gelu_backward(GeluKind::erf, x.cpu.doubles(), ones.cpu.doubles());
  for (std::size_t i = 0; i < far.size(); ++i) {
    INFO("x = " << far[i]);
    CHECK(found[i] == Approx(expected[i]).epsilon(1e-5).margin(1e-36));
    CHECK(slope[i] == Approx(derivative[i]).epsilon(1e-5).margin(1e-36));
  }
}

TEST_CASE("the embedding and its gradient on the GPU agree with the CPU") {
  // More tokens than one tile of the sort; runs of equal tokens that fill a piece, that are one longer, that have many.
  check_embedding({{1, 1, 1, 1}, {2, 5, 7, 3}, {4, 33, 64, 50}, {3, 100, 260, 2}, {2, 64, 768, 1000},
                   {8, 128, 40, 40000}, {16, 2048, 24, 700}, {2, 64, 8, 1}, {3, 43, 8, 1}, {3, 128, 264, 1},
                   {4, 600, 72, 3}, {2, 1000, 9, 2}, {3, 50, 520, 9}, {2, 130, 1024, 5}, {2, 40, 2104, 6}});
}
TEST_CASE("the embedding and its gradient on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_embedding({{1, 1, 1, 1}, {2, 5, 7, 3}, {2, 9, 64, 50}, {3, 10, 260, 2}, {2, 4096, 8, 300}, {4, 96, 8, 1}});
}

TEST_CASE("the embedding of arrays at any place and its gradient on the GPU agree with the CPU") {
  check_embedding({{2, 9, 64, 50}, {3, 100, 264, 2}, {2, 64, 768, 1000}}, true);
}

TEST_CASE("cross-entropy on the GPU agrees with the CPU") {
  check_cross_entropy({{1, 1}, {3, 7}, {40, 257}, {17, 4096}, {9, 5003}, {4, 50304}, {7, 57344}, {3, 57352},
                       // More rows than two blocks of every multiprocessor take at a time, of one piece a warp and of
                       // several.
                       {1100, 4104}, {600, 16384}, {600, 50304}, {300, 57344}});
}
TEST_CASE("gradients of cross-entropy on the GPU are the same bits while the logits of later rows arrive") {
  constexpr std::int64_t n = 600, v = 50304;  // rows for two blocks of every multiprocessor, twice and more
  Backends both(DType::bf16);
  Random random(18);
  const auto logits = both.input({n, v}, random.normals(n * v));
  Tokens wanted = random.tokens(n, v);
  for (std::int64_t row = 1; row < n; row += 5) wanted[static_cast<std::size_t>(row)] = -1;  // of every block some
  const auto targets = both.integers({n}, wanted);
  const auto losses = both.single_output({n});
  const Bytes values = both.bytes(logits.gpu);
  Bytes first;
  for (int run = 0; run < 40; ++run) {
    INFO("run " << run);
    both.gpu().copy_from_host(logits.gpu, values.data());
    both.gpu().cross_entropy({.logits = logits.gpu, .targets = targets.gpu, .losses = losses.gpu, .gradient = true,
                              .scale = 0.25F});
    const Bytes gradient = both.bytes(logits.gpu);
    if (run == 0) first = gradient;
    CHECK(gradient == first);
  }
}
TEST_CASE("cross-entropy of logits at any place on the GPU agrees with the CPU") {
  check_cross_entropy({{5, 256}, {7, 4104}}, true);
}
TEST_CASE("logits that are huge, infinite or not numbers, and other scales, give on the GPU what they give on the CPU",
          "[sanitize]") {
  check_odd_logits(1, {0.25F, 0.0F, -2.0F});
}
TEST_CASE("rows of odd logits leave nothing to those behind them on the GPU") { check_odd_logits(90, {0.25F}); }
TEST_CASE("cross-entropy on the GPU agrees with the CPU at small shapes", "[sanitize]") {
  check_cross_entropy({{1, 1}, {3, 7}, {4, 257}, {3, 4096}, {3, 5003}, {3, 8200}, {540, 4096}});
}
