#include <cmath>
#include <limits>
#include <vector>

#include "engine/probes/norms.h"
#include "engine/probes/sink_scores.h"
#include "engine/probes/step_probe.h"
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
  SinkTally tally(2, 2, 1, 0.3);
  // Head means of 0.35 and 0.3, but only two of four scores are above 0.3.
  tally.add(0, 2, std::vector<float>{0.1F, 0.3F, 0.6F, 0.31F});
  tally.add(1, 2, std::vector<float>{0.0F, 0.0F, 0.9F, 0.3F});
  CHECK(tally.head_scores()[0] == Approx(0.35));
  CHECK(tally.head_scores()[1] == Approx(0.305));
  CHECK(tally.layer_scores()[1] == Approx(0.3));
  CHECK(tally.scores()[0] == Approx((0.1 + 0.3 + 0.6 + 0.31 + 0.9 + 0.3) / 8));
  CHECK(tally.layer_rates() == std::vector<double>{0.5, 0.25});
  CHECK(tally.rates() == std::vector<double>{0.375});
  CHECK(tally.rates(1) == std::vector<double>{0.25});
  CHECK(tally.rates(2).empty());
  CHECK_THROWS_AS(tally.add(2, 1, std::vector<float>{1, 1}), std::invalid_argument);
  CHECK_THROWS_AS(tally.add(0, 2, std::vector<float>{1, 1}), std::invalid_argument);
}

TEST_CASE("a tally does not depend on how the sequences are cut into batches") {
  SinkTally whole(1, 1, 2, 0.3), parts(1, 1, 2, 0.3);
  const std::vector<float> scores = {0.1F, 0.2F, 0.4F, 0.7F, 0.35F, 0.05F};
  whole.add(0, 3, scores);
  parts.add(0, 1, std::span(scores).first(2));
  parts.add(0, 2, std::span(scores).last(4));
  CHECK(whole.head_scores() == parts.head_scores());
  CHECK(whole.rates() == parts.rates());
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

TEST_CASE("what a step does not measure stays empty, and wrong sizes are named") {
  StepRecord record;
  fill_step({}, record);
  fill_step({.layers = 2, .heads = 1, .sequences = 3}, record);
  CHECK(record.sink_score.empty());
  CHECK(record.residual_norm.empty());
  CHECK(record.norm_ratio.empty());
  CHECK_THROWS_WITH(fill_step({.layers = 1, .heads = 1, .positions = 2, .sequences = 1, .sink_scores = {1, 2, 3},
                               .sinks_above = {0, 0}}, record),
                    "SinkTally::add_sums: 3 sums and 2 counts, expected 2 each");
}

TEST_CASE("norms are averaged for each sequence by itself") {
  const std::vector<float> norms = {6, 1, 2, 3, 8, 4, 4, 0};  // (2, 4)
  std::vector<double> first(2, 0.0);
  double rest = 0;
  add_norms(norms, 4, first, rest);
  CHECK(first == std::vector<double>{14, 5});
  CHECK(rest == 2.5 + 2.0);
  CHECK(norm_ratio_sum(norms, 4) == Approx(6.0 / 2 + 8.0 / (8.0 / 3)));
  const std::vector<float> middle(8, 2.0F);
  CHECK(amplification_sum(norms, middle, 4) == Approx(6.0 / 2 + 3.0));
}

TEST_CASE("direction stability is the mean cosine over pairs, whatever the lengths") {
  DirectionTally tally(2);
  CHECK(std::isnan(tally.mean_cosine()));
  tally.add(std::vector<float>{3, 0});
  CHECK(std::isnan(tally.mean_cosine()));
  tally.add(std::vector<float>{0, 7, 5, 5});
  CHECK(tally.mean_cosine() == Approx((0 + 2 * std::sqrt(0.5)) / 3));
  tally.clear();
  tally.add(std::vector<float>{1, 2, 2, 4});
  CHECK(tally.mean_cosine() == Approx(1.0));
  tally.add(std::vector<float>{0, 0});  // no direction: cosine 0 with the others
  CHECK(tally.mean_cosine() == Approx(1.0 / 3));
}
