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
  Floats qkv, out, lse, sink, dout, dqkv, sink_logits, dsink_logits;
  bool with_logits;
  Run(const Heads& heads, std::int64_t watched, const Doubles& values, const Doubles& gradient,
      const Doubles& logits = {})
      : qkv({heads.sequences, heads.length, heads.row_heads(), heads.head_dim}, values),
        out({heads.sequences, heads.length, heads.query_heads, heads.head_dim}),
        lse({heads.sequences, heads.query_heads, heads.length}),
        sink({heads.sequences, heads.query_heads, watched}),
        dout({heads.sequences, heads.length, heads.query_heads, heads.head_dim}, gradient),
        dqkv({heads.sequences, heads.length, heads.row_heads(), heads.head_dim}),
        sink_logits({heads.query_heads}),
        dsink_logits({heads.query_heads}),
        with_logits(!logits.empty()) {
    if (!with_logits) return;
    sink_logits.set(logits);
    dsink_logits.fill(0.0F);
  }
  Tensor logits() const { return with_logits ? sink_logits.view() : Tensor{}; }
};

void forward(Ops& ops, const Heads& heads, const Run& run, bool with_sink) {
  ops.attention_forward({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                         .kv_heads = static_cast<int>(heads.kv_heads), .out = run.out, .lse = run.lse,
                         .sink = with_sink ? run.sink.view() : Tensor{}, .sink_logits = run.logits()});
}

void backward(Ops& ops, const Heads& heads, const Run& run) {
  ops.attention_backward({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                          .kv_heads = static_cast<int>(heads.kv_heads), .out = run.out, .dout = run.dout,
                          .lse = run.lse, .dqkv = run.dqkv, .sink_logits = run.logits(),
                          .dsink_logits = run.with_logits ? run.dsink_logits.view() : Tensor{}});
}

}  // namespace

TEST_CASE("Attention forward and backward follow their formulas over odd shapes") {
  const auto ops = make_cpu_ops(2);
  Random random(41);
  for (const Heads& heads : kShapes)
    for (const auto& [spread, with_logits] : {std::pair{1.0, false}, {4.0, false}, {1.0, true}, {4.0, true}}) {
      INFO("B " << heads.sequences << ", T " << heads.length << ", H " << heads.query_heads << ", G " << heads.kv_heads
                << ", D " << heads.head_dim << ", spread " << spread << (with_logits ? ", sink logits" : ""));
      const Doubles qkv = random.normals(heads.size(), spread);
      const Doubles dout = random.normals(heads.out_size());
      const Doubles logits = random.normals(with_logits ? heads.query_heads : 0, 2 * spread);
      const Doubles before = random.normals(heads.query_heads);
      const std::int64_t watched = std::min<std::int64_t>(8, heads.length);
      Run run(heads, watched, qkv, dout, logits);
      forward(*ops, heads, run, true);
      const AttentionOut reference = attention_forward(heads, qkv, -1, logits);
      CHECK(relative_error(run.out, reference.out) < 4 * kSingle);
      CHECK(relative_error(run.lse, reference.lse) < kSingle);
      CHECK(relative_error(run.sink, sink_scores(heads, reference.weights, watched)) < 4 * kSingle);
      run.dsink_logits.set(before);
      backward(*ops, heads, run);
      const AttentionGradients gradients = attention_backward(heads, qkv, dout, logits);
      CHECK(relative_error(run.dqkv, gradients.dqkv) < 10 * kSingle);
      if (with_logits) CHECK(relative_error(run.dsink_logits, plus(before, gradients.dsink_logits)) < 4 * kSingle);

      // The sink scores are a by-product: nothing else changes by a bit without them.
      Run plain(heads, watched, qkv, dout, logits);
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
    CHECK(relative_error(attention_backward(heads, qkv, dout).dqkv, finite_differences(loss, qkv)) < kDifferences);

    const Doubles logits = random.normals(heads.query_heads);
    const auto with_logits = [&](const Doubles& a, const Doubles& z) {
      return dot(attention_forward(heads, a, -1, z).out, dout);
    };
    const AttentionGradients gradients = attention_backward(heads, qkv, dout, logits);
    CHECK(relative_error(gradients.dqkv, finite_differences([&](const Doubles& a) { return with_logits(a, logits); },
                                                            qkv)) < kDifferences);
    CHECK(relative_error(gradients.dsink_logits,
                         finite_differences([&](const Doubles& z) { return with_logits(qkv, z); }, logits)) <
          kDifferences);
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
        const Doubles logits = random.normals(random.below(2) == 0 ? heads.query_heads : 0, 3.0);
        INFO("T " << heads.length << ", H " << heads.query_heads << ", G " << heads.kv_heads << ", D " << heads.head_dim
                  << ", position " << position << ", K " << watched << (logits.empty() ? "" : ", sink logits"));
        const Doubles qkv = random.normals(heads.size(), 2.0);
        Run run(heads, watched, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0), logits);
        const bool with_sink = watched > 0;
        forward(*ops, heads, run, with_sink);
        ops->isolate_query({.qkv = run.qkv, .query_heads = static_cast<int>(heads.query_heads),
                            .kv_heads = static_cast<int>(heads.kv_heads), .position = position, .out = run.out,
                            .lse = run.lse, .sink = with_sink ? run.sink.view() : Tensor{},
                            .sink_logits = run.logits()});
        const AttentionOut reference = attention_forward(heads, qkv, position, logits);
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
  for (const Heads& heads : kShapes)
    for (const bool with_logits : {false, true}) {
      if (heads.length < 2) continue;
      INFO("B " << heads.sequences << ", T " << heads.length << ", H " << heads.query_heads << ", D " << heads.head_dim
                << (with_logits ? ", sink logits" : ""));
      const Doubles logits = random.normals(with_logits ? heads.query_heads : 0);
      const Doubles qkv = random.normals(heads.size());
      const std::int64_t b = heads.sequences, h = heads.query_heads, t = heads.length;
      const std::int64_t watched = std::min<std::int64_t>(8, t);
      Run run(heads, watched, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0), logits);
      forward(*ops, heads, run, true);
      Floats sink({b, h, watched}), first_mass({b, h}), first_argmax({b, h}), entropy({b, h}), key_mass({b, h, t}),
          cos_first({b, h}), cos_rest({b, h}), logit_mass({b, h});
      ops->attention_statistics({.qkv = run.qkv, .query_heads = static_cast<int>(h),
                                 .kv_heads = static_cast<int>(heads.kv_heads), .lse = run.lse, .sink = sink,
                                 .first_mass = first_mass, .first_argmax = first_argmax, .entropy = entropy,
                                 .key_mass = key_mass, .cos_first = cos_first, .cos_rest = cos_rest,
                                 .sink_logits = run.logits(),
                                 .sink_logit_mass = with_logits ? logit_mass.view() : Tensor{}});
      const AttentionOut reference = attention_forward(heads, qkv, -1, logits);
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
        // Every query's weights sum to 1, the one on the sink logit included.
        const double on_logit = with_logits ? static_cast<double>(logit_mass[i]) : 0.0;
        CHECK(on_logit < 1.0);
        CHECK((on_logit > 0.0) == with_logits);
        CHECK(total == Approx(static_cast<double>(t) * (1.0 - on_logit)).epsilon(1e-5));
        // A[0,0] is 1.
        if (!with_logits) CHECK(static_cast<double>(sink[i * watched]) >= (1.0 - 1e-6) / static_cast<double>(t));
        CHECK(entropy[i] >= 0.0F);
        CHECK(static_cast<double>(entropy[i]) <= std::log(static_cast<double>(t)));
        CHECK(std::fabs(cos_first[i]) <= 1.00001F);
      }
    }
}

TEST_CASE("Attention off by one is exp(s) over 1 plus the sum, by itself where scores are equal") {
  const auto ops = make_cpu_ops(2);
  const Heads heads{2, 70, 2, 1, 4};
  Random random(51);
  Doubles qkv = random.normals(heads.size());
  for (std::int64_t b = 0; b < heads.sequences; ++b)  // queries are zero, and so are all scores
    for (std::int64_t t = 0; t < heads.length; ++t)
      std::fill_n(qkv.begin() + heads.at(b, t, 0), heads.query_heads * heads.head_dim, 0.0);
  Run run(heads, 3, qkv, Doubles(static_cast<std::size_t>(heads.out_size()), 0.0), Doubles(2, 0.0));
  forward(*ops, heads, run, true);
  for (std::int64_t b = 0; b < heads.sequences; ++b)
    for (std::int64_t h = 0; h < heads.query_heads; ++h) {
      Doubles sum(4, 0.0);
      for (std::int64_t t = 0; t < heads.length; ++t)
        for (std::int64_t d = 0; d < heads.head_dim; ++d) {
          sum[static_cast<std::size_t>(d)] += qkv[static_cast<std::size_t>(heads.at(b, t, 3) + d)];
          // There are t + 1 keys, and the 1.
          const double expected = sum[static_cast<std::size_t>(d)] / static_cast<double>(t + 2);
          CHECK(static_cast<double>(run.out[((b * heads.length + t) * heads.query_heads + h) * heads.head_dim + d]) ==
                Approx(expected).margin(1e-6));
          CHECK(static_cast<double>(run.lse[(b * heads.query_heads + h) * heads.length + t]) ==
                Approx(std::log(static_cast<double>(t + 2))));
        }
      double score = 0;
      for (std::int64_t t = 0; t < heads.length; ++t) score += 1.0 / static_cast<double>(t + 2) / 70;
      CHECK(static_cast<double>(run.sink[(b * heads.query_heads + h) * 3]) == Approx(score).epsilon(1e-5));
    }
}

TEST_CASE("A sink logit far below every score changes no bit, and one far above takes all attention") {
  const auto ops = make_cpu_ops(2);
  Random random(52);
  for (const Heads& heads : {Heads{1, 1, 1, 1, 3}, Heads{2, 65, 6, 3, 33}, Heads{1, 200, 4, 1, 20}}) {
    INFO("T " << heads.length << ", H " << heads.query_heads);
    const Doubles qkv = random.normals(heads.size(), 2.0), dout = random.normals(heads.out_size());
    const std::int64_t watched = std::min<std::int64_t>(8, heads.length);
    Run plain(heads, watched, qkv, dout);
    forward(*ops, heads, plain, true);
    backward(*ops, heads, plain);
    const auto with_logit = [&](double logit) {
      Run run(heads, watched, qkv, dout, Doubles(static_cast<std::size_t>(heads.query_heads), logit));
      forward(*ops, heads, run, true);
      backward(*ops, heads, run);
      return run;
    };
    for (const double logit : {-200.0, -1e30, -std::numeric_limits<double>::infinity()}) {
      INFO("logit " << logit);
      const Run run = with_logit(logit);
      CHECK(run.out.same_bits(plain.out));
      CHECK(run.lse.same_bits(plain.lse));
      CHECK(run.sink.same_bits(plain.sink));
      CHECK(run.dqkv.same_bits(plain.dqkv));
      for (std::int64_t h = 0; h < heads.query_heads; ++h) CHECK(run.dsink_logits[h] == 0.0F);
    }
    for (const double logit : {200.0, 1e30}) {
      INFO("logit " << logit);
      const Run run = with_logit(logit);
      for (const Floats* zero : {&run.out, &run.sink, &run.dqkv, &run.dsink_logits})
        for (std::int64_t i = 0; i < zero->size(); ++i) REQUIRE((*zero)[i] == 0.0F);
      for (std::int64_t i = 0; i < run.lse.size(); ++i) REQUIRE(run.lse[i] == static_cast<float>(logit));
    }
    // In between nothing is lost: what is left of a weight keeps its precision.
    for (const double logit : {-30.0, 40.0}) {
      INFO("logit " << logit);
      const Run run = with_logit(logit);
      const Doubles logits(static_cast<std::size_t>(heads.query_heads), logit);
      const AttentionOut reference = attention_forward(heads, qkv, -1, logits);
      const AttentionGradients gradients = attention_backward(heads, qkv, dout, logits);
      CHECK(relative_error(run.out, reference.out) < 20 * kSingle);
      CHECK(relative_error(run.dqkv, gradients.dqkv) < 20 * kSingle);
      CHECK(relative_error(run.dsink_logits, gradients.dsink_logits) < 20 * kSingle);
    }
    // NaN is never hidden.
    const Run run = with_logit(std::numeric_limits<double>::quiet_NaN());
    for (std::int64_t i = 0; i < run.out.size(); ++i) REQUIRE(std::isnan(run.out[i]));
  }
}

TEST_CASE("The gradient of the sink logits is optional, and nothing else depends on it") {
  const auto ops = make_cpu_ops(2);
  Random random(53);
  const Heads heads{2, 65, 6, 3, 33};
  Run run(heads, 1, random.normals(heads.size()), random.normals(heads.out_size()), random.normals(6));
  forward(*ops, heads, run, false);
  backward(*ops, heads, run);
  Floats dqkv({2, 65, 12, 33});
  AttentionBackward args{.qkv = run.qkv, .query_heads = 6, .kv_heads = 3, .out = run.out, .dout = run.dout,
                         .lse = run.lse, .dqkv = dqkv, .sink_logits = run.sink_logits};
  ops->attention_backward(args);
  CHECK(dqkv.same_bits(run.dqkv));
  // Nor does anything on that of a bias, which is added to.
  const Doubles before = random.normals(12 * 33);
  const Floats sums({12 * 33}, before);
  args.dqkv_sums = sums;
  dqkv.spoil();
  ops->attention_backward(args);
  CHECK(dqkv.same_bits(run.dqkv));
  Doubles expected = before;
  for (std::int64_t i = 0; i < dqkv.size(); ++i) expected[static_cast<std::size_t>(i % (12 * 33))] += dqkv[i];
  CHECK(relative_error(sums, expected) < kSingle);
  args.sink_logits = Tensor{};
  args.dsink_logits = run.dsink_logits;
  CHECK(message_of<std::invalid_argument>([&] { ops->attention_backward(args); }) ==
        "attention_backward: dsink_logits is given without sink_logits");
}

TEST_CASE("The gradient of queries and keys that were rotated is rotated back, and summed after it") {
  const auto ops = make_cpu_ops(2);
  Random random(54);
  const std::int64_t D = 34;
  const Heads heads{2, 37, 6, 3, D};
  Run run(heads, 1, random.normals(heads.size()), random.normals(heads.out_size()));
  forward(*ops, heads, run, false);
  for (const std::int64_t width : {std::int64_t{0}, std::int64_t{12}, D})
    for (const std::int64_t first_index : {0, 5}) {
      INFO("width " << width << ", position 0 as " << first_index);
      Floats apart({2, 37, 12, D}), dqkv({2, 37, 12, D});
      AttentionBackward args{.qkv = run.qkv, .query_heads = 6, .kv_heads = 3, .out = run.out, .dout = run.dout,
                             .lse = run.lse, .dqkv = apart};
      ops->attention_backward(args);
      ops->rope(
          {.qkv = apart, .heads = 9, .width = width, .theta = 500.0, .inverse = true, .first_index = first_index});
      const Doubles before = random.normals(12 * D);
      const Floats sums({12 * D}, before);
      args.dqkv = dqkv;
      args.dqkv_sums = sums;
      args.rotation = Rotation{.width = width, .theta = 500.0, .first_index = first_index};
      ops->attention_backward(args);
      CHECK(dqkv.same_bits(apart));
      Doubles expected = before;
      for (std::int64_t i = 0; i < apart.size(); ++i) expected[static_cast<std::size_t>(i % (12 * D))] += apart[i];
      CHECK(relative_error(sums, expected) < kSingle);
    }
  Floats dqkv({2, 37, 12, D});
  CHECK(message_of<std::invalid_argument>([&] {
          ops->attention_backward({.qkv = run.qkv, .query_heads = 6, .kv_heads = 3, .out = run.out, .dout = run.dout,
                                   .lse = run.lse, .dqkv = dqkv, .rotation = Rotation{.width = 7}});
        }) == "attention_backward: width is 7, expected an even number from 2 to the head dimension 34");
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
