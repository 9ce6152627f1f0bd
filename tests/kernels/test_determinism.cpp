// For a fixed thread count every operation gives the same bits, however often it runs.
#include "tests/catch.h"
#include "tests/kernels/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

// Big enough that every operation really is cut into parts.
constexpr std::int64_t kSequences = 3, kLength = 150, kHeads = 4, kGroups = 2, kDim = 32;
constexpr std::int64_t kRows = kSequences * kLength, kChannels = 129, kHidden = 70, kVocabulary = 301;

/// All outputs of one pass through the operations.
std::vector<Doubles> everything(Ops& ops) {
  Random random(61);
  std::vector<Doubles> all;
  const auto keep = [&](const auto& array) { all.push_back(array.doubles()); };
  const Indices tokens = indices({kSequences, kLength}, random.tokens(kRows, 17));
  const Floats table({17, kChannels}, random.normals(17 * kChannels));
  Floats x({kRows, kChannels}), dtable({17, kChannels}, random.normals(17 * kChannels));
  ops.embedding_forward({.out = x, .tokens = tokens, .wte = table, .wpe = {}});
  ops.embedding_backward({.dout = x, .tokens = tokens, .dwte = dtable, .dwpe = {}});
  keep(dtable);

  const Floats weight({kChannels}, random.normals(kChannels)), bias({kChannels}, random.normals(kChannels));
  Floats out({kRows, kChannels}), mean({kRows}), rstd({kRows});
  ops.norm_forward({.kind = NormKind::layernorm, .x = x, .delta = {}, .sum = {}, .weight = weight, .bias = bias,
                    .eps = 1e-5F, .out = out, .mean = mean, .rstd = rstd, .l2 = {}});
  const Floats dout({kRows, kChannels}, random.normals(kRows * kChannels));
  Floats dx({kRows, kChannels}, random.normals(kRows * kChannels)), dweight({kChannels}, random.normals(kChannels)),
      dbias({kChannels}, random.normals(kChannels));
  ops.norm_backward({.kind = NormKind::layernorm, .x = x, .dout = dout, .weight = weight, .mean = mean, .rstd = rstd,
                     .dx = dx, .dweight = dweight, .dbias = dbias});
  keep(out), keep(dx), keep(dweight), keep(dbias);

  const Floats matrix({2 * kHidden, kChannels}, random.normals(2 * kHidden * kChannels));
  Floats gate_up({kRows, 2 * kHidden}), hidden({kRows, kHidden}), dgate_up({kRows, 2 * kHidden}),
      dmatrix({2 * kHidden, kChannels}, random.normals(2 * kHidden * kChannels)),
      drow({2 * kHidden}, random.normals(2 * kHidden));
  ops.linear_forward({.out = gate_up, .x = out, .weight = matrix, .bias = {}});
  ops.swiglu_forward({.gate_up = gate_up, .out = hidden});
  ops.swiglu_backward({.gate_up = gate_up, .dout = hidden, .dgate_up = dgate_up});
  ops.linear_backward({.dout = dgate_up, .x = out, .weight = matrix, .dx = dx, .dweight = dmatrix, .dbias = drow,
                       .accumulate = true});
  keep(gate_up), keep(hidden), keep(dgate_up), keep(dx), keep(dmatrix), keep(drow);
  Floats gelu({kRows, kChannels});
  for (const GeluKind kind : {GeluKind::tanh, GeluKind::erf}) {
    ops.gelu_forward({.kind = kind, .x = dx, .out = gelu});
    ops.gelu_backward({.kind = kind, .x = dx, .dout = gelu, .dx = gelu});
    keep(gelu);
  }

  const std::int64_t row_heads = kHeads + 2 * kGroups;
  const auto extents = {kSequences, kLength, row_heads, kDim};
  const Floats in(extents, random.normals(kRows * row_heads * kDim));
  const Floats q_weight({kDim}, random.normals(kDim)), k_weight({kDim}, random.normals(kDim));
  Floats qkv(extents), head_rstd({kRows, kHeads + kGroups}), dq({kDim}, random.normals(kDim)),
      dk({kDim}, random.normals(kDim)), dqkv(extents);
  const auto heads = static_cast<int>(kHeads);
  const auto groups = static_cast<int>(kGroups);
  ops.qk_norm_forward({.in = in, .out = qkv, .query_heads = heads, .kv_heads = groups, .q_weight = q_weight,
                       .k_weight = k_weight, .eps = 1e-6F, .rstd = head_rstd,
                       .rotation = Rotation{.width = 2, .first_index = 1}});
  ops.rope({.qkv = qkv, .heads = heads + groups, .theta = 1e4, .inverse = false});
  Floats attended({kSequences, kLength, kHeads, kDim}), lse({kSequences, kHeads, kLength}),
      sink({kSequences, kHeads, 8});
  ops.attention_forward(
      {.qkv = qkv, .query_heads = heads, .kv_heads = groups, .out = attended, .lse = lse, .sink = sink});
  const Floats dattended({kSequences, kLength, kHeads, kDim}, random.normals(kRows * kHeads * kDim));
  ops.attention_backward({.qkv = qkv, .query_heads = heads, .kv_heads = groups, .out = attended, .dout = dattended,
                          .lse = lse, .dqkv = dqkv});
  ops.rope({.qkv = dqkv, .heads = heads + groups, .theta = 1e4, .inverse = true});
  ops.qk_norm_backward({.in = in, .dqkv = dqkv, .query_heads = heads, .kv_heads = groups, .q_weight = q_weight,
                        .k_weight = k_weight, .rstd = head_rstd, .dq_weight = dq, .dk_weight = dk,
                        .rotation = Rotation{.width = 2, .first_index = 1}});
  keep(attended), keep(lse), keep(sink), keep(dqkv), keep(dq), keep(dk);
  const Floats logits_of_heads({kHeads}, random.normals(kHeads));
  Floats dlogits_of_heads({kHeads}, random.normals(kHeads)), logit_mass({kSequences, kHeads});
  ops.attention_forward({.qkv = qkv, .query_heads = heads, .kv_heads = groups, .out = attended, .lse = lse,
                         .sink = sink,
                         .sink_logits = logits_of_heads});
  ops.attention_backward({.qkv = qkv, .query_heads = heads, .kv_heads = groups, .out = attended, .dout = dattended,
                          .lse = lse, .dqkv = dqkv, .sink_logits = logits_of_heads, .dsink_logits = dlogits_of_heads});
  keep(attended), keep(lse), keep(sink), keep(dqkv), keep(dlogits_of_heads);
  Floats mass({kSequences, kHeads}), argmax({kSequences, kHeads}), entropy({kSequences, kHeads}),
      key_mass({kSequences, kHeads, kLength}), first({kSequences, kHeads}), rest({kSequences, kHeads});
  ops.attention_statistics({.qkv = qkv, .query_heads = heads, .kv_heads = groups, .lse = lse, .sink = sink,
                            .first_mass = mass, .first_argmax = argmax, .entropy = entropy, .key_mass = key_mass,
                            .cos_first = first, .cos_rest = rest, .sink_logits = logits_of_heads,
                            .sink_logit_mass = logit_mass});
  keep(logit_mass);
  keep(sink), keep(mass), keep(argmax), keep(entropy), keep(key_mass), keep(first), keep(rest);

  Floats logits({kRows, kVocabulary}, random.normals(kRows * kVocabulary)), losses({kRows});
  const Indices targets = indices({kRows}, random.tokens(kRows, kVocabulary));
  ops.cross_entropy({.logits = logits, .targets = targets, .losses = losses, .gradient = true, .scale = 0.01F});
  keep(logits), keep(losses);

  const std::int64_t size = 70000;
  const std::vector<Segment> segments = {{0, 40000, true}, {40000, 30000, false}};
  Floats param({size}, random.normals(size)), m({size}, Doubles(static_cast<std::size_t>(size), 0.0)),
      v({size}, Doubles(static_cast<std::size_t>(size), 0.0)), norms({kRows}), clip({2});
  const Floats grad({size}, random.normals(size));
  Array<double> sums({2});
  ops.sum_of_squares({.x = grad, .segments = segments, .sums = sums});
  ops.clip_scale({.sums = sums, .max_norm = 1, .out = clip});
  ops.adamw_step({.param = param, .grad = grad, .m = m, .v = v, .segments = segments, .clip = clip, .lr = 0.1,
                  .weight_decay = 0.1, .step = 3});
  ops.row_l2({.x = x.view().view({kRows, 1, kChannels}), .first = 0, .out = norms.view().view({1, kRows})});
  const Doubles zeros(8, 0.0);
  Array<double> scores({1, kHeads, 8}, Doubles(kHeads * 8, 0.0)), above({1, kHeads, 8}, Doubles(kHeads * 8, 0.0)),
      first_norms({1, 8}, zeros), rest_norms({1}, zeros), ratios({1}, zeros);
  ops.sink_sums(
      {.sink = sink.view().view({1, kSequences, kHeads, 8}), .threshold = 0.3F, .scores = scores, .above = above});
  ops.norm_sums({.norms = norms.view().view({1, kSequences, kLength}), .first = first_norms, .rest = rest_norms,
                 .ratio = ratios});
  Array<double> direction({kChannels}, Doubles(kChannels, 0.0)), count({1}, {0.0}), magnitudes({4});
  ops.direction_sums(
      {.x = x.view().view({kSequences, kLength, kChannels}), .position = 3, .sum = direction, .count = count});
  ops.abs_statistics({.x = x, .out = magnitudes});
  keep(scores), keep(above), keep(first_norms), keep(rest_norms), keep(ratios), keep(direction), keep(count),
      keep(magnitudes);
  keep(sums), keep(clip), keep(param), keep(m), keep(v), keep(norms);
  return all;
}

/// A Boolean, since a failing test would print both operands: a million numbers each.
bool same(const std::vector<Doubles>& a, const std::vector<Doubles>& b) { return a == b; }

}  // namespace

TEST_CASE("Every operation repeats its bits for one and for two threads") {
  for (const int threads : {1, 2}) {
    INFO(threads << " threads");
    const auto ops = make_cpu_ops(threads);
    const std::vector<Doubles> first = everything(*ops);
    for (const Doubles& array : first) CHECK(relative_error(array, array) == 0.0);  // nothing left poisoned
    CHECK(same(everything(*ops), first));
    CHECK(same(everything(*make_cpu_ops(threads)), first));
  }
}

TEST_CASE("Two backends of different thread counts may be used in turn") {
  const auto one = make_cpu_ops(1);
  const std::vector<Doubles> first = everything(*one);
  const auto two = make_cpu_ops(2);
  const std::vector<Doubles> second = everything(*two);
  CHECK(same(everything(*one), first));
  CHECK(same(everything(*two), second));
  REQUIRE(second.size() == first.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    INFO("array " << i);
    CHECK(relative_error(second[i], first[i]) < kSingle);
  }
  CHECK(one->description().find("1 thread") != std::string::npos);
  CHECK(two->description().find("2 threads") != std::string::npos);
}
