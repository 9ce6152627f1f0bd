#include <cmath>
#include <nlohmann/json.hpp>

#include "support.h"
#include "tests/catch.h"
#include "tools/report/ablation_file.h"
#include "tools/report/comparison.h"
#include "tools/report/figure.h"
#include "tools/report/student.h"

using namespace sinkscope;
using namespace sinkscope::test;
using OrderedJson = nlohmann::ordered_json;

namespace {

using Factors = std::optional<std::vector<AblationFactor>>;

/// The runs of a folder with what is compared of them.
struct Compared {
  std::vector<RunData> runs;
  std::vector<ArmSummary> arms;
  Comparison comparison;

  Compared(const TemporaryFolder& folder, const std::vector<ExampleRun>& examples,
           const Factors& factors = std::nullopt) {
    for (std::size_t i = 0; i < examples.size(); ++i)
      runs.push_back(example(folder, "run" + std::to_string(i), examples[i]));
    arms = summarize(runs);
    comparison = compare_runs(runs, arms, factors);
  }
  std::vector<Statement> statements() const { return comparability(runs, arms, comparison); }
  /// The statement that holds `part`.
  Statement statement(const std::string& part) const {
    for (const Statement& candidate : statements())
      if (contains(candidate.text, part)) return candidate;
    throw std::runtime_error("no statement has \"" + part + "\"");
  }
};

ExampleRun run_of(const std::string& name, int seed, double loss, const std::string& patch = "{}", double sink = 0.01) {
  return {name, "none", 100, sink, true, true, 0, seed, loss, patch};
}

std::string rate(double value) {
  return R"({"train": {"optimizer": {"learning_rate": )" + std::to_string(value) + "}}}";
}

const PairedNumber& number_of(const ArmPair& pair, const std::string& name) {
  for (const PairedNumber& number : pair.numbers)
    if (number.name == name) return number;
  throw std::runtime_error("the pair has no " + name);
}

bool has_number(const ArmPair& pair, const std::string& name) {
  return std::any_of(pair.numbers.begin(), pair.numbers.end(), [&](const PairedNumber& n) { return n.name == name; });
}

}  // namespace

TEST_CASE("what runs of one seed share on other data is not claimed") {
  TemporaryFolder folder;
  const std::string other = R"({"run": {"dataset_fingerprint": "other"}})";
  const Compared result(folder, {run_of("a-1", 1, 0.0), run_of("a-2", 2, 0.1), run_of("b-1", 1, 0.2, other),
                                 run_of("b-2", 2, 0.4, other)});
  REQUIRE(result.comparison.pairs.size() == 1);
  CHECK_FALSE(result.statement("not the data order, since their data differ").good);
  CHECK_FALSE(result.statement("a difference between arms is also one between texts").good);
  for (const Statement& statement : result.statements()) {
    CHECK_FALSE(contains(statement.text, "count the same target tokens"));
    CHECK_FALSE(contains(statement.text, "initial weights and data order"));
  }
  CHECK_FALSE(contains(plain_summary(result.runs), "share initial weights and data order"));

  TemporaryFolder second;  // one seed
  const Compared single(second, {run_of("a", 1, 0.0), run_of("b", 1, 0.2, other)});
  CHECK_FALSE(single.statement("share one seed: initial weights, but not the data order").good);
}

TEST_CASE("runs that went on in another way than they began are named with what changed, and from where") {
  TemporaryFolder folder;
  const std::string device = R"({"run": {"device": "fp32, four cores, 4 ranks"}})";
  Compared result(folder, {run_of("a", 1, 0.0, device), run_of("b", 1, 0.2, device), run_of("c", 1, 0.3, device)});
  const auto tells = [&] {
    const std::vector<Statement> all = result.statements();
    return std::any_of(all.begin(), all.end(), [](const Statement& s) { return contains(s.text, "Runs went on in"); });
  };
  const auto resume = [&](std::size_t run, std::int64_t step, const std::string& on, const std::string& changed) {
    const std::string data = R"({"checkpoint": "c", "device": "fp32, four cores, )" + on + R"( ranks", "changed": {)" +
                             changed + "}}";
    result.runs[run].events.push_back({step, 1000 * step, "resume", "resumed", data});
  };
  resume(0, 10, "4", "");
  resume(0, 20, "4", R"("checkpoint.every": {"before": 5, "now": 6})");
  result.runs[0].events.push_back({30, 30000, "resume", "resumed", R"({"checkpoint": "c"})"});
  CHECK_FALSE(tells());  // they change no number
  resume(1, 40, "2", R"("ranks.shard": {"before": "optimizer", "now": "none"}, "threads": {"before": 0, "now": 2})");
  resume(1, 50, "2", R"("ranks.shard": {"before": "optimizer", "now": "none"}, "threads": {"before": 0, "now": 2})");
  resume(1, 60, "4", "");
  resume(2, 70, "8", "");
  REQUIRE(tells());
  const Statement statement = result.statement("Runs went on in");
  CHECK_FALSE(statement.good);
  CHECK(contains(statement.text, "than they began (b: ranks.shard \"none\", threads 2 and run.device \"fp32, four "
                                 "cores, 2 ranks\" from step 40 and as it began from step 60; c: run.device \"fp32, "
                                 "four cores, 8 ranks\" from step 70): from there on"));
}

TEST_CASE("Student's t has its tabulated quantiles") {
  // Abramowitz & Stegun, table 26.10.
  for (const auto& [freedom, quantile] : {std::pair<std::int64_t, double>(1, 12.706),
                                          {2, 4.303},
                                          {3, 3.182},
                                          {4, 2.776},
                                          {9, 2.262},
                                          {10, 2.228},
                                          {30, 2.042}})
    CHECK(student_quantile(0.95, freedom) == Approx(quantile).margin(6e-4));
  CHECK(student_quantile(0.99, 5) == Approx(4.032).margin(6e-4));
  CHECK(student_quantile(0.95, 100000) == Approx(1.95998).margin(1e-4));
  CHECK(student_quantile(0.5, 1) == Approx(1.0));
  // Differences 1, 2, 3: mean 2, s = 1.
  CHECK(student_half_width(std::vector<double>{1, 2, 3}, 0.95) == Approx(4.3027 / std::sqrt(3.0)).epsilon(1e-4));
}

TEST_CASE("runs that differ in their seed are one arm, and arms are compared in pairs of one seed") {
  TemporaryFolder folder;
  const Compared result(folder,
                        {run_of("g/low,seed-1", 1, 0.0, rate(1e-3)), run_of("g/low,seed-2", 2, 0.1, rate(1e-3)),
                         run_of("g/low,seed-3", 3, 0.2, rate(1e-3)), run_of("g/high,seed-3", 3, 0.5, rate(3e-3)),
                         run_of("g/high,seed-2", 2, 0.3, rate(3e-3)), run_of("g/high,seed-1", 1, 0.1, rate(3e-3))});
  const Comparison& comparison = result.comparison;
  REQUIRE(comparison.arms.size() == 2);
  CHECK(comparison.arms[0].label == "low");
  CHECK(comparison.arms[1].label == "high");
  CHECK(comparison.arms[1].runs == std::vector<std::size_t>{3, 4, 5});
  REQUIRE(comparison.pairs.size() == 1);
  const ArmPair& pair = comparison.pairs[0];
  CHECK(pair.factor == "train.optimizer.learning_rate");
  CHECK(pair.seeds == std::vector<std::string>{"1", "2", "3"});
  // By seed 0.1, 0.2, 0.3; the runs of "high" are given in another order.
  const PairedNumber& loss = number_of(pair, "validation loss, common targets");
  CHECK(loss.mean_from == Approx(2.85));
  CHECK(loss.mean_to == Approx(3.05));
  CHECK(loss.difference == Approx(0.2));
  CHECK(loss.half_width.value() == Approx(student_quantile(0.95, 2) * 0.1 / std::sqrt(3.0)));
  CHECK(result.statement("Every arm has the seeds 1, 2 and 3").good);
  CHECK(result.statement("in one setting alone: train.optimizer.learning_rate.").good);
  for (const Statement& statement : result.statements()) CHECK(statement.good);

  const std::string text = plain_summary(result.runs);
  CHECK(contains(text, "low → high (train.optimizer.learning_rate), seeds 1, 2, 3"));
  CHECK(pair_cells(comparison, pair).at(1) == std::vector<std::string>{"validation loss, common targets", "2.850",
                                                                       "3.050", "+0.2000", "[-0.0484, +0.4484]",
                                                                       "3 of 3"});
  CHECK(contains(text, "[-0.0484, +0.4484]  3 of 3"));
  CHECK(contains(text, "2.850 (2.750 .. 2.950)"));
  CHECK(contains(text, "Student's t over the seeds"));

  // Colours are those of arms, in the page and in the figure.
  CHECK(result.arms[2].colour == 0);
  CHECK(result.arms[3].colour == 1);
  const std::vector<RunStyle> styles = run_styles(result.runs);
  CHECK(styles[5].colour == 1);
  CHECK(styles[5].dash == 2);

  const OrderedJson json = comparison_json(result.runs);
  CHECK(json["arms"][1]["seeds"] == OrderedJson::array({3, 2, 1}));
  CHECK(json["runs"][4]["arm"] == 1);
  CHECK(json["runs"][4]["validation_loss_common"]["last"].get<double>() == Approx(3.05));
  CHECK(json["runs"][4]["step_up_layer"] == 1);
  const OrderedJson& entry = json["pairs"][0]["numbers"][0];
  CHECK(entry["name"] == "validation loss, common targets");
  CHECK(entry["difference"].get<double>() == Approx(0.2));
  CHECK(entry["low"].get<double>() == Approx(0.2 - *loss.half_width));
  CHECK(json["confidence"] == 0.95);
}

TEST_CASE("one seed gives no interval, and says so") {
  TemporaryFolder folder;
  const Compared result(folder, {run_of("g/a", 1, 0.0, rate(1e-3)), run_of("g/b", 1, 0.1, rate(3e-3))});
  REQUIRE(result.comparison.pairs.size() == 1);
  CHECK_FALSE(number_of(result.comparison.pairs[0], "validation loss, common targets").half_width);
  const std::string text = plain_summary(result.runs);
  CHECK(pair_cells(result.comparison, result.comparison.pairs[0]).at(1).at(4) == "none: one seed");
  CHECK(contains(text, "With one seed no interval is possible"));
  CHECK_FALSE(contains(text, "over their seeds"));
  CHECK(comparison_json(result.runs)["pairs"][0]["numbers"][0]["low"].is_null());
}

TEST_CASE("seeds that cannot be paired are left out, and named") {
  TemporaryFolder folder;
  ExampleRun unfinished = run_of("g/b,seed-3", 3, 0.3, rate(3e-3));
  unfinished.steps = 60;
  const Compared result(folder,
                        {run_of("g/a,seed-1", 1, 0.0, rate(1e-3)), run_of("g/a,seed-2", 2, 0.0, rate(1e-3)),
                         run_of("g/a,seed-3", 3, 0.0, rate(1e-3)), run_of("g/a,seed-5", 5, 0.0, rate(1e-3)),
                         run_of("g/b,seed-1", 1, 0.1, rate(3e-3)), unfinished, run_of("g/b,seed-4", 4, 0.1, rate(3e-3)),
                         run_of("g/b,seed-5", 5, 0.1, rate(3e-3)), run_of("g/again,seed-5", 5, 0.1, rate(3e-3))});
  REQUIRE(result.comparison.pairs.size() == 1);
  const ArmPair& pair = result.comparison.pairs[0];
  CHECK(pair.seeds == std::vector<std::string>{"1"});
  CHECK(pair.left_out ==
        std::vector<std::string>{"seed 3 is left out: its runs are at 100 of 100 steps and at 60 of 100 steps",
                                 "left out are seeds that one arm alone has: 2, 4",
                                 "left out are seeds that an arm has twice: 5"});
  CHECK_FALSE(result.statement("The arms have different seeds").good);

  // Two unfinished runs at one step are held against each other, there.
  TemporaryFolder other;
  ExampleRun first = run_of("g/a", 1, 0.0, rate(1e-3)), second = run_of("g/b", 1, 0.1, rate(3e-3));
  first.steps = second.steps = 60;
  CHECK(Compared(other, {first, second}).comparison.pairs.at(0).seeds.size() == 1);
}

TEST_CASE("runs that differ in more than what was to vary are not called comparable") {
  const std::string both = R"({"train": {"optimizer": {"learning_rate": 0.003, "weight_decay": 0.3}}})";
  const std::vector<ExampleRun> examples = {run_of("g/a", 1, 0.0, rate(1e-3)), run_of("g/b", 1, 0.1, both)};
  {
    TemporaryFolder folder;
    const Compared result(folder, examples);
    CHECK(result.comparison.pairs.empty());
    const Statement statement = result.statement("NOT COMPARABLE");
    CHECK_FALSE(statement.good);
    CHECK(contains(statement.text, "differ in train.optimizer.learning_rate and train.optimizer.weight_decay"));
    CHECK(comparison_json(result.runs)["not_comparable"] == OrderedJson::array({"a", "b"}));
  }
  {  // one of them was to vary
    TemporaryFolder folder;
    const Compared result(folder, examples,
                          Factors{{{"train.optimizer.learning_rate", {"train.optimizer.learning_rate"}}}});
    CHECK(result.comparison.pairs.empty());
    CHECK(result.comparison.unexpected == std::vector<std::string>{"train.optimizer.weight_decay"});
    CHECK(contains(
        result.statement("NOT COMPARABLE").text,
        "besides what was to vary (train.optimizer.learning_rate) the arms differ in train.optimizer.weight_decay"));
  }
  {  // both together
    TemporaryFolder folder;
    const Compared result(folder, examples,
                          Factors{{{"optimizer", {"train.optimizer.learning_rate", "train.optimizer.weight_decay"}}}});
    REQUIRE(result.comparison.pairs.size() == 1);
    CHECK(result.comparison.pairs[0].factor == "optimizer");
    CHECK(result
              .statement(
                  "what was to vary alone: optimizer (train.optimizer.learning_rate and train.optimizer.weight_decay)")
              .good);
  }
  {  // how it is measured counts too
    TemporaryFolder folder;
    const Compared result(
        folder,
        {run_of("g/a", 1, 0.0),
         run_of("g/b", 1, 0.0,
                R"({"probes": {"sink_threshold": 0.4}, "train": {"optimizer": {"learning_rate": 0.3}}})")},
        Factors{{{"train.optimizer.learning_rate", {"train.optimizer.learning_rate"}}}});
    CHECK(result.comparison.unexpected == std::vector<std::string>{"probes.sink_threshold"});
    CHECK(result.comparison.pairs.empty());
  }
}

TEST_CASE("what a setting can do to the numbers goes by its key") {
  for (const char* key :
       {"name", "output", "log.every", "alerts.command", "checkpoint.keep", "sample.every", "ablation.data.bos",
        "train.recompute", "train.cuda_graph", "probes.causal_every", "ranks.timeout"})
    CHECK(influence_of(key) == Influence::none);
  for (const char* key :
       {"threads", "device", "ranks.gpus", "ranks.shard", "ranks.reduce_dtype", "ranks.copy_engines", "run.build"})
    CHECK(influence_of(key) == Influence::rounding);
  for (const char* key : {"probes.every", "evaluation.batches", "data.common_targets"})
    CHECK(influence_of(key) == Influence::measured);
  for (const char* key : {"train.steps", "precision", "model.heads", "run.dataset_fingerprint"})
    CHECK(influence_of(key) == Influence::trained);
}

TEST_CASE("what cannot influence the numbers, or follows from the rest, is told apart") {
  TemporaryFolder folder;
  const std::string more =
      R"({"output": "elsewhere", "log": {"every": 5}, "checkpoint": {"every": 9}, "sample": {"every": 3}, "threads": 3,
      "data": {"path": "moved"}, "probes": {"causal_every": 10},
      "run": {"device": "fp32, 3 threads", "parameters": 9}})";
  const Compared result(folder, {run_of("a", 1, 0.0), run_of("b", 2, 0.1, more)});
  CHECK(result.comparison.arms.size() == 1);
  CHECK(result.comparison.pairs.empty());
  CHECK(result.statement("Nothing that can influence the numbers differs, but for the seed.").good);
  CHECK_FALSE(result.statement("computed in one way (run.device and threads below)").good);
  for (const SettingDifference& setting : result.comparison.settings) {
    INFO(setting.key);
    const bool rounding = setting.key == "threads" || setting.key == "run.device";
    const bool none = setting.key.starts_with("log.") || setting.key.starts_with("checkpoint.") ||
                      setting.key.starts_with("sample.") || setting.key == "data.path" ||
                      setting.key == "probes.causal_every";
    CHECK((setting.influence == Influence::rounding) == rounding);
    CHECK((setting.influence == Influence::none) == none);
    if (setting.key == "run.parameters") CHECK(setting.follows);
  }
  CHECK(contains(plain_summary(result.runs), "log.every (changes no number)"));

  // Other text at the same path, and other precisions, do influence them.
  TemporaryFolder second;
  CHECK(Compared(second, {run_of("a", 1, 0.0), run_of("b", 2, 0.1, R"({"run": {"dataset_fingerprint": "other"}})")})
            .comparison.arms.size() == 2);
  TemporaryFolder third;
  const Compared precisions(third, {run_of("a", 1, 0.0, R"({"run": {"device": "fp32, x"}})"),
                                    run_of("b", 1, 0.1, R"({"run": {"device": "bf16, x"}})"),
                                    run_of("c", 1, 0.1, R"({"run": {"device": "bf16 with FP8 products, x"}})")});
  CHECK(precisions.comparison.arms.size() == 3);
  CHECK(contains(precisions.statement("in one setting alone").text, "run.device"));

  // What a run computes in follows from the precision that it sets, where it does in every one.
  const auto computed = [](const std::string& precision, const std::string& device) {
    return R"({"precision": ")" + precision + R"(", "run": {"device": ")" + device + R"(, x"}})";
  };
  TemporaryFolder set;
  const Compared as_set(set, {run_of("a", 1, 0.0, computed("bf16", "bf16")),
                              run_of("b", 1, 0.1, computed("fp8", "bf16 with FP8 products"))});
  REQUIRE(as_set.comparison.pairs.size() == 1);
  CHECK(as_set.comparison.pairs[0].factor == "precision");
  const auto device_follows = [](const Compared& compared) {
    const auto& settings = compared.comparison.settings;
    return std::find_if(settings.begin(), settings.end(),
                        [](const auto& setting) { return setting.key == "run.device"; })
        ->follows;
  };
  CHECK(device_follows(as_set));
  CHECK_FALSE(device_follows(precisions));
  TemporaryFolder otherwise;
  const Compared unlike(otherwise,
                        {run_of("a", 1, 0.0, computed("auto", "fp32")), run_of("b", 1, 0.1, computed("auto", "bf16")),
                         run_of("c", 1, 0.1, computed("fp8", "bf16 with FP8 products"))});
  CHECK_FALSE(device_follows(unlike));

  // Sizes that a config leaves open follow from those that it names.
  TemporaryFolder fourth;
  const auto model = [](int heads, int kv_heads, int head_dim) {
    return R"({"model": {"channels": 64, "heads": )" + std::to_string(heads) + R"(, "kv_heads": )" +
           std::to_string(kv_heads) + R"(, "head_dim": )" + std::to_string(head_dim) +
           R"(, "max_sequence_length": 128}})";
  };
  const Compared heads(fourth, {run_of("a", 1, 0.0, model(4, 4, 16)), run_of("b", 1, 0.1, model(8, 8, 8))});
  REQUIRE(heads.comparison.pairs.size() == 1);
  CHECK(heads.comparison.pairs[0].factor == "model.heads");
  TemporaryFolder fifth;
  CHECK(Compared(fifth, {run_of("a", 1, 0.0, model(4, 4, 16)), run_of("b", 1, 0.1, model(8, 8, 4))})
            .comparison.pairs.empty());
}

TEST_CASE("a grid compares arms that differ in one factor, with the first level of it") {
  TemporaryFolder folder;
  const auto cell = [](const std::string& name, double learning_rate, double decay) {
    return run_of(name, 1, 0.0,
                  R"({"train": {"optimizer": {"learning_rate": )" + std::to_string(learning_rate) +
                      R"(, "weight_decay": )" + std::to_string(decay) + "}}}");
  };
  const Compared result(folder, {cell("a1", 1, 1), cell("a2", 1, 2), cell("a3", 1, 3), cell("b1", 2, 1),
                                 cell("b2", 2, 2), cell("c4", 3, 4)});
  std::vector<std::string> pairs;
  for (const ArmPair& pair : result.comparison.pairs)
    pairs.push_back(result.arms[pair.from].label + result.arms[pair.to].label + " " +
                    pair.factor.substr(pair.factor.rfind('.') + 1));
  CHECK(pairs == std::vector<std::string>{"a1a2 weight_decay", "a1a3 weight_decay", "a1b1 learning_rate",
                                          "a2b2 learning_rate", "b1b2 weight_decay"});
  CHECK(result.comparison.unpaired == std::vector<std::string>{"c4"});
  CHECK(contains(result.statement("compared are arms that differ in one of them").text,
                 "c4 differs from every other arm in more than one of them"));
}

TEST_CASE("numbers that a pair does not share are left out") {
  TemporaryFolder folder;
  const Compared result(folder,
                        {run_of("a", 1, 0.0, R"({"train": {"sequence_length": 64}})"), run_of("b", 1, 0.0, "{}", 0.0)});
  REQUIRE(result.comparison.pairs.size() == 1);
  const ArmPair& pair = result.comparison.pairs[0];
  CHECK_FALSE(has_number(pair, "sink rate P0"));  // at other lengths
  CHECK(contains(pair.left_out.at(0), "scores at 64 and 128 tokens are not compared"));
  CHECK_FALSE(has_number(pair, "sink onset, step"));  // b has none
  CHECK(number_of(pair, "sink excess P0").difference == Approx(-1.0));
  CHECK(has_number(pair, "tokens per second, median"));
}

TEST_CASE("the file of an ablation names what its arms vary") {
  TemporaryFolder folder;
  const auto grid = folder / "runs" / "grid";
  const std::vector<AblationFactor> factors = {{"context", {"train.sequence_length", "train.micro_batch"}},
                                               {"train.seed", {"train.seed"}}};
  write_run(grid / "a", run_of("grid/a", 1, 0.0));
  write_run(grid / "b", run_of("grid/b", 1, 0.0));
  CHECK_FALSE(read_ablation_file(grid));
  write_ablation_file(grid, {factors, {grid / "a", grid / "b"}});
  const auto read = common_ablation({grid / "b", grid / "a" / ""});
  REQUIRE(read);
  CHECK(read->at(0).keys == factors[0].keys);
  CHECK(read->at(1).name == "train.seed");
  write_run(grid / "stranger", run_of("grid/stranger", 1, 0.0));
  CHECK_FALSE(common_ablation({grid / "a", grid / "stranger"}));
  CHECK_FALSE(common_ablation({folder / "runs"}));
  write_file(grid / "ablation.json", R"({"factors": [{"name": 3}]})");
  CHECK(
      contains(message_of([&] { read_ablation_file(grid); }), "ablation.json: not as `sinkscope ablate` writes it: "));
}
