// Attention on the GPU against the CPU's, and the same bits twice. Cases tagged [sanitize] take every kernel
// through small shapes, for compute-sanitizer.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct Shape {
  std::int64_t B, T;
  int H, G;
  std::int64_t D, K;
};
// Every head dim with a kernel of its own, others, T around the tiles, grouped queries.
const std::vector<Shape> kShapes = {
    {1, 1, 1, 1, 64, 1},     {2, 2, 1, 1, 32, 2},    {1, 63, 2, 1, 64, 8},   {2, 64, 2, 2, 64, 8},
    {1, 65, 4, 2, 64, 8},    {1, 129, 2, 1, 32, 8},  {2, 200, 6, 3, 96, 40}, {1, 261, 4, 4, 128, 8},
    {1, 300, 3, 1, 64, 8},   {3, 128, 8, 2, 128, 8}, {1, 513, 2, 2, 96, 40}, {1, 77, 2, 1, 20, 8},
    {2, 33, 3, 3, 5, 8},     {1, 140, 2, 2, 80, 8},  {1, 70, 2, 1, 256, 8},  {1, 1024, 2, 2, 64, 8}};
// A few tiles and a ragged end of every kernel, for compute-sanitizer: racecheck takes a minute for a hundred
// positions of the fp32 kernels, whose tiles have 32 rows.
const std::vector<Shape> kSmallPlainShapes = {
    {1, 1, 1, 1, 64, 1}, {1, 40, 2, 1, 20, 8}, {2, 33, 2, 1, 5, 33}, {1, 33, 1, 1, 128, 8}, {1, 33, 1, 1, 256, 8}};
const std::vector<Shape> kSmallTensorCoreShapes = {
    {1, 1, 1, 1, 64, 1},   {2, 2, 1, 1, 32, 2},   {1, 65, 2, 1, 32, 8},   {1, 129, 1, 1, 64, 20},
    {1, 70, 1, 1, 64, 70}, {1, 67, 1, 1, 96, 40}, {1, 129, 1, 1, 128, 8}, {1, 129, 2, 1, 64, 8},
    {1, 180, 2, 1, 128, 8}};
constexpr DType kHalf[] = {DType::bf16};
// Many more tiles than multiprocessors: every block of a persistent grid takes several.
const std::vector<Shape> kManyTiles = {{4, 700, 32, 16, 64, 8}, {4, 400, 48, 24, 128, 8}};

/// At, before and after the edges of tiles of 64 and 128 keys and of 128 and 192 queries with every head dim that has a
/// kernel of its own; queries to a key head and positions watched take turns.
std::vector<Shape> edge_shapes() {
  constexpr int kGroups[] = {1, 2, 3, 4, 8};
  constexpr std::int64_t kWatched[] = {1, 3, 8, 20, 64, 100};
  std::vector<Shape> shapes;
  for (const std::int64_t D : {32, 64, 96, 128})
    for (const std::int64_t T : {1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 256, 257, 320, 385}) {
      const std::size_t i = shapes.size();
      const int group = kGroups[i % std::size(kGroups)], G = group < 8 && i % 2 == 1 ? 2 : 1;
      shapes.push_back({i % 3 == 1 ? 2 : 1, T, group * G, G, D, std::min(kWatched[i % std::size(kWatched)], T)});
    }
  return shapes;
}

std::string describe(const Shape& s) {
  std::string text = "B " + std::to_string(s.B) + ", T " + std::to_string(s.T) + ", H " + std::to_string(s.H);
  return text + ", G " + std::to_string(s.G) + ", D " + std::to_string(s.D) + ", K " + std::to_string(s.K);
}

/// Each value without sink logits and with them.
template <class Values>
auto with_and_without(const Values& values) {
  std::vector<std::pair<typename Values::value_type, bool>> cases;
  for (const auto& value : values)
    for (const bool logits : {false, true}) cases.emplace_back(value, logits);
  return cases;
}

/// A sum that cancels over queries and channels keeps the rounding of its terms, so their magnitudes are the measure.
void check_sink_gradient(Backends& both, const Shape& s, const Floats& out, const Floats& dout, const Floats& lse,
                         const Floats& logits, const Doubles& before, const BothFloats& gradient) {
  const Doubles found = both.read(gradient.gpu);
  for (std::int64_t h = 0; h < s.H; ++h) {
    double terms = std::abs(before[static_cast<std::size_t>(h)]);
    for (std::int64_t b = 0; b < s.B; ++b)
      for (std::int64_t t = 0; t < s.T; ++t) {
        double sum = 0;
        for (std::int64_t d = 0; d < s.D; ++d) {
          const std::int64_t i = ((b * s.T + t) * s.H + h) * s.D + d;
          sum += std::abs(static_cast<double>(out[i]) * static_cast<double>(dout[i]));
        }
        terms += std::exp(static_cast<double>(logits[h] - lse[(b * s.H + h) * s.T + t])) * sum;
      }
    CHECK(std::abs(found[static_cast<std::size_t>(h)] - static_cast<double>(gradient.cpu[h])) <
          both.bound(1e-5, 1e-2) * terms);
  }
}

/// That sums are those before and of the GPU's rows; of rows that are rounded here alone, whose magnitudes are the
/// measure.
void check_sums(Backends& both, const Doubles& before, const BothFloats& rows, const BothFloats& sums) {
  const Doubles values = both.read(rows.gpu), found = both.read(sums.gpu);
  Doubles expected = before, terms(before.size());
  for (std::size_t i = 0; i < before.size(); ++i) terms[i] = std::abs(before[i]);
  for (std::size_t i = 0; i < values.size(); ++i) {
    expected[i % before.size()] += values[i];
    terms[i % before.size()] += std::abs(values[i]);
  }
  // A rounding is at most 2^-8.
  for (std::size_t i = 0; i < before.size(); ++i)
    CHECK(std::abs(found[i] - expected[i]) < both.bound(1e-5, 4e-3) * terms[i]);
}

void check_attention(const std::vector<Shape>& shapes, std::span<const DType> types = kComputeTypes,
                     std::initializer_list<double> spreads = {1.0, 3.0}) {
  for (const DType real : types) {
    Backends both(real);
    Random random(31);
    int turn = 0;
    for (const Shape s : shapes)
      for (const auto& [spread, with_logits] : with_and_without(spreads)) {
        // In turn dqkv is what it is, rotated back in all channels of a head, in some, and in all; each in turn with
        // each of the cases, of which there may be four.
        std::optional<Rotation> rotation;
        const int kind = (turn + turn / 4) % 4;
        ++turn;
        if (s.D % 2 == 0 && kind > 0)
          rotation = Rotation{
              .width = kind == 2 ? std::max<std::int64_t>(s.D / 4 * 2, 2) : 0, .theta = 100.0, .first_index = kind / 2};
        INFO(both.name() << " " << describe(s) << ", spread " << spread << (with_logits ? ", sink logits" : "")
                         << (rotation ? ", rotated back in " + std::to_string(rotation->width) + " channels" : ""));
        const std::int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.D, out_size = s.B * s.T * s.H * s.D;
        const auto qkv = both.input({s.B, s.T, heads, s.D}, random.normals(size, spread));
        const auto logits = both.input({s.H}, random.normals(s.H, 2 * spread));
        const auto* z = with_logits ? &logits : nullptr;
        auto out = both.output({s.B, s.T, s.H, s.D});
        const auto lse = both.single_output({s.B, s.H, s.T}), sink = both.single_output({s.B, s.H, s.K});
        const auto forward = [&](auto side, bool with_sink) {
          return AttentionForward{.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .out = side(out),
                                  .lse = side(lse), .sink = with_sink ? side(sink) : Tensor{}, .sink_logits = side(z)};
        };
        both.cpu().attention_forward(forward(kCpu, true));
        both.gpu().attention_forward(forward(kGpu, true));
        CHECK(both.difference(out) < both.bound(1e-5, 8e-3));
        CHECK(both.difference(lse) < 1e-5);
        CHECK(both.difference(sink) < 1e-5);

        // The sink scores are a by-product, and every run gives the same bits.
        const auto bits = both.bytes(out.gpu), lse_bits = both.bytes(lse.gpu), sink_bits = both.bytes(sink.gpu);
        for (const Tensor& tensor : {out.gpu, lse.gpu, sink.gpu}) both.spoil(tensor);
        both.gpu().attention_forward(forward(kGpu, false));
        CHECK(both.bytes(out.gpu) == bits);
        CHECK(both.bytes(lse.gpu) == lse_bits);
        both.gpu().attention_forward(forward(kGpu, true));
        CHECK(both.bytes(sink.gpu) == sink_bits);

        // Gradients are of the same out: where a query has few keys, they cancel to less than its rounding.
        const Doubles rounded = both.read(out.gpu);
        for (std::int64_t i = 0; i < out_size; ++i)
          out.cpu[i] = static_cast<float>(rounded[static_cast<std::size_t>(i)]);
        const auto dout = both.input({s.B, s.T, s.H, s.D}, random.normals(out_size));
        const auto dqkv = both.output({s.B, s.T, heads, s.D});
        const Doubles before = random.normals(s.H);
        const auto dlogits = both.single({s.H}, before), again = both.single({s.H}, before);
        const Doubles sums_before = random.normals(heads * s.D);
        const auto sums = both.single({heads * s.D}, sums_before), sums_again = both.single({heads * s.D}, sums_before);
        const auto backward = [&](auto side) {
          return AttentionBackward{.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .out = side(out),
                                   .dout = side(dout), .lse = side(lse), .dqkv = side(dqkv), .sink_logits = side(z),
                                   .dsink_logits = with_logits ? side(dlogits) : Tensor{}, .dqkv_sums = side(sums),
                                   .rotation = rotation};
        };
        both.cpu().attention_backward(backward(kCpu));
        both.gpu().attention_backward(backward(kGpu));
        CHECK(both.difference(dqkv) < both.bound(1e-5, 1.5e-2));
        check_sums(both, sums_before, dqkv, sums);
        if (with_logits) check_sink_gradient(both, s, out.cpu, dout.cpu, lse.cpu, logits.cpu, before, dlogits);
        const auto dqkv_bits = both.bytes(dqkv.gpu);
        both.spoil(dqkv.gpu);
        auto second = backward(kGpu);
        if (with_logits) second.dsink_logits = again.gpu;
        second.dqkv_sums = sums_again.gpu;
        both.gpu().attention_backward(second);
        CHECK(both.bytes(sums_again.gpu) == both.bytes(sums.gpu));
        CHECK(both.bytes(dqkv.gpu) == dqkv_bits);
        if (with_logits) CHECK(both.bytes(again.gpu) == both.bytes(dlogits.gpu));
      }
  }
}

void check_statistics(const std::vector<Shape>& shapes, std::span<const DType> types = kComputeTypes) {
  for (const DType real : types) {
    Backends both(real);
    Random random(32);
    for (const auto& [s, with_logits] : with_and_without(shapes)) {
      if (s.T < 2) continue;
      INFO(both.name() << " " << describe(s) << (with_logits ? ", sink logits" : ""));
      const std::int64_t heads = s.H + 2 * s.G, size = s.B * s.T * heads * s.D;
      const auto qkv = both.input({s.B, s.T, heads, s.D}, random.normals(size));
      const auto out = both.output({s.B, s.T, s.H, s.D});
      const auto lse = both.single_output({s.B, s.H, s.T}), sink = both.single_output({s.B, s.H, s.K});
      const auto own_sink = both.single_output({s.B, s.H, s.K});  // of the forward pass
      const auto logits = both.input({s.H}, random.normals(s.H)), logit_mass = both.single_output({s.B, s.H});
      const auto* z = with_logits ? &logits : nullptr;
      const auto mass = both.single_output({s.B, s.H}), argmax = both.single_output({s.B, s.H}),
                 entropy = both.single_output({s.B, s.H});
      const auto keys = both.single_output({s.B, s.H, s.T}), first = both.single_output({s.B, s.H}),
                 rest = both.single_output({s.B, s.H});
      const auto run = [&](Ops& ops, auto side) {
        ops.attention_forward({.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .out = side(out),
                               .lse = side(lse), .sink = side(own_sink), .sink_logits = side(z)});
        ops.attention_statistics({.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .lse = side(lse),
                                  .sink = side(sink), .first_mass = side(mass), .first_argmax = side(argmax),
                                  .entropy = side(entropy), .key_mass = side(keys), .cos_first = side(first),
                                  .cos_rest = side(rest), .sink_logits = side(z),
                                  .sink_logit_mass = with_logits ? side(logit_mass) : Tensor{}});
      };
      run(both.cpu(), kCpu);
      run(both.gpu(), kGpu);
      for (const auto* result : {&sink, &mass, &entropy, &keys}) CHECK(both.difference(*result) < 2e-5);
      CHECK(both.difference(argmax) < 1e-6);
      if (with_logits) CHECK(both.difference(logit_mass) < 2e-5);
      // Of the GPU alone: both passes score alike, and without sink logits A[0,0] = 1.
      const Doubles scores = both.read(sink.gpu);
      CHECK(relative_error(both.read(own_sink.gpu), scores) < 4e-5);
      for (std::int64_t i = 0; !with_logits && i < s.B * s.H; ++i)
        CHECK(scores[static_cast<std::size_t>(i * s.K)] >= (1 - 1e-5) / static_cast<double>(s.T));
      // Cosines are near 0: compared by the size of a cosine.
      const Doubles a = both.read(first.gpu), b = both.read(rest.gpu);
      for (std::int64_t i = 0; i < first.cpu.size(); ++i) {
        CHECK(std::abs(a[static_cast<std::size_t>(i)] - static_cast<double>(first.cpu[i])) < 1e-5);
        CHECK(std::abs(b[static_cast<std::size_t>(i)] - static_cast<double>(rest.cpu[i])) < 1e-5);
      }
      // Every query's weights sum to 1, the one on the sink logit included, and every run gives the same bits.
      const Doubles masses = both.read(keys.gpu);
      const Doubles on_logits =
          with_logits ? both.read(logit_mass.gpu) : Doubles(static_cast<std::size_t>(s.B * s.H), 0.0);
      for (std::int64_t i = 0; i < s.B * s.H; ++i)
        CHECK(std::accumulate(masses.begin() + i * s.T, masses.begin() + (i + 1) * s.T, 0.0) ==
              Approx(static_cast<double>(s.T) * (1 - on_logits[static_cast<std::size_t>(i)])).epsilon(1e-5));
      std::vector<const BothFloats*> outputs = {&sink, &mass, &argmax, &entropy, &keys, &first, &rest};
      if (with_logits) outputs.push_back(&logit_mass);
      std::vector<Bytes> bits;
      for (const auto* output : outputs) bits.push_back(both.bytes(output->gpu));
      for (const auto* output : outputs) both.spoil(output->gpu);
      run(both.gpu(), kGpu);
      std::size_t place = 0;
      for (const auto* output : outputs) CHECK(both.bytes(output->gpu) == bits[place++]);
    }
  }
}

void check_isolation(const std::vector<Shape>& shapes, std::span<const DType> types = kComputeTypes) {
  for (const DType real : types) {
    Backends both(real);
    Random random(33);
    for (const Shape s : shapes)
      for (const std::int64_t position : {std::int64_t{0}, s.T / 2, s.T - 1}) {
        const bool with_logits = position > 0;
        INFO(both.name() << " " << describe(s) << ", position " << position << (with_logits ? ", sink logits" : ""));
        const auto logits = both.input({s.H}, random.normals(s.H, 3.0));
        const auto* z = with_logits ? &logits : nullptr;
        const auto qkv =
            both.input({s.B, s.T, s.H + 2 * s.G, s.D}, random.normals(s.B * s.T * (s.H + 2 * s.G) * s.D, 2.0));
        const auto out = both.output({s.B, s.T, s.H, s.D});
        const auto lse = both.single_output({s.B, s.H, s.T}), sink = both.single_output({s.B, s.H, s.K});
        const auto run = [&](Ops& ops, auto side) {
          ops.attention_forward({.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .out = side(out),
                                 .lse = side(lse), .sink = side(sink), .sink_logits = side(z)});
          ops.isolate_query({.qkv = side(qkv), .query_heads = s.H, .kv_heads = s.G, .position = position,
                             .out = side(out), .lse = side(lse), .sink = side(sink), .sink_logits = side(z)});
        };
        run(both.cpu(), kCpu);
        run(both.gpu(), kGpu);
        CHECK(both.difference(out) < both.bound(1e-5, 8e-3));
        CHECK(both.difference(lse) < 1e-5);
        CHECK(both.difference(sink) < 1e-5);
        const auto sink_bits = both.bytes(sink.gpu);
        run(both.gpu(), kGpu);
        CHECK(both.bytes(sink.gpu) == sink_bits);
      }
  }
}

}  // namespace

TEST_CASE("attention forward and backward on the GPU agree with the CPU") { check_attention(kShapes); }
TEST_CASE("attention forward and backward on the GPU agree with the CPU over many tiles", "[gpu]") {
  check_attention(kManyTiles, kHalf, {1.0});
}
TEST_CASE("attention forward and backward on the GPU agree with the CPU at the edges of tiles") {
  check_attention(edge_shapes());
}
TEST_CASE("attention forward and backward on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_attention(kSmallPlainShapes, kComputeTypes, {1.0});
  check_attention(kSmallTensorCoreShapes, kHalf, {1.0});
}

/// Of standard normal data, as torch_attention.py --errors has it of cuDNN: out 2.0e-3, dq 2.50e-3, dk 2.47e-3, dv
/// 2.30e-3.
TEST_CASE("attention on Hopper rounds no worse than cuDNN's") {
  Backends both(DType::bf16);
  if (!is_hopper(both.gpu())) {
    WARN("only for GPUs of the Hopper generation, this is " << both.gpu().gpu_name());
    return;
  }
  Random random(34);
  constexpr std::int64_t kB = 2, kH = 4, kT = 1000;
  for (const std::int64_t D : {64, 128}) {
    INFO("D " << D);
    const auto qkv = both.input({kB, kT, 3 * kH, D}, random.normals(kB * kT * 3 * kH * D));
    const auto dout = both.input({kB, kT, kH, D}, random.normals(kB * kT * kH * D));
    const auto out = both.output({kB, kT, kH, D}), dqkv = both.output({kB, kT, 3 * kH, D});
    const auto lse = both.single_output({kB, kH, kT}), sink = both.single_output({kB, kH, 8});
    const auto run = [&](Ops& ops, auto side) {
      ops.attention_forward({.qkv = side(qkv), .query_heads = kH, .kv_heads = kH, .out = side(out), .lse = side(lse),
                             .sink = side(sink)});
      ops.attention_backward({.qkv = side(qkv), .query_heads = kH, .kv_heads = kH, .out = side(out), .dout = side(dout),
                              .lse = side(lse), .dqkv = side(dqkv)});
    };
    run(both.cpu(), kCpu);
    run(both.gpu(), kGpu);
    CHECK(both.difference(out) < 1.95e-3);
    const Doubles found = both.read(dqkv.gpu), expected = dqkv.cpu.doubles();
    constexpr double kBounds[] = {2.49e-3, 2.47e-3, 2.30e-3};  // queries, keys, values
    for (std::int64_t part = 0; part < 3; ++part) {
      Doubles a, b;
      for (std::int64_t row = 0; row < kB * kT; ++row)
        for (std::int64_t i = 0; i < kH * D; ++i) {
          const auto at = static_cast<std::size_t>((row * 3 + part) * kH * D + i);
          a.push_back(found[at]);
          b.push_back(expected[at]);
        }
      INFO("part " << part);
      CHECK(relative_error(a, b) < kBounds[part]);
    }
  }
}

TEST_CASE("a query that is not finite shows in the sink scores of its head alone") {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    Random random(32);
    for (const std::int64_t D : {64, 96, 128}) {
      INFO(both.name() << ", D " << D);
      constexpr std::int64_t kT = 200, kHeads = 6, kK = 8;
      Doubles values = random.normals(kT * kHeads * D);
      values[static_cast<std::size_t>((150 * kHeads + 1) * D + 3)] = std::numeric_limits<double>::quiet_NaN();
      const auto qkv = both.input({1, kT, kHeads, D}, values);
      const auto out = both.output({1, kT, 2, D});
      const auto lse = both.single_output({1, 2, kT}), sink = both.single_output({1, 2, kK});
      for (int run = 0; run < 2; ++run) {  // the second finds nothing of the first
        both.spoil(sink.gpu);
        both.gpu().attention_forward(
            {.qkv = qkv.gpu, .query_heads = 2, .kv_heads = 2, .out = out.gpu, .lse = lse.gpu, .sink = sink.gpu});
        const Doubles scores = both.read(sink.gpu);
        CHECK(std::all_of(scores.begin(), scores.begin() + kK, [](double score) { return std::isfinite(score); }));
        CHECK(std::all_of(scores.begin() + kK, scores.end(), [](double score) { return std::isnan(score); }));
      }
    }
  }
}

TEST_CASE("attention statistics on the GPU agree with the CPU") { check_statistics(kShapes); }
TEST_CASE("attention statistics on the GPU agree with the CPU at the edges of tiles") {
  check_statistics(edge_shapes());
}
TEST_CASE("attention statistics on the GPU agree with the CPU at small shapes", "[sanitize]") {
  check_statistics(kSmallPlainShapes);
  check_statistics(kSmallTensorCoreShapes, kHalf);
}
TEST_CASE("attention statistics of equal keys, and of a zero query or key, are known") {
  for (const DType real : kComputeTypes) {
    Backends both(real);
    constexpr std::int64_t kT = 150, kD = 64;
    for (const bool zero : {false, true}) {
      INFO(both.name() << (zero ? ", zeros" : ", equal keys"));
      const auto qkv = both.input({1, kT, 3, kD}, Doubles(kT * 3 * kD, zero ? 0.0 : 1.0));
      const auto out = both.output({1, kT, 1, kD});
      const auto lse = both.single_output({1, 1, kT}), sink = both.single_output({1, 1, 1}),
                 keys = both.single_output({1, 1, kT});
      const auto one = [&] { return both.single_output({1, 1}); };
      const auto mass = one(), argmax = one(), entropy = one(), first = one(), rest = one();
      both.gpu().attention_forward(
          {.qkv = qkv.gpu, .query_heads = 1, .kv_heads = 1, .out = out.gpu, .lse = lse.gpu, .sink = {}});
      both.gpu().attention_statistics({.qkv = qkv.gpu, .query_heads = 1, .kv_heads = 1, .lse = lse.gpu,
                                       .sink = sink.gpu, .first_mass = mass.gpu, .first_argmax = argmax.gpu,
                                       .entropy = entropy.gpu, .key_mass = keys.gpu, .cos_first = first.gpu,
                                       .cos_rest = rest.gpu});
      double uniform = 0, nats = 0;
      for (std::int64_t t = 0; t < kT; ++t) {
        uniform += 1.0 / static_cast<double>(t + 1);
        nats += std::log(static_cast<double>(t + 1));
      }
      CHECK(both.read(sink.gpu)[0] == Approx(uniform / kT).epsilon(1e-5));
      CHECK(both.read(mass.gpu)[0] == Approx((uniform - 1) / (kT - 1)).epsilon(1e-5));
      CHECK(both.read(entropy.gpu)[0] == Approx(nats / kT).epsilon(1e-5));
      CHECK(both.read(argmax.gpu)[0] == 1.0);  // a tie counts for position 0
      CHECK(both.read(first.gpu)[0] == Approx(zero ? 0.0 : 1.0).margin(1e-6));
      CHECK(both.read(rest.gpu)[0] == Approx(zero ? 0.0 : 1.0).margin(1e-6));
    }
  }
}

TEST_CASE("an isolated query on the GPU is what it is on the CPU") { check_isolation(kShapes); }
TEST_CASE("an isolated query on the GPU is what it is on the CPU at small shapes", "[sanitize]") {
  check_isolation(kSmallPlainShapes);
  check_isolation(kSmallTensorCoreShapes, kHalf);
}
