// Training on several ranks of the CPU against training on one.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/metrics/sinks.h"
#include "engine/model/parameters.h"
#include "tests/catch.h"
#include "tests/comm/mpirun.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::run_ranks;
using test::Workplace;

/// Eight sequences a step, in four passes of one rank.
const std::string kStep = " --set threads=1 --set train.micro_batch=2 --set train.gradient_accumulation=4"
                          " --set train.optimizer.learning_rate=0.003";

double difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]) / (1e-3 + std::abs(b[i])));
  return largest;
}

/// The largest relative difference of what two runs logged of their steps.
double step_difference(const fs::path& a, const fs::path& b) {
  const std::vector<StepRecord> first = read_step_records(a), second = read_step_records(b);
  if (first.size() != second.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const StepRecord &x = first[i], &y = second[i];
    if (x.step != y.step || x.tokens != y.tokens || x.validation_loss.has_value() != y.validation_loss.has_value()) return INFINITY;
    largest = std::max({largest,
                        difference({x.loss, x.loss_common, x.gradient_norm, x.learning_rate, x.validation_loss.value_or(0),
                                    x.validation_loss_common.value_or(0)},
                                   {y.loss, y.loss_common, y.gradient_norm, y.learning_rate, y.validation_loss.value_or(0),
                                    y.validation_loss_common.value_or(0)}),
                        difference(x.sink_score, y.sink_score), difference(x.sink_score_layer, y.sink_score_layer),
                        difference(x.residual_norm, y.residual_norm), difference(x.residual_norm_rest, y.residual_norm_rest),
                        difference(x.norm_ratio, y.norm_ratio),
                        difference(x.gradient_norm_attention, y.gradient_norm_attention),
                        difference(x.gradient_norm_mlp, y.gradient_norm_mlp)});
    // Shares of (sequence, layer, head): one that stands at the threshold may fall on either side.
    for (std::size_t k = 0; k < x.sink_rate.size(); ++k)
      if (std::abs(x.sink_rate[k] - y.sink_rate[k]) > 1.5 / (8 * 3 * 2)) return INFINITY;
  }
  return largest;
}

double probe_difference(const fs::path& a, const fs::path& b) {
  const std::vector<ProbeRecord> first = read_probe_records(a), second = read_probe_records(b);
  if (first.size() != second.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (first[i].step != second[i].step || first[i].set != second[i].set) return INFINITY;
    largest = std::max({largest, difference(first[i].sink_score, second[i].sink_score),
                        difference(first[i].residual_norm, second[i].residual_norm),
                        difference({first[i].loss}, {second[i].loss})});
  }
  return largest;
}

TEST_CASE("every call between ranks gives the sums of all, in rank order") {
  const Workplace place;
  for (const int ranks : {2, 3, 4}) {
    const Outcome outcome = place.run("--version", test::mpirun(ranks) + " " SINKSCOPE_RANK_CHECKS " &&");
    INFO(outcome.output);
    CHECK(outcome.status == 0);
    CHECK(test::contains(outcome.output, std::to_string(ranks) + " ranks agree"));
  }
}

TEST_CASE("a run of 100 steps is that of one rank on 2 and on 4, and to the bit that of as many ranks again") {
  const Workplace place;
  const auto train = [&](int ranks, const std::string& name) {
    const Outcome outcome = run_ranks(place, ranks, "train config.json --set train.steps=100 --set name=" + name + kStep);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    CHECK(test::contains(outcome.output, "run: runs/" + name));
    return place.path() / "runs" / name;
  };
  const fs::path one = train(1, "one"), two = train(2, "two"), four = train(4, "four"), again = train(4, "again");
  REQUIRE(read_step_records(one).size() == 100);
  for (const fs::path& run : {two, four}) {
    INFO(run);
    CHECK(step_difference(run, one) < 2e-4);
    CHECK(step_difference(run, one) > 0);  // sums in another order
    CHECK(probe_difference(run, one) < 2e-4);
  }
  for (const char* log : {"metrics.jsonl", "probes.jsonl", "events.jsonl"})
    CHECK(test::timeless_lines(again / log) == test::timeless_lines(four / log));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"})
    CHECK(test::read_file(again / "checkpoints/step_00000100" / file) ==
          test::read_file(four / "checkpoints/step_00000100" / file));
  const auto start = read_event_records(four).front();
  CHECK(test::contains(nlohmann::json::parse(start.data).at("device"), ", 4 ranks, Open MPI "));
}

TEST_CASE("ranks whose share is less than a micro-batch, or no multiple of it, compute the same") {
  const Workplace place;
  const auto train = [&](int ranks, const std::string& step) {
    const std::string name = "run-" + std::to_string(ranks) + "-" + std::to_string(step.size());
    const Outcome outcome = run_ranks(place, ranks, "train config.json --set threads=1 --set train.steps=10 --set name=" + name + step);
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    return place.path() / "runs" / name;
  };
  for (const std::string step : {" --set train.micro_batch=8", " --set train.micro_batch=3 --set train.gradient_accumulation=4"})
    CHECK(step_difference(train(4, step), train(1, step)) < 1e-4);
}

TEST_CASE("a checkpoint of 4 ranks goes on on 2 and on 1, and a signal to one rank stops all") {
  const Workplace place;
  const std::string begin = "train config.json --set checkpoint.every=0 --set name=", step = kStep + " --set train.steps=60";
  REQUIRE(run_ranks(place, 1, begin + "whole" + step).status == 0);
  const auto stop = [](int rank) {
    return [rank](const std::vector<pid_t>& processes) { kill(processes[static_cast<std::size_t>(rank)], SIGTERM); };
  };
  const std::string metrics = "runs/parts/metrics.jsonl";
  Outcome outcome = test::run_ranks_until(place, 4, begin + "parts" + step, metrics, 5, stop(2));
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  CHECK(test::contains(outcome.output, "go on with: sinkscope train config.json"));
  const std::size_t first_stop = read_step_records(place.path() / "runs/parts").size();
  CHECK(first_stop < 60);
  CHECK(newest_checkpoint(place.path() / "runs/parts/checkpoints").has_value());
  outcome = test::run_ranks_until(place, 2, begin + "parts" + step + " --resume", metrics, first_stop + 5, stop(0));
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  REQUIRE(read_step_records(place.path() / "runs/parts").size() < 60);
  outcome = run_ranks(place, 1, begin + "parts" + step + " --resume");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK(step_difference(place.path() / "runs/parts", place.path() / "runs/whole") < 2e-4);
  int resumed = 0;
  for (const EventRecord& event : read_event_records(place.path() / "runs/parts")) resumed += event.kind == "resume" ? 1 : 0;
  CHECK(resumed == 2);
}

TEST_CASE("a run resumed on the ranks that it had goes on to the bit") {
  const Workplace place;
  const std::string begin = "train config.json --set checkpoint.every=10 --set name=", step = kStep + " --set train.steps=30";
  REQUIRE(run_ranks(place, 2, begin + "whole" + step).status == 0);
  const Outcome stopped = test::run_ranks_until(place, 2, begin + "parts" + step, "runs/parts/metrics.jsonl", 7,
                                                [](const std::vector<pid_t>& processes) { kill(processes[1], SIGTERM); });
  CHECK(stopped.status == 143);
  REQUIRE(run_ranks(place, 2, begin + "parts" + step + " --resume").status == 0);
  for (const char* log : {"metrics.jsonl", "probes.jsonl"})
    CHECK(test::timeless_lines(place.path() / "runs/parts" / log) == test::timeless_lines(place.path() / "runs/whole" / log));
  CHECK(place.read("runs/parts/checkpoints/step_00000030/model.safetensors") ==
        place.read("runs/whole/checkpoints/step_00000030/model.safetensors"));
}

}  // namespace
}  // namespace sinkscope
