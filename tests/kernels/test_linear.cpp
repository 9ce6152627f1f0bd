#include "tests/catch.h"
#include "tests/kernels/reference_ops.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

struct LinearExtents {
  std::int64_t rows, inputs, outputs;
};

}  // namespace

TEST_CASE("linear_forward and linear_backward follow their formulas") {
  const auto ops = make_cpu_ops(2);
  Random random(21);
  for (const auto [n, i, o] : {LinearExtents{1, 1, 1}, {3, 7, 5}, {65, 17, 129}, {200, 64, 33}}) {
    INFO(n << " x " << i << " -> " << o);
    const Doubles x = random.normals(n * i);
    const Doubles weight = random.normals(o * i);
    const Doubles bias = random.normals(o);
    const Floats x_single({n, i}, x), weight_single({o, i}, weight), bias_single({o}, bias);
    Floats out({n, o});
    ops->linear_forward({.out = out, .x = x_single, .weight = weight_single, .bias = {}});
    CHECK(relative_error(out, linear_forward(x, weight, {}, i, o)) < kSingle);
    out.spoil();
    ops->linear_forward({.out = out, .x = x_single, .weight = weight_single, .bias = bias_single});
    CHECK(relative_error(out, linear_forward(x, weight, bias, i, o)) < kSingle);

    const Doubles dout = random.normals(n * o);
    const LinearGradients gradients = linear_backward(x, weight, dout, i, o);
    const Doubles dx0 = random.normals(n * i);
    const Doubles dweight0 = random.normals(o * i);
    const Doubles dbias0 = random.normals(o);
    const Floats dout_single({n, o}, dout);
    Floats dx({n, i}), dweight({o, i}, dweight0), dbias({o}, dbias0);
    LinearBackward args{.dout = dout_single, .x = x_single, .weight = weight_single, .dx = dx, .dweight = dweight,
                        .dbias = dbias, .accumulate = false};
    ops->linear_backward(args);
    CHECK(relative_error(dx, gradients.dx) < kSingle);
    CHECK(relative_error(dweight, plus(dweight0, gradients.dweight)) < kSingle);
    CHECK(relative_error(dbias, plus(dbias0, gradients.dbias)) < kSingle);

    // Each output alone, and dx accumulated into.
    dx.set(dx0);
    ops->linear_backward({.dout = dout_single, .x = {}, .weight = weight_single, .dx = dx, .dweight = {}, .dbias = {},
                          .accumulate = true});
    CHECK(relative_error(dx, plus(dx0, gradients.dx)) < kSingle);
    dweight.set(dweight0);
    ops->linear_backward({.dout = dout_single, .x = x_single, .weight = {}, .dx = {}, .dweight = dweight, .dbias = {},
                          .accumulate = false});
    CHECK(relative_error(dweight, plus(dweight0, gradients.dweight)) < kSingle);

    // In place of whatever it holds, and of no rows nothing.
    dweight.spoil();
    LinearBackward replacing{
        .dout = dout_single, .x = x_single, .weight = {}, .dx = {}, .dweight = dweight, .dbias = {}, .replace = true};
    ops->linear_backward(replacing);
    CHECK(relative_error(dweight, gradients.dweight) < kSingle);
    const Floats no_dout({0, o}), no_x({0, i});
    replacing.dout = no_dout;
    replacing.x = no_x;
    ops->linear_backward(replacing);
    CHECK(relative_error(dweight, Doubles(gradients.dweight.size())) == 0);
  }
}

TEST_CASE("GELU beside a linear map is the GELU of what it gives, and its gradient") {
  const auto kind = GENERATE(GeluKind::tanh, GeluKind::erf);
  const auto ops = make_cpu_ops(2);
  Random random(25);
  for (const auto [n, i, o] : {LinearExtents{1, 1, 1}, {3, 7, 5}, {65, 17, 129}}) {
    INFO(n << " x " << i << " -> " << o << (kind == GeluKind::erf ? ", erf" : ", tanh"));
    const Doubles x = random.normals(n * i), weight = random.normals(o * i), bias = random.normals(o);
    const Floats x_single({n, i}, x), weight_single({o, i}, weight), bias_single({o}, bias);
    Floats out({n, o}), gelu({n, o});
    ops->linear_forward(
        {.out = out, .x = x_single, .weight = weight_single, .bias = bias_single, .gelu = gelu, .gelu_kind = kind});
    const Doubles z = linear_forward(x, weight, bias, i, o);
    CHECK(relative_error(out, z) < kSingle);
    CHECK(relative_error(gelu, gelu_forward(kind, z)) < 2 * kSingle);
    ops->linear_forward(
        {.out = out, .x = x_single, .weight = weight_single, .bias = {}, .gelu = gelu, .gelu_kind = kind});
    CHECK(relative_error(gelu, gelu_forward(kind, linear_forward(x, weight, {}, i, o))) < 2 * kSingle);

    const Doubles dout = random.normals(n * o), inner = random.normals(n * i, 2.0);
    const Floats dout_single({n, o}, dout), inner_single({n, i}, inner);
    const Doubles sums0 = random.normals(i);
    Floats dz({n, i}), dz_sums({i}, sums0);
    LinearBackward args{.dout = dout_single, .x = {}, .weight = weight_single, .dx = dz, .dweight = {}, .dbias = {},
                        .gelu_input = inner_single, .gelu_kind = kind, .dx_sums = dz_sums};
    ops->linear_backward(args);
    const Doubles reference = gelu_backward(kind, inner, linear_backward(x, weight, dout, i, o).dx);
    CHECK(relative_error(dz, reference) < 2 * kSingle);
    Doubles sums = sums0;
    for (std::int64_t at = 0; at < n * i; ++at)
      sums[static_cast<std::size_t>(at % i)] += reference[static_cast<std::size_t>(at)];
    CHECK(relative_error(dz_sums, sums) < 2 * kSingle);

    args.accumulate = true;
    CHECK_THROWS_AS(ops->linear_backward(args), std::invalid_argument);
    args.accumulate = false;
    args.gelu_input = {};  // whose gradient dx_sums are of
    CHECK_THROWS_AS(ops->linear_backward(args), std::invalid_argument);
    args.gelu_input = inner_single;
    args.dx = {};
    CHECK_THROWS_AS(ops->linear_backward(args), std::invalid_argument);
  }
}

TEST_CASE("SwiGLU beside a linear map is the SwiGLU of what it gives, and its gradient") {
  const auto ops = make_cpu_ops(2);
  Random random(26);
  for (const auto [n, i, o] : {LinearExtents{1, 1, 2}, {3, 7, 6}, {65, 17, 130}}) {
    INFO(n << " x " << i << " -> " << o);
    const Doubles x = random.normals(n * i), weight = random.normals(o * i), bias = random.normals(o);
    const Floats x_single({n, i}, x), weight_single({o, i}, weight), bias_single({o}, bias);
    Floats out({n, o}), swiglu({n, o / 2});
    LinearForward forward{.out = out, .x = x_single, .weight = weight_single, .bias = bias_single, .swiglu = swiglu};
    ops->linear_forward(forward);
    const Doubles z = linear_forward(x, weight, bias, i, o);
    CHECK(relative_error(out, z) < kSingle);
    CHECK(relative_error(swiglu, swiglu_forward(z, o / 2)) < 2 * kSingle);
    forward.gelu = Floats({n, o});  // one of them
    CHECK_THROWS_AS(ops->linear_forward(forward), std::invalid_argument);

    const Doubles dout = random.normals(n * o), gate_up = random.normals(n * 2 * i), dweight0 = random.normals(o * i);
    const Floats dout_single({n, o}, dout), gate_up_single({n, 2 * i}, gate_up);
    Floats work({n, i}), dgate_up({n, 2 * i}), dweight({o, i}, dweight0);
    LinearBackward args{.dout = dout_single, .x = x_single, .weight = weight_single, .dx = work, .dweight = dweight,
                        .dbias = {}, .swiglu_input = gate_up_single, .dswiglu_input = dgate_up};
    ops->linear_backward(args);
    const LinearGradients gradients = linear_backward(x, weight, dout, i, o);
    CHECK(relative_error(dgate_up, swiglu_backward(gate_up, gradients.dx, i)) < 2 * kSingle);
    CHECK(relative_error(dweight, plus(dweight0, gradients.dweight)) < kSingle);

    const auto is_refused = [&](LinearBackward wrong) {
      CHECK_THROWS_AS(ops->linear_backward(wrong), std::invalid_argument);
    };
    LinearBackward wrong = args;
    wrong.accumulate = true;
    is_refused(wrong);
    wrong = args;
    wrong.dswiglu_input = {};
    is_refused(wrong);
    wrong = args;
    wrong.swiglu_input = {};
    is_refused(wrong);
    wrong = args;
    wrong.swiglu_input = work;  // no gates
    is_refused(wrong);
    wrong = args;
    wrong.gelu_input = work;
    is_refused(wrong);
    wrong = args;
    wrong.dx = {};
    is_refused(wrong);
  }
  const Floats x({3, 4}), weight({5, 4}), out({3, 5}), half({3, 2});
  CHECK_THROWS_AS(ops->linear_forward({.out = out, .x = x, .weight = weight, .bias = {}, .swiglu = half}),
                  std::invalid_argument);
}

TEST_CASE("The reference gradients of the linear map agree with finite differences") {
  Random random(22);
  const LinearExtents e{4, 3, 5};
  const Doubles x = random.normals(e.rows * e.inputs);
  const Doubles weight = random.normals(e.outputs * e.inputs);
  const Doubles bias = random.normals(e.outputs);
  const Doubles dout = random.normals(e.rows * e.outputs);
  const auto loss = [&](const Doubles& a, const Doubles& w, const Doubles& b) {
    return dot(linear_forward(a, w, b, e.inputs, e.outputs), dout);
  };
  const LinearGradients gradients = linear_backward(x, weight, dout, e.inputs, e.outputs);
  CHECK(relative_error(gradients.dx, finite_differences([&](const Doubles& a) { return loss(a, weight, bias); }, x)) <
        kDifferences);
  CHECK(relative_error(gradients.dweight,
                       finite_differences([&](const Doubles& w) { return loss(x, w, bias); }, weight)) < kDifferences);
  CHECK(relative_error(gradients.dbias,
                       finite_differences([&](const Doubles& b) { return loss(x, weight, b); }, bias)) < kDifferences);
}

TEST_CASE("Embeddings are looked up, and their gradients collect in the rows of their tokens") {
  const auto ops = make_cpu_ops(2);
  Random random(23);
  struct Case {
    std::int64_t sequences, length, channels, vocabulary;
  };
  for (const auto [b, t, c, v] : {Case{1, 1, 1, 1}, {2, 5, 7, 3}, {3, 17, 129, 11}, {4, 64, 64, 500}})
    for (const bool learned : {false, true}) {
      INFO("B " << b << ", T " << t << ", C " << c << ", learned positions " << learned);
      const std::int64_t positions = learned ? t + 2 : 0;  // more than are used
      const Tokens tokens = random.tokens(b * t, v);
      const Doubles wte = random.normals(v * c);
      const Doubles wpe = random.normals(positions * c);
      const Indices ids = indices({b, t}, tokens);
      const Floats wte_single({v, c}, wte), wpe_single({positions, c}, wpe);
      Floats out({b * t, c});
      ops->embedding_forward(
          {.out = out, .tokens = ids, .wte = wte_single, .wpe = learned ? wpe_single.view() : Tensor{}});
      CHECK(relative_error(out, embedding_forward(tokens, wte, wpe, t, c)) < kSingle);
      // With the first norm, which is that of the rows.
      for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm}) {
        const Floats rows({out.size() / c, c}), weight({c}, random.normals(c)), normed({out.size() / c, c}),
            apart({out.size() / c, c});
        const Floats mean({out.size() / c}), rstd({out.size() / c});
        NormForward norm{.kind = kind, .weight = weight, .out = normed,
                         .mean = kind == NormKind::layernorm ? mean.view() : Tensor{}, .rstd = rstd};
        ops->embedding_forward({.out = rows, .tokens = ids, .wte = wte_single,
                                .wpe = learned ? wpe_single.view() : Tensor{}, .norm = norm});
        CHECK(rows.same_bits(out));
        norm.x = rows;
        norm.out = apart;
        ops->norm_forward(norm);
        CHECK(normed.same_bits(apart));
      }

      const Doubles dout = random.normals(b * t * c);
      const Doubles dwte0 = random.normals(v * c);
      const Doubles dwpe0 = random.normals(positions * c);
      const Floats dout_single({b * t, c}, dout);
      Floats dwte({v, c}, dwte0), dwpe({positions, c}, dwpe0);
      ops->embedding_backward(
          {.dout = dout_single, .tokens = ids, .dwte = dwte, .dwpe = learned ? dwpe.view() : Tensor{}});
      const EmbeddingGradients gradients = embedding_backward(tokens, dout, v, positions, t, c);
      CHECK(relative_error(dwte, plus(dwte0, gradients.dwte)) < kSingle);
      CHECK(relative_error(dwpe, plus(dwpe0, gradients.dwpe)) < kSingle);
    }
}

TEST_CASE("The reference gradients of the embedding agree with finite differences") {
  Random random(24);
  const std::int64_t t = 3, c = 2, v = 4, positions = 5;
  const Tokens tokens = random.tokens(2 * t, v);
  const Doubles wte = random.normals(v * c);
  const Doubles wpe = random.normals(positions * c);
  const Doubles dout = random.normals(2 * t * c);
  const EmbeddingGradients gradients = embedding_backward(tokens, dout, v, positions, t, c);
  const auto loss = [&](const Doubles& a, const Doubles& b) {
    return dot(embedding_forward(tokens, a, b, t, c), dout);
  };
  CHECK(relative_error(gradients.dwte, finite_differences([&](const Doubles& a) { return loss(a, wpe); }, wte)) <
        kDifferences);
  CHECK(relative_error(gradients.dwpe, finite_differences([&](const Doubles& b) { return loss(wte, b); }, wpe)) <
        kDifferences);
}

TEST_CASE("A token outside the vocabulary is named") {
  const auto ops = make_cpu_ops(1);
  Indices ids = indices({1, 3}, {0, 4, 1});
  const Floats wte({4, 2}, Doubles(8, 1.0));
  Floats out({3, 2}), dwte({4, 2}, Doubles(8, 0.0));
  const EmbeddingForward forward{.out = out, .tokens = ids, .wte = wte, .wpe = {}};
  const EmbeddingBackward backward{.dout = out, .tokens = ids, .dwte = dwte, .dwpe = {}};
  CHECK(message_of<std::invalid_argument>([&] { ops->embedding_forward(forward); }) ==
        "embedding_forward: tokens holds 4 at index 1, expected a value in [0, V = 4)");
  ids[1] = -1;
  CHECK(message_of<std::invalid_argument>([&] { ops->embedding_backward(backward); }) ==
        "embedding_backward: tokens holds -1 at index 1, expected a value in [0, V = 4)");
}

TEST_CASE("The norm of rows that are looked up has none of its own") {
  const auto ops = make_cpu_ops(1);
  const Indices ids = indices({1, 3}, {0, 3, 1});
  const Floats wte({4, 2}, Doubles(8, 1.0)), out({3, 2}), normed({3, 2}), rstd({3}), weight({2}, Doubles(2, 1.0));
  EmbeddingForward args{
      .out = out, .tokens = ids, .wte = wte, .wpe = {}, .norm = {.weight = weight, .out = normed, .rstd = rstd}};
  ops->embedding_forward(args);
  args.norm.x = out;
  CHECK(message_of<std::invalid_argument>([&] { ops->embedding_forward(args); }) ==
        "embedding_forward: norm has rows of its own, expected none: it is of those that are looked up");
}
