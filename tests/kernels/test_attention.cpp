#include <sys/resource.h>

#include "tests/catch.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

// T = 1, below, at and above the tiles of 64 queries and 128 keys; D odd, below and above a vector.
const Heads kShapes[] = {{1, 1, 1, 1, 1},   {2, 2, 1, 1, 3},    {1, 7, 3, 1, 5},   {2, 16, 2, 2, 16},
                         {1, 63, 2, 1, 17}, {1, 64, 4, 2, 8},   {2, 65, 6, 3, 33}, {1, 128, 2, 2, 64},
                         {1, 129, 2, 1, 1}, {1, 200, 4, 1, 20}, {1, 261, 2, 2, 80}};

struct Run {
  Floats qkv, out, lse, sink, dout, dqkv;
  Run(const Heads& heads, std::int64_t watched, const Doubles& values, const Doubles& gradient)
      : qkv({heads.sequences, heads.length, heads.row_heads(), heads.head_dim}, values),
        out({heads.sequences, heads.length, heads.query_heads, heads.head_dim}),
        lse({heads.sequences, heads.query_heads, heads.length}),
        sink({heads.sequences, heads.query_heads, watched}),
        dout({heads.sequences, heads.length, heads.query_heads, heads.head_dim}, gradient),
        dqkv({heads.sequences, heads.length, heads.row_heads(), heads.head_dim}) {}
};

void forward(Ops& ops, const Heads& heads, const Run& run, bool with_sink) {
  ops.attention_forward({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                         .kv_heads = static_cast<int>(heads.kv_heads), .out = run.out, .lse = run.lse,
                         .sink = with_sink ? run.sink.view() : Tensor{}});
}

void backward(Ops& ops, const Heads& heads, const Run& run) {
  ops.attention_backward({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                          .kv_heads = static_cast<int>(heads.kv_heads), .out = run.out, .dout = run.dout,
                          .lse = run.lse, .dqkv = run.dqkv});
}

}  // namespace

TEST_CASE("Attention forward and backward follow their formulas over odd shapes") {
  const auto ops = make_cpu_ops(2);
  Random random(41);
  for (const Heads& heads : kShapes)
    for (const double spread : {1.0, 4.0}) {
      INFO("B " << heads.sequences << ", T " << heads.length << ", H " << heads.query_heads << ", G " << heads.kv_heads
                << ", D " << heads.head_dim << ", spread " << spread);
      const Doubles qkv = random.normals(heads.size(), spread);
      const Doubles dout = random.normals(heads.out_size());
      const std::int64_t watched = std::min<std::int64_t>(8, heads.length);
      Run run(heads, watched, qkv, dout);
      forward(*ops, heads, run, true);
      const AttentionOut reference = attention_forward(heads, qkv);
      CHECK(relative_error(run.out, reference.out) < 4 * kSingle);
      CHECK(relative_error(run.lse, reference.lse) < kSingle);
      CHECK(relative_error(run.sink, sink_scores(heads, reference.weights, watched)) < 4 * kSingle);
      backward(*ops, heads, run);
      CHECK(relative_error(run.dqkv, attention_backward(heads, qkv, dout)) < 10 * kSingle);

      // The sink scores are a by-product: nothing else changes by a bit without them.
      Run plain(heads, watched, qkv, dout);
      forward(*ops, heads, plain, false);
      CHECK(plain.out.same_bits(run.out));
      CHECK(plain.lse.same_bits(run.lse));
    }
}

TEST_CASE("The reference gradient of attention agrees with finite differences") {
  Random random(42);
  for (const Heads& heads : {Heads{1, 1, 1, 1, 2}, Heads{2, 5, 2, 1, 3}, Heads{1, 7, 4, 2, 2}}) {
    const Doubles qkv = random.normals(heads.size());
    const Doubles dout = random.normals(heads.out_size());
    const auto loss = [&](const Doubles& a) { return dot(attention_forward(heads, a).out, dout); };
    CHECK(relative_error(attention_backward(heads, qkv, dout), finite_differences(loss, qkv)) < kDifferences);
  }
}

TEST_CASE("Sink scores of any number of keys, up to all of them") {
  const auto ops = make_cpu_ops(2);
  Random random(43);
  for (const Heads& heads : {Heads{2, 5, 2, 1, 4}, Heads{1, 150, 2, 2, 8}}) {
    const Doubles qkv = random.normals(heads.size());
    const AttentionOut reference = attention_forward(heads, qkv);
    for (const std::int64_t watched : {std::int64_t{0}, std::int64_t{1}, std::int64_t{3}, heads.length}) {
      Run run(heads, watched, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0));
      forward(*ops, heads, run, true);
      INFO("K " << watched);
      CHECK(relative_error(run.sink, sink_scores(heads, reference.weights, watched)) < 4 * kSingle);
    }
  }
}

TEST_CASE("An isolated query attends to itself alone, and everything else stays") {
  const auto ops = make_cpu_ops(2);
  Random random(45);
  for (const Heads& heads : kShapes)
    for (const std::int64_t position : {std::int64_t{0}, heads.length / 2, heads.length - 1})
      for (const std::int64_t watched : {std::int64_t{0}, std::min<std::int64_t>(8, heads.length), heads.length}) {
        INFO("T " << heads.length << ", H " << heads.query_heads << ", G " << heads.kv_heads << ", D " << heads.head_dim
                  << ", position " << position << ", K " << watched);
        const Doubles qkv = random.normals(heads.size(), 2.0);
        Run run(heads, watched, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0));
        const bool with_sink = watched > 0;
        forward(*ops, heads, run, with_sink);
        ops->isolate_query({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                            .kv_heads = static_cast<int>(heads.kv_heads), .position = position, .out = run.out,
                            .lse = run.lse, .sink = with_sink ? run.sink.view() : Tensor{}});
        const AttentionOut reference = attention_forward(heads, qkv, position);
        CHECK(relative_error(run.out, reference.out) < 4 * kSingle);
        CHECK(relative_error(run.lse, reference.lse) < 2 * kSingle);
        CHECK(relative_error(run.sink, sink_scores(heads, reference.weights, watched)) < 4 * kSingle);
      }
}

TEST_CASE("Attention is causal: later tokens change nothing before them") {
  const auto ops = make_cpu_ops(1);
  Random random(44);
  const Heads heads{1, 150, 2, 1, 16};
  Doubles qkv = random.normals(heads.size());
  const Doubles dout(static_cast<std::size_t>(heads.out_size()), 0.0);
  Run before(heads, 1, qkv, dout);
  forward(*ops, heads, before, false);
  for (std::int64_t i = heads.at(0, 100, 0); i < heads.size(); ++i) qkv[static_cast<std::size_t>(i)] += 1.0;
  Run after(heads, 1, qkv, dout);
  forward(*ops, heads, after, false);
  const std::int64_t unchanged = 100 * heads.query_heads * heads.head_dim;
  for (std::int64_t i = 0; i < unchanged; ++i) REQUIRE(before.out[i] == after.out[i]);
  CHECK(before.out[unchanged] != after.out[unchanged]);
}

TEST_CASE("Scores far apart neither overflow nor lose the largest") {
  const auto ops = make_cpu_ops(1);
  Random random(45);
  const Heads heads{1, 140, 1, 1, 16};
  const Doubles qkv = random.normals(heads.size(), 30.0);  // scores of some thousands
  const Doubles dout = random.normals(heads.out_size());
  Run run(heads, 4, qkv, dout);
  forward(*ops, heads, run, true);
  const AttentionOut reference = attention_forward(heads, qkv);
  CHECK(relative_error(run.out, reference.out) < 1e-3);  // a score's own rounding is 1e-4
  CHECK(relative_error(run.lse, reference.lse) < kSingle);
  backward(*ops, heads, run);
  for (std::int64_t i = 0; i < run.dqkv.size(); ++i) REQUIRE(std::isfinite(run.dqkv[i]));
}

TEST_CASE("A NaN among the inputs is never hidden") {
  const auto ops = make_cpu_ops(1);
  Random random(46);
  const Heads heads{1, 20, 1, 1, 8};
  Doubles qkv = random.normals(heads.size());
  qkv[static_cast<std::size_t>(heads.at(0, 3, 1))] = std::numeric_limits<double>::quiet_NaN();  // a key
  Run run(heads, 1, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0));
  forward(*ops, heads, run, false);
  CHECK(std::isfinite(run.out[0]));
  CHECK(std::isnan(run.out[10 * heads.head_dim]));
  CHECK(std::isnan(run.lse[10]));
}

TEST_CASE("Attention statistics follow their definitions and invariants") {
  const auto ops = make_cpu_ops(2);
  Random random(47);
  for (const Heads& heads : kShapes) {
    if (heads.length < 2) continue;
    INFO("B " << heads.sequences << ", T " << heads.length << ", H " << heads.query_heads << ", D " << heads.head_dim);
    const Doubles qkv = random.normals(heads.size());
    const std::int64_t b = heads.sequences, h = heads.query_heads, t = heads.length;
    const std::int64_t watched = std::min<std::int64_t>(8, t);
    Run run(heads, watched, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0));
    forward(*ops, heads, run, true);
    Floats sink({b, h, watched}), first_mass({b, h}), first_argmax({b, h}), entropy({b, h}), key_mass({b, h, t}),
        cos_first({b, h}), cos_rest({b, h});
    ops->attention_statistics({.qkv = run.qkv, .query_heads = static_cast<int>(h),
                               .kv_heads = static_cast<int>(heads.kv_heads), .lse = run.lse, .sink = sink,
                               .first_mass = first_mass, .first_argmax = first_argmax, .entropy = entropy,
                               .key_mass = key_mass, .cos_first = cos_first, .cos_rest = cos_rest});
    const AttentionOut reference = attention_forward(heads, qkv);
    const AttentionSummary summary = attention_statistics(heads, qkv, reference.weights);
    CHECK(relative_error(sink, sink_scores(heads, reference.weights, watched)) < 4 * kSingle);
    CHECK(relative_error(sink, run.sink.doubles()) < 4 * kSingle);
    CHECK(relative_error(first_mass, summary.first_mass) < 4 * kSingle);
    CHECK(relative_error(first_argmax, summary.first_argmax) < kSingle);
    CHECK(relative_error(entropy, summary.entropy) < 10 * kSingle);
    CHECK(relative_error(key_mass, summary.key_mass) < 4 * kSingle);
    CHECK(relative_error(cos_first, summary.cos_first) < 20 * kSingle);
    CHECK(relative_error(cos_rest, summary.cos_rest) < 20 * kSingle);
    for (std::int64_t i = 0; i < b * h; ++i) {
      double total = 0;
      for (std::int64_t k = 0; k < t; ++k) total += static_cast<double>(key_mass[i * t + k]);
      CHECK(total == Approx(static_cast<double>(t)).epsilon(1e-5));  // every query's weights sum to 1
      CHECK(static_cast<double>(sink[i * watched]) >= (1.0 - 1e-6) / static_cast<double>(t));  // A[0,0] = 1
      CHECK(entropy[i] >= 0.0F);
      CHECK(static_cast<double>(entropy[i]) <= std::log(static_cast<double>(t)));
      CHECK(std::fabs(cos_first[i]) <= 1.00001F);
    }
  }
}

TEST_CASE("Equal keys give uniform attention, whose statistics are known") {
  const auto ops = make_cpu_ops(1);
  const Heads heads{1, 64, 1, 1, 4};
  const Doubles qkv(static_cast<std::size_t>(heads.size()), 1.0);
  Run run(heads, 1, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0));
  forward(*ops, heads, run, true);
  double uniform = 0;
  for (int t = 0; t < 64; ++t) uniform += 1.0 / (t + 1) / 64;
  CHECK(uniform == Approx(0.0741).margin(5e-5));  // u_0 of METRICS.md at T = 64
  CHECK(static_cast<double>(run.sink[0]) == Approx(uniform).epsilon(1e-5));
  Floats sink({1, 1, 1}), mass({1, 1}), argmax({1, 1}), entropy({1, 1}), key_mass({1, 1, 64}), first({1, 1}),
      rest({1, 1});
  ops->attention_statistics({.qkv = run.qkv, .query_heads = 1, .kv_heads = 1, .lse = run.lse, .sink = sink,
                             .first_mass = mass, .first_argmax = argmax, .entropy = entropy, .key_mass = key_mass,
                             .cos_first = first, .cos_rest = rest});
  CHECK(argmax[0] == 1.0F);  // a tie counts for position 0
  CHECK(first[0] == Approx(1.0));
  CHECK(rest[0] == Approx(1.0));
}

TEST_CASE("Attention needs no memory that grows with the square of the length") {
  const auto ops = make_cpu_ops(2);
  Random random(48);
  const Heads heads{1, 8192, 1, 1, 4};  // T x T floats are 256 MiB
  Run run(heads, 8, random.normals(heads.size()), random.normals(heads.out_size()));
  const auto peak = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;  // KiB
  };
  const long before = peak();
  forward(*ops, heads, run, true);
  backward(*ops, heads, run);
  CHECK(peak() - before < 32 * 1024);
  CHECK(static_cast<double>(run.out[0]) == Approx(static_cast<double>(run.qkv[heads.at(0, 0, 2)])));
  for (std::int64_t i = 0; i < run.dqkv.size(); ++i) REQUIRE(std::isfinite(run.dqkv[i]));
}
