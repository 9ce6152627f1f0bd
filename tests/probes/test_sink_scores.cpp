#include <cmath>
#include <limits>
#include <vector>

#include "engine/probes/directions.h"
#include "engine/probes/sink_scores.h"
#include "engine/probes/step_probe.h"
#include "kernels/ops.h"
#include "tests/catch.h"

using namespace sinkscope;

namespace {
const double kNan = std::numeric_limits<double>::quiet_NaN();
}

TEST_CASE("the uniform sink scores are those of the definition") {
  CHECK(uniform_sink_scores(64, 1)[0] == Approx(0.0741).epsilon(1e-3));
  CHECK(uniform_sink_scores(128, 1)[0] == Approx(0.0424).epsilon(2e-3));
  CHECK(uniform_sink_scores(512, 1)[0] == Approx(0.0133).epsilon(2e-3));
  const std::vector<double> all = uniform_sink_scores(3, 3);
  CHECK(all[0] == Approx((1.0 + 1.0 / 2 + 1.0 / 3) / 3));
  CHECK(all[1] == Approx((1.0 / 2 + 1.0 / 3) / 2));
  CHECK(all[2] == Approx(1.0 / 3));
  CHECK(uniform_sink_scores(5, 0).empty());
  CHECK_THROWS_WITH(uniform_sink_scores(4, 5), "uniform_sink_scores: 5 positions of a sequence of 4");
}

TEST_CASE("the sink excess of uniform attention is 1 everywhere") {
  for (const double excess : sink_excess(uniform_sink_scores(100, 8), 100)) CHECK(excess == Approx(1.0));
}

TEST_CASE("the dominant position is the first of the largest numbers") {
  CHECK(dominant_position(std::vector<double>{1, 3, 3, 2}) == 1);
  CHECK(dominant_position(std::vector<double>{kNan, 3, kNan, 4}) == 3);
  CHECK_FALSE(dominant_position(std::vector<double>{kNan, kNan}).has_value());
  CHECK_FALSE(dominant_position({}).has_value());
}

TEST_CASE("each sequence is thresholded by itself, strictly, before averaging") {
  SinkTally tally(2, 2, 1);
  const auto ops = make_cpu_ops(1);
  // Head means of 0.35 and 0.3, but only two of four scores are above 0.3.
  std::vector<float> sink = {0.1F, 0.3F, 0.6F, 0.31F, 0.0F, 0.0F, 0.9F, 0.3F};  // (L, B, H, K)
  std::vector<double> scores(4), above(4);                                      // (L, H, K)
  ops->sink_sums({.sink = Tensor(sink.data(), DType::f32, {2, 2, 2, 1}),
                  .threshold = 0.3F,
                  .scores = Tensor(scores.data(), DType::f64, {2, 2, 1}),
                  .above = Tensor(above.data(), DType::f64, {2, 2, 1})});
  tally.add_sums(2, scores, above);
  CHECK(tally.head_scores()[0] == Approx(0.35));
  CHECK(tally.head_scores()[1] == Approx(0.305));
  CHECK(tally.layer_scores()[1] == Approx(0.3));
  CHECK(tally.scores()[0] == Approx((0.1 + 0.3 + 0.6 + 0.31 + 0.9 + 0.3) / 8));
  CHECK(tally.layer_rates() == std::vector<double>{0.5, 0.25});
  CHECK(tally.rates() == std::vector<double>{0.375});
  CHECK(tally.rates(1) == std::vector<double>{0.25});
  CHECK(tally.rates(2).empty());
}

TEST_CASE("a tally weighs batches by their sequences") {
  SinkTally whole(2, 1, 2), parts(2, 1, 2);
  whole.add_sums(3, std::vector<double>{0.75, 1.0, 1.5, 0.5}, std::vector<double>{2, 1, 3, 0});
  parts.add_sums(1, std::vector<double>{0.25, 0.5, 0.5, 0.25}, std::vector<double>{0, 1, 1, 0});
  parts.add_sums(2, std::vector<double>{0.5, 0.5, 1.0, 0.25}, std::vector<double>{2, 0, 2, 0});
  CHECK(whole.head_scores() == std::vector<double>{0.75 / 3, 1.0 / 3, 0.5, 0.5 / 3});
  CHECK(parts.head_scores() == whole.head_scores());
  CHECK(parts.rates() == whole.rates());
  CHECK(parts.layer_rates() == whole.layer_rates());
}

TEST_CASE("step probes are means over the sequences of a step") {
  // Two layers of one head, K = 2; (2 + 1) sequences in two micro-batches.
  StepRecord record;
  fill_step({.layers = 2,
             .heads = 1,
             .positions = 2,
             .sequences = 3,
             .sink_scores = {1.2, 0.6, 0.3, 0.0},
             .sinks_above = {2, 1, 0, 0},
             .norm_first = {9, 7, 15, 6, 3, 3},
             .norm_rest = {9, 6, 3},
             .norm_ratio = {4.5, 10.5, 3}},
            record);
  REQUIRE(record.sink_score.size() == 2);
  CHECK(record.sink_score[0] == Approx(0.25));
  CHECK(record.sink_score[1] == Approx(0.1));
  CHECK(record.sink_rate == std::vector<double>{2.0 / 6, 1.0 / 6});
  REQUIRE(record.sink_score_layer.size() == 2);
  CHECK(record.sink_score_layer[0] == Approx(0.4));
  CHECK(record.sink_score_layer[1] == Approx(0.1));
  CHECK(record.residual_norm == std::vector<double>{3, 7.0 / 3, 5, 2, 1, 1});
  CHECK(record.residual_norm_rest == std::vector<double>{3, 2, 1});
  CHECK(record.norm_ratio == std::vector<double>{1.5, 3.5, 1});
}

TEST_CASE(
    "attention entropy and key mass of a step are means over the sequences that gave them, the mass over heads too") {
  // One layer of two heads, T = 3.
  StepRecord record;
  fill_step({.layers = 1, .heads = 2, .sequences = 7, .attention_sequences = 4, .entropy = {2, 1.0 / 3},
             .key_mass = {16, 6, 2}},
            record);
  CHECK(record.entropy == std::vector<double>{0.5, as_logged(1.0 / 12)});
  CHECK(record.entropy[1] == 0.083333336);  // to the precision of float
  CHECK(record.key_mass == std::vector<double>{2, 0.75, 0.25});
  CHECK(record.sink_score.empty());
}

TEST_CASE("what a step does not measure stays empty, and wrong sizes are named") {
  StepRecord record;
  fill_step({}, record);
  fill_step({.layers = 2, .heads = 1, .sequences = 3}, record);
  CHECK(record.entropy.empty());
  CHECK(record.key_mass.empty());
  CHECK(record.sink_score.empty());
  CHECK(record.residual_norm.empty());
  CHECK(record.norm_ratio.empty());
  CHECK_THROWS_WITH(fill_step({.layers = 1, .heads = 1, .positions = 2, .sequences = 1, .sink_scores = {1, 2, 3},
                               .sinks_above = {0, 0}}, record),
                    "SinkTally::add_sums: 3 sums and 2 counts, expected 2 each");
}

TEST_CASE("direction stability is the mean cosine over pairs") {
  const double half = std::sqrt(0.5);
  CHECK(std::isnan(mean_pairwise_cosine(std::vector<double>{0, 0}, 0, 0)));
  CHECK(std::isnan(mean_pairwise_cosine(std::vector<double>{1, 0}, 1, 1)));
  // Along the axes and between them: cosines 0, 1/sqrt 2 and 1/sqrt 2.
  CHECK(mean_pairwise_cosine(std::vector<double>{1 + half, 1 + half}, 3, 3) == Approx(2 * half / 3));
  CHECK(mean_pairwise_cosine(std::vector<double>{2, 0}, 2, 2) == Approx(1.0));
  // The third vector has no direction: cosine 0 with the others.
  CHECK(mean_pairwise_cosine(std::vector<double>{2, 0}, 2, 3) == Approx(1.0 / 3));
}
