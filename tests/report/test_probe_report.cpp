#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/files.h"
#include "tests/report/markup.h"
#include "tests/report/support.h"
#include "tools/report/format.h"
#include "tools/report/probe_report.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr std::int64_t kLayers = 3, kHeads = 2, kPositions = 4, kLength = 16;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Scores 0.1 * (layer + 1) + 0.01 * head at position 0 and 0.05 elsewhere; norms of position 0 are 2, 4, 8 times the
/// others'.
ProbeRecord probe_record(const std::string& set) {
  const std::size_t L = kLayers, H = kHeads, K = kPositions, T = kLength;
  ProbeRecord record;
  record.set = set;
  record.length = kLength;
  record.sequences = 5;
  record.loss = 3.25;
  record.layers = kLayers;
  record.heads = kHeads;
  record.kv_heads = 1;
  record.positions = kPositions;
  record.sink_score.assign(L * H * K, 0.05);
  for (std::size_t l = 0; l < L; ++l)
    for (std::size_t h = 0; h < H; ++h)
      record.sink_score[(l * H + h) * K] = 0.1 * static_cast<double>(l + 1) + 0.01 * static_cast<double>(h);
  record.sink_rate = {0.125, 0, 0, 0};
  record.sink_rate_layer.assign(L * K, 0.25);
  record.sink_rate_from = {0.375, 0, 0, 0};
  record.sink_excess = {4.5, 0.75, 0.5, 0.5};
  record.dominant_position_layer.assign(L, 0);
  record.first_token_mass.assign(L * H, 0.2);
  record.first_token_argmax.assign(L * H, 0.2);
  record.entropy.assign(L * H, 1.5);
  record.key_mass.assign(L * T, 0.5);
  for (std::size_t l = 0; l < L; ++l) record.key_mass[l * T] = 8.5;
  record.residual_norm.assign((L + 1) * K, 10);
  record.residual_norm_rest.assign(L + 1, 10);
  record.norm_ratio = {1, 2, 4, 8};
  record.attention_output_norm.assign(L * K, 1);
  record.attention_output_norm_rest.assign(L, 1);
  record.mlp_output_norm.assign(L * K, 1);
  record.mlp_output_norm_rest.assign(L, 1);
  record.mlp_amplification = {1.5, 2.5, 1};
  record.key_norm_first.assign(L, 1);
  record.key_norm_rest.assign(L, 2);
  record.value_norm_first = {1, 1, 0.25};
  record.value_norm_rest.assign(L, 1);
  record.cosine_first.assign(L * H, 0);
  record.cosine_rest.assign(L * H, 0);
  record.massive_ratio.assign(L, 30);
  record.massive_position.assign(L, 0);
  record.massive_channel.assign(L, 7);
  record.direction_stability.assign(L, 0.99);
  record.direction_stability_middle.assign(L, 0.1);
  record.step_up_layer = 1;
  record.concentration = 0.5;
  return record;
}

CausalTest causal_test(const std::string& kind, std::optional<std::int64_t> layer, double removed, double moved) {
  CausalTest test;
  test.kind = kind;
  test.layer = layer;
  test.first = {around(0.2), around(4.5), around(0.3), around(8)};
  test.other = {around(0.05), around(1), around(0), around(1)};
  test.loss = around(3);
  test.loss_change = around(0.25);
  test.removed = around(removed);
  test.moved = around(moved);
  return test;
}

CausalRecord causal_record() {
  CausalRecord record;
  record.set = "natural";
  record.length = kLength;
  record.sequences = 5;
  record.position = 4;
  record.sink_threshold = 0.3;
  record.confidence = 0.95;
  record.resamples = 2000;
  record.sink_formed = true;
  record.step_up_layer = 1;
  record.source_layer = 1;
  record.tests.push_back(causal_test("none", std::nullopt, 0, 0));
  for (std::int64_t l = 0; l < kLayers; ++l)
    record.tests.push_back(causal_test("knock_out_mlp", l, l == 1 ? 0.9 : 0.2, 0));
  for (std::int64_t l = 0; l < kLayers; ++l) record.tests.push_back(causal_test("knock_out_attention", l, 0.02, 0));
  for (std::int64_t l = 0; l + 1 < kLayers; ++l) record.tests.push_back(causal_test("transplant", l, 0, 0.6));
  record.tests.push_back(causal_test("transplant_random_direction", 1, 0, 0.03));
  record.tests.push_back(causal_test("transplant_small", 1, 0, 0.04));
  record.tests.push_back(causal_test("isolate", 2, 0, 0.7));
  record.tests.push_back(causal_test("rotary_shift", 12, 0.01, 0));
  return record;
}

ProbeReport report() {
  ProbeReport report;
  report.source = "runs/small";
  report.step = 1200;
  report.device = "fp32 CPU";
  report.build = "sinkscope 1.2";
  report.model.layers = kLayers;
  report.model.heads = kHeads;
  report.parameters = 41'000'000;
  report.sets = {probe_record("natural"), probe_record("random")};
  report.sets[1].sink_excess[0] = 1.25;
  report.causal = causal_record();
  return report;
}

/// All that a reader sees or hears, attributes included.
void check_page(const std::string& page) {
  CHECK(markup_fault(page, true).empty());
  INFO(markup_fault(page, true));
  const std::string drawn = page.substr(page.find("</style>"));
  for (const char* text : {"nan", "NaN", "\"inf", "\"-inf", "<script", "http:", "https:", "src=", "href="}) {
    INFO(text);
    CHECK_FALSE(contains(drawn, text));
  }
}

}  // namespace

TEST_CASE("the page of a probed model shows every table, map and chart") {
  const ProbeReport probed = report();
  const std::string page = probe_page(probed);
  check_page(page);
  for (const char* text :
       {"<title>Attention sinks in runs/small</title>",
        "Step 1200. 41 M parameters, 3 layers of 2 heads. On fp32 CPU, by sinkscope 1.2.", "prefers-color-scheme: dark",
        "title=\"layer 2, head 1: 0.3100\"", "title=\"layer 2, position 0: 0.3050\"",
        "title=\"layer 0, position 3: 0.0500\"", ">0.310</span>", "<title>layer 2: 8.000</title>",
        "<title>layer 1: 2.500</title>", "layer 1, MLP: 90 % [80, 100]", "layer 1, attention: 2 % [-8, 12]",
        "after layer 0: 60 % [50, 70]", "random direction, layer 1: 3 % [-7, 13]", "small norm, layer 1: 4 % [-6, 14]",
        "isolated below layer 2: 70 % [60, 80]", "95 % bootstrap over sequences, 2000 resamples",
        "What the numbers mean"})
    CHECK(contains(page, text));
  CHECK(count_of(page, "<svg") == 5);  // R, G, key mass, removed, moved
  for (const ProbeTable& table : {probe_set_table(probed), probe_layer_table(probed), causal_table(*probed.causal)})
    for (const auto& row : table)
      for (const std::string& cell : row)
        CHECK((contains(page, ">" + escape_html(cell) + "</td>") || contains(page, ">" + escape_html(cell) + "</th>")));
  for (const std::string& sentence : causal_reading(*probed.causal))
    CHECK(contains(page, "<p>" + escape_html(sentence) + "</p>"));
}

TEST_CASE("a page without causal tests has none of their sections") {
  ProbeReport probed = report();
  probed.causal.reset();
  const std::string page = probe_page(probed);
  check_page(page);
  CHECK(count_of(page, "<svg") == 3);
  CHECK_FALSE(contains(page, "Causal tests"));
}

TEST_CASE("names from outside are text on the page") {
  ProbeReport probed = report();
  const std::string bad = "</title><script>alert(\"1\")</script>&'";
  probed.source = probed.device = probed.build = bad;
  probed.sets[0].set = probed.sets[1].set = probed.causal->set = bad;
  const std::string page = probe_page(probed);
  check_page(page);
  CHECK(contains(page, "&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;"));
}

TEST_CASE("the mass on sink logits is a column of models that have them") {
  ProbeReport probed = report();
  const ProbeTable without = probe_layer_table(probed);
  CHECK(without[0].back() == "stable");
  CHECK_FALSE(contains(probe_text(probed), "sink logit"));
  probed.sets[probed.shown].sink_logit_mass = {0.125, 0.5, 0.75};
  const ProbeTable table = probe_layer_table(probed);
  REQUIRE(table.size() == without.size());
  CHECK(table[0].back() == "on logit");
  CHECK(table[2].back() == "0.500");
  for (std::size_t row = 0; row < table.size(); ++row) CHECK(table[row].size() == without[row].size() + 1);
  CHECK(contains(probe_text(probed), "on logit: attention on the sink logit, mean over queries):"));
  check_page(probe_page(probed));
}

TEST_CASE("what is not defined is a dash on the page and in the text") {
  ProbeReport probed = report();
  for (ProbeRecord& set : probed.sets) {
    for (std::vector<double>* values :
         {&set.sink_score, &set.sink_rate, &set.sink_rate_layer, &set.sink_rate_from, &set.sink_excess, &set.entropy,
          &set.key_mass, &set.residual_norm, &set.residual_norm_rest, &set.norm_ratio, &set.attention_output_norm,
          &set.attention_output_norm_rest, &set.mlp_output_norm, &set.mlp_output_norm_rest, &set.mlp_amplification,
          &set.key_norm_first, &set.value_norm_first, &set.massive_ratio, &set.direction_stability})
      values->assign(values->size(), kNan);
    set.step_up_layer.reset();
    set.concentration.reset();
    set.loss = kNan;
  }
  const Estimate none{kNan, kNan, kNan};
  for (CausalTest& test : probed.causal->tests) {
    test.first = test.other = {none, none, none, none};
    test.loss = test.loss_change = test.removed = test.moved = none;
  }
  const std::string page = probe_page(probed), text = probe_text(probed);
  check_page(page);
  CHECK(contains(page, "title=\"layer 0, head 0: -\">-</td>"));
  CHECK(count_of(page, "<p>-</p>") == 3);     // R, G, key mass
  CHECK(count_of(page, ">-</text>") == 6 + 5);  // a bar each
  CHECK_FALSE(contains(text, "nan"));
  CHECK_FALSE(contains(text, "NaN"));
}

TEST_CASE("single values that are not defined leave the rest of a chart") {
  ProbeReport probed = report();
  probed.sets[0].norm_ratio[2] = kNan;
  probed.sets[0].mlp_amplification[0] = std::numeric_limits<double>::infinity();
  probed.sets[0].key_mass[3] = kNan;
  probed.sets[0].sink_score[0] = kNan;
  probed.causal->tests[1].removed = {kNan, -20, 20};
  probed.causal->tests[2].removed = {30, -40, 50};  // beyond the axis
  const std::string page = probe_page(probed);
  check_page(page);
  CHECK(count_of(page, "<svg") == 5);
  CHECK(contains(page, "<title>layer 0: 2.000</title>"));
  CHECK(contains(page, "<title>layer 2: 8.000</title>"));
  CHECK_FALSE(contains(page, "<title>layer 1: -</title>"));
  CHECK(contains(page, "layer 1, MLP: 3000 % [-4000, 5000]"));
}

TEST_CASE("many heads still fit, with their values where a reader or a hand finds them") {
  ProbeReport probed = report();
  ProbeRecord& set = probed.sets[0];
  set.heads = 64;
  set.sink_score.assign(static_cast<std::size_t>(kLayers * 64 * kPositions), 0.5);
  for (std::vector<double>* values : {&set.entropy, &set.first_token_mass})
    values->assign(static_cast<std::size_t>(kLayers) * 64, 1);
  const std::string page = probe_page(probed);
  check_page(page);
  CHECK(count_of(page, "class=\"scroll heat dense\"") == 1);
  CHECK(contains(page, "title=\"layer 2, head 63: 0.5000\""));
}

TEST_CASE("the text and the JSON of a report hold its numbers") {
  const ProbeReport probed = report();
  const std::string text = probe_text(probed);
  for (const char* part : {"runs/small, step 1200: 41 M parameters", "natural", "4.50", "no MLP at P0, layer 1",
                           "90 [80, 100]", "position 4"})
    CHECK(contains(text, part));
  const nlohmann::ordered_json json = to_json(probed);
  CHECK(json["sets"].size() == 2);
  CHECK(json["sets"][0]["set"] == "natural");
  CHECK(json["causal"]["tests"].size() == probed.causal->tests.size());
  CHECK(json["reading"].size() == causal_reading(*probed.causal).size());
}
