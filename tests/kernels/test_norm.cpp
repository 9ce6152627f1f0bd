#include "tests/catch.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct NormExtents {
  std::int64_t rows, channels;
};

}  // namespace

TEST_CASE("norm_forward and norm_backward follow their formulas") {
  const auto ops = make_cpu_ops(2);
  Random random(11);
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm})
    for (const auto [n, c] : {NormExtents{1, 1}, {1, 7}, {3, 16}, {37, 129}, {300, 64}})
      for (const bool with_delta : {false, true})
        for (const bool with_bias : {false, true}) {
          const bool layernorm = kind == NormKind::layernorm;
          if (!layernorm && with_bias) continue;
          INFO("layernorm " << layernorm << ", " << n << " x " << c << ", delta " << with_delta << ", bias "
                            << with_bias);
          const double eps = 1e-5;
          Doubles x = random.normals(n * c, 2.0);
          for (double& v : x) v = static_cast<double>(static_cast<float>(v + 0.5));
          const Doubles delta = random.normals(n * c);
          const Doubles weight = random.normals(c);
          const Doubles bias = with_bias ? random.normals(c) : Doubles{};
          Floats stored({n, c}, x);
          const Floats added({n, c}, delta);
          const Floats scale({c}, weight);
          Floats shift({c});
          if (with_bias) shift.set(bias);
          Floats sum({n, c}), out({n, c}), mean({n}), rstd({n}), l2({n});
          NormForward forward{.kind = kind, .x = stored, .delta = {}, .sum = {}, .weight = scale, .bias = {},
                              .eps = 1e-5F, .out = out, .mean = {}, .rstd = rstd, .l2 = {}};
          if (layernorm) forward.mean = mean;
          if (with_bias) forward.bias = shift;
          if (with_delta) {
            forward.delta = added;
            forward.sum = sum;
            forward.l2 = l2;
          }
          ops->norm_forward(forward);
          const Doubles summed = with_delta ? plus(x, delta) : x;
          const NormOut reference = norm_forward(kind, summed, weight, bias, eps);
          // With one channel LayerNorm's output is its bias: (x - mean) is 0.
          CHECK(relative_error(out, reference.out) < kSingle);
          CHECK(relative_error(rstd, reference.rstd) < kSingle);
          if (layernorm) CHECK(relative_error(mean, reference.mean) < kSingle);
          if (with_delta) {
            CHECK(relative_error(sum, summed) < kSingle);
            CHECK(relative_error(l2, reference.l2) < kSingle);
            // The sum may take the place of x.
            const Floats separate({n, c}, out.doubles());
            forward.sum = stored;
            out.spoil();
            ops->norm_forward(forward);
            CHECK(out.same_bits(separate));
            CHECK(stored.same_bits(sum));
          }

          const Doubles dout = random.normals(n * c);
          const NormGradients gradients = norm_backward(kind, summed, weight, dout, eps);
          const Doubles dx0 = random.normals(n * c);
          const Doubles dweight0 = random.normals(c);
          const Doubles dbias0 = random.normals(c), dx_sums0 = random.normals(c);
          const Floats row({n, c}, summed);
          const Floats gradient({n, c}, dout);
          Floats dx({n, c}, dx0), dweight({c}, dweight0), dbias({c}, dbias0), dx_sums({c}, dx_sums0);
          NormBackward backward{.kind = kind, .x = row, .dout = gradient, .weight = scale, .mean = {}, .rstd = rstd,
                                .dx = dx, .dweight = dweight, .dbias = {}};
          if (layernorm) backward.mean = mean;
          if (with_bias) backward.dbias = dbias;
          if (with_delta) backward.dx_sums = dx_sums;
          ops->norm_backward(backward);
          const double tolerance = layernorm && c == 1 ? 1e-4 : 4 * kSingle;
          CHECK(relative_error(dx, plus(dx0, gradients.dx)) < tolerance);
          CHECK(relative_error(dweight, plus(dweight0, gradients.dweight)) < 4 * kSingle);
          CHECK(relative_error(dbias, with_bias ? plus(dbias0, gradients.dbias) : dbias0) < 4 * kSingle);
          Doubles sums = dx_sums0;
          const Doubles stored_dx = dx.doubles();
          if (with_delta)
            for (std::int64_t i = 0; i < n * c; ++i)
              sums[static_cast<std::size_t>(i % c)] += stored_dx[static_cast<std::size_t>(i)];
          CHECK(relative_error(dx_sums, sums) < 4 * kSingle);
        }
}

TEST_CASE("The reference gradients of the norms agree with finite differences") {
  Random random(12);
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm})
    for (const auto [n, c] : {NormExtents{1, 3}, {4, 7}}) {
      const Doubles x = random.normals(n * c);
      const Doubles weight = random.normals(c);
      const Doubles bias = random.normals(c);
      const Doubles dout = random.normals(n * c);
      const auto loss = [&](const Doubles& a, const Doubles& b, const Doubles& d) {
        return dot(norm_forward(kind, a, b, d, 1e-3).out, dout);
      };
      const NormGradients gradients = norm_backward(kind, x, weight, dout, 1e-3);
      CHECK(relative_error(gradients.dx, finite_differences([&](const Doubles& a) { return loss(a, weight, bias); },
                                                            x)) < kDifferences);
      CHECK(relative_error(gradients.dweight,
                           finite_differences([&](const Doubles& b) { return loss(x, b, bias); }, weight)) <
            kDifferences);
      CHECK(relative_error(gradients.dbias,
                           finite_differences([&](const Doubles& d) { return loss(x, weight, d); }, bias)) <
            kDifferences);
    }
}

TEST_CASE("LayerNorm keeps its precision far from zero") {
  const auto ops = make_cpu_ops(1);
  Random random(13);
  Doubles x = random.normals(5 * 64);
  for (double& v : x) v = static_cast<double>(static_cast<float>(v + 1000.0));
  const Floats stored({5, 64}, x);
  Floats weight({64}), out({5, 64}), mean({5}), rstd({5});
  weight.fill(1.0F);
  ops->norm_forward({.kind = NormKind::layernorm, .x = stored, .delta = {}, .sum = {}, .weight = weight, .bias = {},
                     .eps = 1e-5F, .out = out, .mean = mean, .rstd = rstd, .l2 = {}});
  CHECK(relative_error(out, norm_forward(NormKind::layernorm, x, weight.doubles(), {}, 1e-5).out) < 2e-4);
}

TEST_CASE("QK-norm normalises query and key heads and leaves values") {
  const auto ops = make_cpu_ops(2);
  Random random(14);
  for (const Heads& heads : {Heads{1, 1, 1, 1, 1}, Heads{2, 5, 3, 1, 7}, Heads{2, 33, 4, 2, 64}}) {
    INFO("T " << heads.length << ", D " << heads.head_dim);
    const double eps = 1e-6;
    const Doubles in = random.normals(heads.size());
    const Doubles q_weight = random.normals(heads.head_dim);
    const Doubles k_weight = random.normals(heads.head_dim);
    const auto extents = {heads.sequences, heads.length, heads.row_heads(), heads.head_dim};
    const Floats stored(extents, in);
    const Floats q_scale({heads.head_dim}, q_weight);
    const Floats k_scale({heads.head_dim}, k_weight);
    Floats out(extents), rstd({heads.rows(), heads.normed_heads()});
    const auto queries = static_cast<int>(heads.query_heads);
    const auto keys = static_cast<int>(heads.kv_heads);
    ops->qk_norm_forward({.in = stored, .out = out, .query_heads = queries, .kv_heads = keys, .q_weight = q_scale,
                          .k_weight = k_scale, .eps = 1e-6F, .rstd = rstd});
    const QkNormOut reference = qk_norm_forward(heads, in, q_weight, k_weight, eps);
    CHECK(relative_error(out, reference.out) < kSingle);
    CHECK(relative_error(rstd, reference.rstd) < kSingle);
    for (std::int64_t n = 0; n < heads.rows(); ++n)
      for (std::int64_t i = heads.normed_heads() * heads.head_dim; i < heads.row_heads() * heads.head_dim; ++i)
        REQUIRE(out[n * heads.row_heads() * heads.head_dim + i] == stored[n * heads.row_heads() * heads.head_dim + i]);

    const Doubles dout = random.normals(heads.size());
    const Doubles dq0 = random.normals(heads.head_dim);
    const Doubles dk0 = random.normals(heads.head_dim);
    Floats dqkv(extents, dout), dq({heads.head_dim}, dq0), dk({heads.head_dim}, dk0);
    ops->qk_norm_backward({.in = stored, .dqkv = dqkv, .query_heads = queries, .kv_heads = keys,
                           .q_weight = q_scale, .k_weight = k_scale, .rstd = rstd, .dq_weight = dq, .dk_weight = dk});
    const QkNormGradients gradients = qk_norm_backward(heads, in, q_weight, k_weight, dout, eps);
    CHECK(relative_error(dqkv, gradients.din) < (heads.head_dim == 1 ? 1e-4 : 4 * kSingle));
    CHECK(relative_error(dq, plus(dq0, gradients.dq_weight)) < 4 * kSingle);
    CHECK(relative_error(dk, plus(dk0, gradients.dk_weight)) < 4 * kSingle);
  }
}

TEST_CASE("QK-norm rotates query and key heads after it, and their gradients back before it") {
  const auto ops = make_cpu_ops(2);
  Random random(16);
  struct Case {
    Heads heads;
    std::int64_t width, first_index;
  };
  // Width 0 is the whole head. Position 0 as itself, as another one and as one beyond the sequence.
  for (const auto& [heads, width, first] :
       {Case{{1, 1, 1, 1, 2}, 0, 0}, {{2, 5, 3, 1, 7}, 4, 3}, {{3, 9, 4, 2, 40}, 0, 12}, {{2, 21, 2, 1, 80}, 24, 0},
        {{2, 33, 4, 2, 64}, 0, 0}, {{2, 33, 4, 2, 64}, 16, 40}, {{1, 70, 2, 2, 128}, 2, 1}}) {
    INFO("T " << heads.length << ", D " << heads.head_dim << ", R " << width << ", first index " << first);
    const double eps = 1e-6, theta = 1e5;
    const std::int64_t D = heads.head_dim, channels = width == 0 ? D : width, normed = heads.normed_heads();
    const Rotation rotation{.width = width, .theta = theta, .first_index = first};
    const Doubles in = random.normals(heads.size()), q_weight = random.normals(D), k_weight = random.normals(D);
    const auto extents = {heads.sequences, heads.length, heads.row_heads(), D};
    const Floats stored(extents, in), q_scale({D}, q_weight), k_scale({D}, k_weight);
    Floats out(extents), rstd({heads.rows(), normed});
    const auto queries = static_cast<int>(heads.query_heads), keys = static_cast<int>(heads.kv_heads);
    ops->qk_norm_forward({.in = stored, .out = out, .query_heads = queries, .kv_heads = keys, .q_weight = q_scale,
                          .k_weight = k_scale, .eps = 1e-6F, .rstd = rstd, .rotation = rotation});
    const QkNormOut reference = qk_norm_forward(heads, in, q_weight, k_weight, eps);
    CHECK(relative_error(out, rope(heads, reference.out, normed, channels, theta, false, first)) < 2 * kSingle);
    CHECK(relative_error(rstd, reference.rstd) < kSingle);

    const Doubles dout = random.normals(heads.size()), dq0 = random.normals(D), dk0 = random.normals(D);
    Floats dqkv(extents, dout), dq({D}, dq0), dk({D}, dk0);
    ops->qk_norm_backward({.in = stored, .dqkv = dqkv, .query_heads = queries, .kv_heads = keys, .q_weight = q_scale,
                           .k_weight = k_scale, .rstd = rstd, .dq_weight = dq, .dk_weight = dk, .rotation = rotation});
    const QkNormGradients gradients = qk_norm_backward(
        heads, in, q_weight, k_weight, rope(heads, dout, normed, channels, theta, true, first), eps);
    CHECK(relative_error(dqkv, gradients.din) < 4 * kSingle);
    CHECK(relative_error(dq, plus(dq0, gradients.dq_weight)) < 4 * kSingle);
    CHECK(relative_error(dk, plus(dk0, gradients.dk_weight)) < 4 * kSingle);
    // Values and their gradients stay, bit for bit.
    const Floats given(extents, dout);
    std::int64_t changed = 0;
    for (std::int64_t n = 0; n < heads.rows(); ++n)
      for (std::int64_t i = (n * heads.row_heads() + normed) * D; i < (n + 1) * heads.row_heads() * D; ++i)
        changed += out[i] == stored[i] && dqkv[i] == given[i] ? 0 : 1;
    CHECK(changed == 0);
  }
}

TEST_CASE("The reference gradients of QK-norm and rotation agree with finite differences") {
  Random random(17);
  const Heads heads{2, 3, 2, 1, 6};
  const Doubles in = random.normals(heads.size()), dout = random.normals(heads.size());
  const Doubles q_weight = random.normals(heads.head_dim), k_weight = random.normals(heads.head_dim);
  for (const std::int64_t width : {6, 4}) {
    const auto loss = [&](const Doubles& a, const Doubles& q, const Doubles& k) {
      return dot(rope(heads, qk_norm_forward(heads, a, q, k, 1e-3).out, 3, width, 1e4, false, 2), dout);
    };
    const QkNormGradients gradients =
        qk_norm_backward(heads, in, q_weight, k_weight, rope(heads, dout, 3, width, 1e4, true, 2), 1e-3);
    CHECK(relative_error(gradients.din,
                         finite_differences([&](const Doubles& a) { return loss(a, q_weight, k_weight); }, in)) <
          kDifferences);
    CHECK(relative_error(gradients.dq_weight,
                         finite_differences([&](const Doubles& q) { return loss(in, q, k_weight); }, q_weight)) <
          kDifferences);
    CHECK(relative_error(gradients.dk_weight,
                         finite_differences([&](const Doubles& k) { return loss(in, q_weight, k); }, k_weight)) <
          kDifferences);
  }
}

TEST_CASE("The reference gradients of QK-norm agree with finite differences") {
  Random random(15);
  const Heads heads{2, 3, 2, 1, 5};
  const Doubles in = random.normals(heads.size());
  const Doubles q_weight = random.normals(heads.head_dim);
  const Doubles k_weight = random.normals(heads.head_dim);
  const Doubles dout = random.normals(heads.size());
  const auto loss = [&](const Doubles& a, const Doubles& q, const Doubles& k) {
    return dot(qk_norm_forward(heads, a, q, k, 1e-3).out, dout);
  };
  const QkNormGradients gradients = qk_norm_backward(heads, in, q_weight, k_weight, dout, 1e-3);
  CHECK(relative_error(gradients.din, finite_differences([&](const Doubles& a) { return loss(a, q_weight, k_weight); },
                                                         in)) < kDifferences);
  CHECK(relative_error(gradients.dq_weight,
                       finite_differences([&](const Doubles& q) { return loss(in, q, k_weight); }, q_weight)) <
        kDifferences);
  CHECK(relative_error(gradients.dk_weight,
                       finite_differences([&](const Doubles& k) { return loss(in, q_weight, k); }, k_weight)) <
        kDifferences);
}
