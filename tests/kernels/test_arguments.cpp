// Every tensor argument that is missing, or has the wrong dtype, number of dimensions or extent, is
// an std::invalid_argument that starts with the operation and, where only one tensor can be to
// blame, names it.
#include "tests/catch.h"
#include "tests/kernels/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

enum class Kind : std::uint8_t {
  needed,
  optional,
  extent_is_free,  // needed; its last extent may be anything
};

template <class Args>
struct Field {
  const char* name;
  Tensor Args::*tensor;
  Kind kind = Kind::needed;
};

/// The memory behind the tensors is never touched by a call that throws.
template <class Args>
void check_rejects(const std::string& op, void (Ops::*method)(const Args&), const Args& good,
                   const std::vector<Field<Args>>& fields) {
  const auto ops = make_cpu_ops(1);
  REQUIRE_NOTHROW((ops.get()->*method)(good));
  for (const Field<Args>& field : fields) {
    INFO(op << ", " << field.name);
    const auto message = [&](const Tensor& bad) {
      Args args = good;
      args.*(field.tensor) = bad;
      return message_of<std::invalid_argument>([&] { (ops.get()->*method)(args); });
    };
    const std::string start = op + ": " + field.name + " ";
    if (field.kind != Kind::optional) CHECK(message(Tensor{}).find(start + "is not given") == 0);
    Tensor bad = good.*(field.tensor);
    bad.dtype = DType::bf16;
    CHECK(message(bad).find(start) == 0);
    CHECK(message(bad).find("bf16") != std::string::npos);
    bad = good.*(field.tensor);
    bad.rank = bad.rank == 1 ? 2 : bad.rank - 1;
    CHECK(message(bad).find(start) == 0);
    if (field.kind == Kind::extent_is_free) continue;
    bad = good.*(field.tensor);
    bad.shape[static_cast<std::size_t>(bad.rank - 1)] += 1;
    // Of two tensors that disagree either may be named.
    CHECK(message(bad).find(op + ": ") == 0);
  }
}

Floats filled(std::initializer_list<std::int64_t> extents) {
  Floats out(extents);
  out.fill(0.5F);
  return out;
}

}  // namespace

TEST_CASE("Embedding, norms and linear maps reject wrong tensors") {
  const Floats nc = filled({6, 4}), nc2 = filled({6, 4}), c = filled({4}), c2 = filled({4}), table = filled({5, 4}),
               positions = filled({3, 4}), mean = filled({6}), rstd = filled({6}), l2 = filled({6}),
               no = filled({6, 2}), weight = filled({2, 4}), o = filled({2}), sum = filled({6, 4}),
               dweight = filled({2, 4}), dx = filled({6, 4});
  const Indices tokens = indices({2, 3}, Tokens(6, 1));
  using EF = EmbeddingForward;
  check_rejects<EF>("embedding_forward", &Ops::embedding_forward,
                    {.out = nc, .tokens = tokens, .wte = table, .wpe = positions},
                    {{"out", &EF::out}, {"tokens", &EF::tokens}, {"wte", &EF::wte}, {"wpe", &EF::wpe, Kind::optional}});
  using EB = EmbeddingBackward;
  check_rejects<EB>("embedding_backward", &Ops::embedding_backward,
                    {.dout = nc, .tokens = tokens, .dwte = table, .dwpe = positions},
                    {{"dout", &EB::dout}, {"tokens", &EB::tokens}, {"dwte", &EB::dwte},
                     {"dwpe", &EB::dwpe, Kind::optional}});
  using NF = NormForward;
  check_rejects<NF>("norm_forward", &Ops::norm_forward,
                    {.kind = NormKind::layernorm, .x = nc, .delta = nc2, .sum = sum, .weight = c, .bias = c2,
                     .eps = 1e-5F, .out = dx, .mean = mean, .rstd = rstd, .l2 = l2},
                    {{"x", &NF::x}, {"delta", &NF::delta, Kind::optional}, {"sum", &NF::sum, Kind::optional},
                     {"weight", &NF::weight}, {"bias", &NF::bias, Kind::optional}, {"out", &NF::out},
                     {"mean", &NF::mean}, {"rstd", &NF::rstd}, {"l2", &NF::l2, Kind::optional}});
  using NB = NormBackward;
  check_rejects<NB>("norm_backward", &Ops::norm_backward,
                    {.kind = NormKind::layernorm, .x = nc, .dout = nc2, .weight = c, .mean = mean, .rstd = rstd,
                     .dx = dx, .dweight = c2, .dbias = filled({4})},
                    {{"x", &NB::x}, {"dout", &NB::dout}, {"weight", &NB::weight}, {"mean", &NB::mean},
                     {"rstd", &NB::rstd}, {"dx", &NB::dx}, {"dweight", &NB::dweight}});
  using LF = LinearForward;
  check_rejects<LF>("linear_forward", &Ops::linear_forward, {.out = no, .x = nc, .weight = weight, .bias = o},
                    {{"out", &LF::out}, {"x", &LF::x}, {"weight", &LF::weight}, {"bias", &LF::bias, Kind::optional}});
  using LB = LinearBackward;
  check_rejects<LB>("linear_backward", &Ops::linear_backward,
                    {.dout = no, .x = nc, .weight = weight, .dx = dx, .dweight = dweight, .dbias = o},
                    {{"dout", &LB::dout}, {"x", &LB::x}, {"weight", &LB::weight}, {"dx", &LB::dx, Kind::optional},
                     {"dweight", &LB::dweight, Kind::optional}, {"dbias", &LB::dbias, Kind::optional}});
}

TEST_CASE("Arguments that exclude each other are rejected") {
  const auto ops = make_cpu_ops(1);
  const Floats nc = filled({2, 3}), c = filled({3}), rstd = filled({2}), out = filled({2, 3});
  NormForward args{.kind = NormKind::rmsnorm, .x = nc, .delta = {}, .sum = {}, .weight = c, .bias = c, .eps = 1e-5F,
                   .out = out, .mean = {}, .rstd = rstd, .l2 = {}};
  const auto message = [&] { return message_of<std::invalid_argument>([&] { ops->norm_forward(args); }); };
  CHECK(message() == "norm_forward: bias is given, but rmsnorm has none");
  args.bias = Tensor{};
  args.delta = nc;
  CHECK(message() == "norm_forward: sum is not given, but delta is");
  args.delta = Tensor{};
  args.sum = out;
  CHECK(message() == "norm_forward: sum is given without delta");
  args.sum = Tensor{};
  CHECK(message().empty());
  CHECK(message_of<std::invalid_argument>([] { make_cpu_ops(-1); }) ==
        "make_cpu_ops: threads is -1, expected >= 0");
}

TEST_CASE("Attention and its neighbours reject wrong tensors") {
  const Floats qkv = filled({2, 3, 4, 6}), out = filled({2, 3, 2, 6}), lse = filled({2, 2, 3}),
               sink = filled({2, 2, 3}), dout = filled({2, 3, 2, 6}), dqkv = filled({2, 3, 4, 6}), bh = filled({2, 2}),
               bht = filled({2, 2, 3}), d = filled({6}), rstd = filled({6, 3}), logits = filled({2}),
               mass = filled({2, 2});
  using AF = AttentionForward;
  const AF forward{
      .qkv = qkv, .query_heads = 2, .kv_heads = 1, .out = out, .lse = lse, .sink = sink, .sink_logits = logits};
  check_rejects<AF>("attention_forward", &Ops::attention_forward, forward,
                    {{"qkv", &AF::qkv}, {"out", &AF::out}, {"lse", &AF::lse}, {"sink", &AF::sink, Kind::optional},
                     {"sink_logits", &AF::sink_logits, Kind::optional}});
  using AB = AttentionBackward;
  check_rejects<AB>("attention_backward", &Ops::attention_backward,
                    {.qkv = qkv, .query_heads = 2, .kv_heads = 1, .out = out, .dout = dout, .lse = lse, .dqkv = dqkv,
                     .sink_logits = logits, .dsink_logits = filled({2}), .dqkv_sums = filled({24})},
                    {{"qkv", &AB::qkv}, {"out", &AB::out}, {"dout", &AB::dout}, {"lse", &AB::lse}, {"dqkv", &AB::dqkv},
                     {"sink_logits", &AB::sink_logits, Kind::optional},
                     {"dsink_logits", &AB::dsink_logits, Kind::optional},
                     {"dqkv_sums", &AB::dqkv_sums, Kind::optional}});
  using AS = AttentionStatistics;
  check_rejects<AS>("attention_statistics", &Ops::attention_statistics,
                    {.qkv = qkv, .query_heads = 2, .kv_heads = 1, .lse = lse, .sink = sink, .first_mass = bh,
                     .first_argmax = bh, .entropy = bh, .key_mass = bht, .cos_first = bh, .cos_rest = bh,
                     .sink_logits = logits, .sink_logit_mass = mass},
                    {{"qkv", &AS::qkv, Kind::extent_is_free}, {"lse", &AS::lse}, {"sink", &AS::sink},
                     {"first_mass", &AS::first_mass}, {"first_argmax", &AS::first_argmax}, {"entropy", &AS::entropy},
                     {"key_mass", &AS::key_mass}, {"cos_first", &AS::cos_first}, {"cos_rest", &AS::cos_rest},
                     {"sink_logits", &AS::sink_logits, Kind::optional},
                     {"sink_logit_mass", &AS::sink_logit_mass, Kind::optional}});
  using QF = QkNormForward;
  check_rejects<QF>("qk_norm_forward", &Ops::qk_norm_forward,
                    {.in = qkv, .out = dqkv, .query_heads = 2, .kv_heads = 1, .q_weight = d, .k_weight = d,
                     .eps = 1e-6F, .rstd = rstd},
                    {{"in", &QF::in}, {"out", &QF::out}, {"q_weight", &QF::q_weight}, {"k_weight", &QF::k_weight},
                     {"rstd", &QF::rstd}});
  using QB = QkNormBackward;
  check_rejects<QB>("qk_norm_backward", &Ops::qk_norm_backward,
                    {.in = qkv, .dqkv = dqkv, .query_heads = 2, .kv_heads = 1, .q_weight = d, .k_weight = d,
                     .rstd = rstd, .dq_weight = filled({6}), .dk_weight = filled({6})},
                    {{"in", &QB::in}, {"dqkv", &QB::dqkv}, {"q_weight", &QB::q_weight}, {"k_weight", &QB::k_weight},
                     {"rstd", &QB::rstd}});
  using R = Rope;
  check_rejects<R>("rope", &Ops::rope, {.qkv = dqkv, .heads = 3, .theta = 1e4, .inverse = false}, {{"qkv", &R::qkv}});

  const auto ops = make_cpu_ops(1);
  const auto message = [&](AF args) {
    return message_of<std::invalid_argument>([&] { ops->attention_forward(args); });
  };
  AF args = forward;
  args.query_heads = 3;
  args.kv_heads = 2;
  CHECK(message(args) ==
        "attention_forward: qkv has 3 query heads, not a positive multiple of its 2 key/value heads");
  const Floats many = filled({2, 2, 4});
  args = forward;
  args.sink = many;
  CHECK(message(args) == "attention_forward: sink is (2, 2, 4) f32, expected at most T = 3 keys");
  args = forward;
  args.lse = bh;
  CHECK(message(args) == "attention_forward: lse is (2, 2) f32, expected (2, 2, 3) f32");
  const QF aliased{.in = qkv, .out = qkv, .query_heads = 2, .kv_heads = 1, .q_weight = d, .k_weight = d, .eps = 1e-6F,
                   .rstd = rstd};
  CHECK(message_of<std::invalid_argument>([&] { ops->qk_norm_forward(aliased); }) == "qk_norm_forward: out aliases in");
  const auto rotated = [&](const Rotation& rotation) {
    return message_of<std::invalid_argument>([&] {
      ops->qk_norm_forward({.in = qkv, .out = dqkv, .query_heads = 2, .kv_heads = 1, .q_weight = d, .k_weight = d,
                            .rstd = rstd, .rotation = rotation});
    });
  };
  const auto rotated_back = [&](const Rotation& rotation) {
    return message_of<std::invalid_argument>([&] {
      ops->qk_norm_backward({.in = qkv, .dqkv = dqkv, .query_heads = 2, .kv_heads = 1, .q_weight = d, .k_weight = d,
                             .rstd = rstd, .dq_weight = filled({6}), .dk_weight = filled({6}), .rotation = rotation});
    });
  };
  CHECK(rotated({.width = 8}) == "qk_norm_forward: width is 8, expected an even number from 2 to the head dimension 6");
  CHECK(rotated({.width = 3}) == "qk_norm_forward: width is 3, expected an even number from 2 to the head dimension 6");
  CHECK(rotated({.theta = 0}) == "qk_norm_forward: theta is 0.000000, expected a positive number");
  CHECK(rotated({.first_index = -1}) == "qk_norm_forward: first_index is -1, expected 0 or more");
  CHECK(rotated({.width = 4}).empty());
  CHECK(rotated_back({.width = 8}) ==
        "qk_norm_backward: width is 8, expected an even number from 2 to the head dimension 6");
  CHECK(rotated_back({.width = 4}).empty());
}

TEST_CASE("Activations, the loss and the optimizer reject wrong tensors") {
  const Floats nf = filled({3, 4}), nf2 = filled({3, 4}), dx = filled({3, 4}), wide = filled({3, 8}),
               dwide = filled({3, 8}), losses = filled({3}), p = filled({10}), m = filled({10}), v = filled({10}),
               grad = filled({10}), clip = filled({2});
  const Indices targets = indices({3}, Tokens(3, 1));
  const std::vector<Segment> segments = {{0, 10, true}};
  const Array<double> sums({1}, {1.0});
  using GF = GeluForward;
  check_rejects<GF>("gelu_forward", &Ops::gelu_forward, {.x = nf, .out = dx}, {{"x", &GF::x}, {"out", &GF::out}});
  using GB = GeluBackward;
  check_rejects<GB>("gelu_backward", &Ops::gelu_backward, {.x = nf, .dout = nf2, .dx = dx},
                    {{"x", &GB::x}, {"dout", &GB::dout}, {"dx", &GB::dx}});
  using SF = SwigluForward;
  check_rejects<SF>("swiglu_forward", &Ops::swiglu_forward, {.gate_up = wide, .out = dx},
                    {{"gate_up", &SF::gate_up}, {"out", &SF::out}});
  using SB = SwigluBackward;
  check_rejects<SB>("swiglu_backward", &Ops::swiglu_backward, {.gate_up = wide, .dout = nf, .dgate_up = dwide},
                    {{"gate_up", &SB::gate_up}, {"dout", &SB::dout}, {"dgate_up", &SB::dgate_up}});
  using CE = CrossEntropy;
  check_rejects<CE>("cross_entropy", &Ops::cross_entropy, {.logits = dx, .targets = targets, .losses = losses},
                    {{"logits", &CE::logits, Kind::extent_is_free}, {"targets", &CE::targets},
                     {"losses", &CE::losses}});
  using SQ = SumOfSquares;
  check_rejects<SQ>("sum_of_squares", &Ops::sum_of_squares, {.x = p, .segments = segments, .sums = sums},
                    {{"x", &SQ::x, Kind::extent_is_free}, {"sums", &SQ::sums}});
  using CS = ClipScale;
  check_rejects<CS>("clip_scale", &Ops::clip_scale, {.sums = sums, .max_norm = 1, .out = clip},
                    {{"sums", &CS::sums, Kind::extent_is_free}, {"out", &CS::out}});
  using AS = AdamwStep;
  check_rejects<AS>("adamw_step", &Ops::adamw_step,
                    {.param = p, .grad = grad, .m = m, .v = v, .segments = segments, .clip = clip, .lr = 0.1},
                    {{"param", &AS::param}, {"grad", &AS::grad}, {"m", &AS::m}, {"v", &AS::v}, {"clip", &AS::clip}});
  const Floats sink = filled({2, 3, 2, 4}), norms = filled({2, 3, 5}), over = filled({2, 3, 5}), x = filled({3, 5, 4}),
               selected = filled({2, 3});
  Array<double> scores({2, 2, 4}), above({2, 2, 4}), first({2, 4}), rest({2}), ratio({2}), sum({4}), count({1}),
      found({4});
  using SS = SinkSums;
  check_rejects<SS>("sink_sums", &Ops::sink_sums, {.sink = sink, .threshold = 0.3F, .scores = scores, .above = above},
                    {{"sink", &SS::sink}, {"scores", &SS::scores}, {"above", &SS::above, Kind::optional}});
  using NS = NormSums;
  check_rejects<NS>("norm_sums", &Ops::norm_sums,
                    {.norms = norms, .over = over, .first = first, .rest = rest, .ratio = ratio},
                    {{"norms", &NS::norms, Kind::extent_is_free}, {"over", &NS::over, Kind::optional},
                     {"first", &NS::first, Kind::extent_is_free}, {"rest", &NS::rest}, {"ratio", &NS::ratio}});
  using RL = RowL2;
  check_rejects<RL>("row_l2", &Ops::row_l2, {.x = x, .first = 3, .out = selected},
                    {{"x", &RL::x, Kind::extent_is_free}, {"out", &RL::out}});
  using DS = DirectionSums;
  check_rejects<DS>("direction_sums", &Ops::direction_sums, {.x = x, .position = 4, .sum = sum, .count = count},
                    {{"x", &DS::x}, {"sum", &DS::sum}, {"count", &DS::count}});
  using AB = AbsStatistics;
  check_rejects<AB>("abs_statistics", &Ops::abs_statistics, {.x = nf, .out = found},
                    {{"x", &AB::x, Kind::extent_is_free}, {"out", &AB::out}});
  const auto ops = make_cpu_ops(1);
  CHECK(message_of<std::invalid_argument>([&] { ops->add(dx, nf, wide); }) ==
        "add: b is (3, 8) f32, expected (3, 4) f32");
  const Floats single = filled({2, 3, 1});
  CHECK(message_of<std::invalid_argument>([&] { ops->norm_sums({single, {}, first, rest, ratio}); }) ==
        "norm_sums: norms is (2, 3, 1) f32, expected sequences of at least 2 positions");
  CHECK(message_of<std::invalid_argument>([&] { ops->norm_sums({filled({2, 3, 3}), {}, first, rest, ratio}); }) ==
        "norm_sums: first is (2, 4) f64, expected 1 to 3 positions");
  CHECK(message_of<std::invalid_argument>([&] { ops->row_l2({x, 4, selected}); }) ==
        "row_l2: out is (2, 3) f32, expected at most 1 vectors of a row");
  CHECK(message_of<std::invalid_argument>([&] { ops->row_l2({x, -1, selected}); }) ==
        "row_l2: x is (3, 5, 4) f32 and has no vector -1 in a row");
  CHECK(message_of<std::invalid_argument>([&] { ops->direction_sums({x, 5, sum, count}); }) ==
        "direction_sums: x is (3, 5, 4) f32 and has no position 5");
  CHECK(message_of<std::invalid_argument>([&] { ops->abs_statistics({filled({0, 4}), found}); }) ==
        "abs_statistics: x is (0, 4) f32, expected at least one element");
}
