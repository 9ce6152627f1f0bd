// Activations, addition, rotary embedding and cross-entropy.
#include "tests/catch.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct PointwiseExtents {
  std::int64_t rows, columns;
};
constexpr PointwiseExtents kExtents[] = {{1, 1}, {3, 7}, {5, 130}, {257, 65}};

}  // namespace

TEST_CASE("GELU of both forms and its gradient follow the formula, far from zero too") {
  const auto kind = GENERATE(GeluKind::tanh, GeluKind::erf);
  INFO((kind == GeluKind::erf ? "erf" : "tanh"));
  const auto ops = make_cpu_ops(2);
  Random random(31);
  for (const auto [n, f] : kExtents) {
    const Doubles x = random.normals(n * f, 3.0);
    const Doubles dout = random.normals(n * f);
    const Floats stored({n, f}, x);
    Floats out({n, f}), gradient({n, f}, dout), dx({n, f});
    ops->gelu_forward({.kind = kind, .x = stored, .out = out});
    CHECK(relative_error(out, gelu_forward(kind, x)) < kSingle);
    ops->gelu_backward({.kind = kind, .x = stored, .dout = gradient, .dx = dx});
    CHECK(relative_error(dx, gelu_backward(kind, x, dout)) < kSingle);
    const Doubles sums0 = random.normals(f);
    Floats sums({f}, sums0);
    // dx may alias dout.
    ops->gelu_backward({.kind = kind, .x = stored, .dout = gradient, .dx = gradient, .dx_sums = sums});
    CHECK(gradient.same_bits(dx));
    Doubles summed = sums0;
    const Doubles derivative = gelu_backward(kind, x, dout);
    for (std::int64_t at = 0; at < n * f; ++at)
      summed[static_cast<std::size_t>(at % f)] += derivative[static_cast<std::size_t>(at)];
    CHECK(relative_error(sums, summed) < kSingle);
  }
  const Doubles far = {-1e4, -50, -20, -13.3, -10, -8, -5, -3, -1, -1e-20, 0, 1e-20, 1, 3, 5, 10, 50, 1e4};
  const auto count = static_cast<std::int64_t>(far.size());
  const Floats stored({1, count}, far);
  Floats out({1, count}), ones({1, count}), dx({1, count});
  ones.fill(1.0F);
  ops->gelu_forward({.kind = kind, .x = stored, .out = out});
  ops->gelu_backward({.kind = kind, .x = stored, .dout = ones, .dx = dx});
  const Doubles reference = gelu_forward(kind, stored.doubles());
  const Doubles slope = gelu_backward(kind, stored.doubles(), ones.doubles());
  for (std::int64_t i = 0; i < count; ++i) {
    INFO("x = " << stored[i]);
    const auto place = static_cast<std::size_t>(i);
    // The reference's own tanh form cancels far on the left; that of the erf form does not.
    const double margin = kind == GeluKind::erf ? 1e-36 : 1e-12;
    const double epsilon = kind == GeluKind::erf ? 1e-5 : 1e-4;
    CHECK(static_cast<double>(out[i]) == Approx(reference[place]).epsilon(epsilon).margin(margin));
    CHECK(static_cast<double>(dx[i]) == Approx(slope[place]).epsilon(epsilon).margin(margin));
  }
  Floats spoiled({1, 1}, {0.0}), result({1, 1}, {0.0});
  spoiled.spoil();
  ops->gelu_forward({.kind = kind, .x = spoiled, .out = result});
  CHECK(std::isnan(result[0]));  // a NaN is never hidden
}

TEST_CASE("SwiGLU and its gradient follow the formula") {
  const auto ops = make_cpu_ops(2);
  Random random(32);
  for (const auto [n, f] : kExtents) {
    const Doubles gate_up = random.normals(n * 2 * f, 3.0);
    const Doubles dout = random.normals(n * f);
    const Floats stored({n, 2 * f}, gate_up), gradient({n, f}, dout);
    Floats out({n, f}), dgate_up({n, 2 * f});
    ops->swiglu_forward({.gate_up = stored, .out = out});
    CHECK(relative_error(out, swiglu_forward(gate_up, f)) < kSingle);
    ops->swiglu_backward({.gate_up = stored, .dout = gradient, .dgate_up = dgate_up});
    CHECK(relative_error(dgate_up, swiglu_backward(gate_up, dout, f)) < kSingle);
  }
  const Floats far({1, 8}, {-1e4, -100, 100, 1e4, 1, 1, 1, 1});
  Floats out({1, 4});
  ops->swiglu_forward({.gate_up = far, .out = out});
  CHECK(out[0] == 0.0F);
  CHECK(out[1] == Approx(0.0).margin(1e-30));
  CHECK(out[2] == 100.0F);
  CHECK(out[3] == 1e4F);
}

TEST_CASE("The reference gradients of the activations agree with finite differences") {
  Random random(33);
  const std::int64_t n = 3, f = 5;
  const Doubles x = random.normals(n * f, 2.0);
  const Doubles gate_up = random.normals(n * 2 * f, 2.0);
  const Doubles dout = random.normals(n * f);
  for (const GeluKind kind : {GeluKind::tanh, GeluKind::erf})
    CHECK(relative_error(gelu_backward(kind, x, dout), finite_differences([&](const Doubles& a) {
                                                          return dot(gelu_forward(kind, a), dout);
                                                        }, x)) < kDifferences);
  CHECK(relative_error(swiglu_backward(gate_up, dout, f), finite_differences([&](const Doubles& a) {
                                                             return dot(swiglu_forward(a, f), dout);
                                                           }, gate_up)) < kDifferences);
}

TEST_CASE("add sums, into either operand too") {
  const auto ops = make_cpu_ops(2);
  Random random(34);
  for (const auto [n, c] : kExtents) {
    Floats a({n, c}, random.normals(n * c)), b({n, c}, random.normals(n * c)), out({n, c});
    const Doubles reference = plus(a.doubles(), b.doubles());
    ops->add(out, a, b);
    CHECK(relative_error(out, reference) < kSingle);
    const Floats saved({n, c}, a.doubles());
    ops->add(a, a, b);
    CHECK(a.same_bits(out));
    ops->add(b, saved, b);
    CHECK(b.same_bits(out));
  }
}

TEST_CASE("Rotary embedding turns the first channels of the first heads, and its inverse is its gradient") {
  const auto ops = make_cpu_ops(2);
  Random random(35);
  struct Case {
    Heads heads;
    std::int64_t width;
  };
  // Lengths both rising and falling: the table of angles is kept between calls. Width 0 is the whole head.
  for (const auto& [heads, width] :
       {Case{{1, 1, 1, 1, 2}, 0}, {{2, 37, 3, 1, 6}, 0}, {{2, 37, 3, 1, 6}, 2}, {{2, 21, 3, 1, 7}, 4},
        {{1, 300, 2, 2, 64}, 0}, {{1, 300, 2, 2, 64}, 16}, {{3, 9, 4, 2, 64}, 64}, {{3, 9, 4, 2, 64}, 48}})
    for (const double theta : {1e4, 5e5}) {
      INFO("T " << heads.length << ", D " << heads.head_dim << ", R " << width << ", theta " << theta);
      const auto extents = {heads.sequences, heads.length, heads.row_heads(), heads.head_dim};
      const Doubles in = random.normals(heads.size());
      const auto rotated = static_cast<int>(heads.normed_heads());
      const std::int64_t channels = width == 0 ? heads.head_dim : width;
      Floats qkv(extents, in);
      ops->rope({.qkv = qkv, .heads = rotated, .width = width, .theta = theta, .inverse = false});
      CHECK(relative_error(qkv, rope(heads, in, rotated, channels, theta, false)) < kSingle);
      for (std::int64_t h = 0; h < heads.row_heads(); ++h)  // values and the channels beyond the width stay
        for (std::int64_t d = h < rotated ? channels : 0; d < heads.head_dim; ++d) {
          const std::int64_t place = heads.at(0, heads.length - 1, h) + d;
          CHECK(static_cast<double>(qkv[place]) == in[static_cast<std::size_t>(place)]);
        }
      ops->rope({.qkv = qkv, .heads = rotated, .width = width, .theta = theta, .inverse = true});
      CHECK(relative_error(qkv, in) < kSingle);
      // The index of position 0 alone, also beyond the sequence.
      for (const std::int64_t first : {std::int64_t{1}, heads.length + 5}) {
        Floats shifted(extents, in);
        ops->rope({.qkv = shifted, .heads = rotated, .width = width, .theta = theta, .first_index = first});
        CHECK(relative_error(shifted, rope(heads, in, rotated, channels, theta, false, first)) < kSingle);
      }
    }
  const Heads heads{2, 4, 2, 1, 6};
  const Doubles in = random.normals(heads.size());
  const Doubles dout = random.normals(heads.size());
  for (const std::int64_t width : {6, 4})
    CHECK(relative_error(rope(heads, dout, 3, width, 1e4, true),
                         finite_differences(
                             [&](const Doubles& a) { return dot(rope(heads, a, 3, width, 1e4, false), dout); }, in)) <
          kDifferences);
}

TEST_CASE("Rotary embedding rejects widths that are odd or wider than the head") {
  const auto ops = make_cpu_ops(1);
  Floats qkv({1, 2, 3, 6}, Doubles(36, 1.0)), odd({1, 2, 3, 5}, Doubles(30, 1.0));
  const auto message = [&](const Floats& in, std::int64_t width) {
    return message_of<std::invalid_argument>(
        [&] { ops->rope({.qkv = in, .heads = 2, .width = width, .theta = 1e4, .inverse = false}); });
  };
  for (const std::int64_t width : {-2, 3, 8})
    CHECK(message(qkv, width) == "rope: width is " + std::to_string(width) +
                                     ", expected an even number from 2 to the head dimension 6");
  CHECK(message(odd, 0) == "rope: qkv is (1, 2, 3, 5) f32, expected an even head dimension");
  CHECK(message(odd, 4).empty());
}

TEST_CASE("Cross-entropy gives losses and overwrites the logits by their gradient") {
  const auto ops = make_cpu_ops(2);
  Random random(36);
  for (const auto [n, v] : {PointwiseExtents{1, 1}, {1, 7}, {13, 33}, {70, 1027}}) {
    INFO(n << " x " << v);
    const Doubles logits = random.normals(n * v, 4.0);
    Tokens targets = random.tokens(n, v);
    for (std::int64_t i = 0; i < n; i += 5)
      if (n > 1) targets[static_cast<std::size_t>(i)] = -1;
    const Indices ids = indices({n}, targets);
    Floats stored({n, v}, logits), losses({n});
    const double scale = 0.125;
    ops->cross_entropy({.logits = stored, .targets = ids, .losses = losses, .gradient = false, .scale = 1.0F});
    CHECK(relative_error(losses, cross_entropy_losses(logits, targets)) < kSingle);
    CHECK(relative_error(stored, logits) == 0.0);
    const Floats first({n}, losses.doubles());
    losses.spoil();
    ops->cross_entropy({.logits = stored, .targets = ids, .losses = losses, .gradient = true, .scale = 0.125F});
    CHECK(relative_error(losses, cross_entropy_losses(logits, targets)) < kSingle);
    CHECK(relative_error(stored, cross_entropy_gradient(logits, targets, scale)) < kSingle);
    CHECK(losses.same_bits(first));
    for (std::int64_t i = 0; i < n; ++i)
      if (targets[static_cast<std::size_t>(i)] == -1) {
        CHECK(losses[i] == 0.0F);
        for (std::int64_t j = 0; j < v; ++j) REQUIRE(stored[i * v + j] == 0.0F);
      }
  }
}

TEST_CASE("Cross-entropy is stable for logits of any size") {
  const auto ops = make_cpu_ops(1);
  Floats logits({2, 3}, {1e4, 0, -1e4, -3e4, -3e4, -3e4}), losses({2});
  const Indices ids = indices({2}, {1, 2});
  ops->cross_entropy({.logits = logits, .targets = ids, .losses = losses, .gradient = true, .scale = 1.0F});
  CHECK(losses[0] == 1e4F);
  CHECK(losses[1] == Approx(std::log(3.0)));
  CHECK(logits[0] == 1.0F);
  CHECK(logits[1] == -1.0F);
  CHECK(logits[2] == 0.0F);
  Floats spoiled({1, 3}, {0, 1, 2}), loss({1});
  spoiled[1] = Floats::poison();
  const Indices one = indices({1}, {0});
  ops->cross_entropy({.logits = spoiled, .targets = one, .losses = loss, .gradient = false, .scale = 1.0F});
  CHECK(std::isnan(loss[0]));  // a NaN is never hidden
}

TEST_CASE("The reference gradient of cross-entropy agrees with finite differences") {
  Random random(37);
  const Doubles logits = random.normals(4 * 5);
  const Tokens targets = {2, -1, 0, 4};
  const auto loss = [&](const Doubles& a) {
    double sum = 0;
    for (const double one : cross_entropy_losses(a, targets)) sum += 0.25 * one;
    return sum;
  };
  CHECK(relative_error(cross_entropy_gradient(logits, targets, 0.25), finite_differences(loss, logits)) < kDifferences);
}

TEST_CASE("A target outside the vocabulary is named") {
  const auto ops = make_cpu_ops(1);
  Floats logits({2, 3}, Doubles(6, 0.0)), losses({2});
  for (const std::int32_t bad : {3, -2}) {
    const Indices ids = indices({2}, {0, bad});
    CHECK(message_of<std::invalid_argument>([&] {
            ops->cross_entropy({.logits = logits, .targets = ids, .losses = losses, .gradient = false, .scale = 1.0F});
          }) ==
          "cross_entropy: targets holds " + std::to_string(bad) + " at index 1, expected -1 or a value in [0, V = 3)");
  }
}
