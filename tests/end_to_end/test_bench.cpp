#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;

TEST_CASE("bench prints and writes the step, the operations and the rates they are held against") {
  const Workplace place;
  const Outcome outcome =
      place.run("bench config.json --steps 2 --kernels --repeats 1 --json bench.json --set device=cpu");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  for (const char* part : {"training step", "probe pass", "every 10 steps", "step before it", "FLOPs counted",
                           "peak memory", "attention backward", "adamw", "a step, calls times ms"})
    CHECK(contains(outcome.output, part));
  CHECK_FALSE(contains(outcome.output, "datasheet"));  // a CPU has no peak by name

  const auto json = nlohmann::ordered_json::parse(place.read("bench.json"));
  CHECK(json.at("gpu").is_null());
  CHECK(json.at("ceilings").at("copy_bytes_per_second") > 0.0);
  CHECK(json.at("ceilings").at("matrix_size") == 2048);
  CHECK(json.at("ceilings").at("datasheet_flops_per_second").is_null());
  CHECK(json.at("step").at("steps") == 2);
  CHECK(json.at("step").at("tokens_per_second") > 0.0);
  CHECK(json.at("step").at("mfu_datasheet").is_null());
  CHECK(json.at("step").at("mfu_measured") > 0.0);
  CHECK(json.at("step").at("probes_share").is_number());
  CHECK(json.at("step").at("probe_pass_milliseconds") > 0.0);
  CHECK(json.at("step").at("probe_pass_fastest_milliseconds") <= json.at("step").at("probe_pass_milliseconds"));
  CHECK(json.at("step").at("probe_pass_share") > 0.0);
  CHECK(json.at("step").at("measured_step_milliseconds").is_number());
  CHECK(json.at("step").at("measured_step_share").is_number());
  CHECK(json.at("step").at("peak_memory_bytes") > 1e6);
  CHECK(json.at("kernels").size() > 30);
  for (const auto& kernel : json.at("kernels")) {
    INFO(kernel.dump());
    CHECK(kernel.at("milliseconds") > 0.0);
    CHECK(kernel.at("share_of_bound") > 0.0);
  }
  CHECK(json.at("config").at("model").at("layers").is_number());

  CHECK(json.at("config").at("model").at("vocab_size") == 258);  // that of the dataset
  CHECK(contains(outcome.output, "vocabulary                 258 tokens (of the dataset, data.path \"data\")"));

  const Outcome rates = place.run("bench config.json --steps 0 --json bench.json --set model.vocab_size=300");
  INFO(rates.output);
  CHECK(rates.status == 0);
  const auto shorter = nlohmann::ordered_json::parse(place.read("bench.json"));
  CHECK(shorter.at("config").at("model").at("vocab_size") == 300);
  CHECK_FALSE(shorter.contains("step"));
  CHECK_FALSE(shorter.contains("kernels"));
  CHECK(shorter.at("vocabulary_source") == "model.vocab_size");
  const Outcome shards =
      place.run("bench config.json --steps 0 --set data.path= --set 'data.train=[\"data/train_*.bin\"]'");
  CHECK(contains(shards.output, "  258 tokens (of the dataset, data.train)"));
  const Outcome assumed = place.run("bench config.json --steps 0 --set data.path=nowhere");
  INFO(assumed.output);
  CHECK(assumed.status == 0);
  CHECK(contains(assumed.output, "  1024 tokens (assumed: model.vocab_size is 0, and the dataset that it is left to, "
                                 "data.path \"nowhere\", is not there)"));
  CHECK(place.run("bench config.json --json missing/bench.json").status == 1);
}

TEST_CASE("bench --step prints and writes where a step goes") {
  const Workplace place;
  const Outcome outcome = place.run("bench config.json --steps 3 --step --json bench.json --set device=cpu");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  for (const char* part :
       {"where they stand in it", "floor ms", "attention projections", "  linear qkv dx, dweight", "attention backward",
        "head and loss", "cross-entropy, gradient", "optimizer", "  adamw", "copies", "between operations", "\nstep  ",
        "medians of 3 steps", "without marks a step takes"})
    CHECK(contains(outcome.output, part));

  const auto stages = nlohmann::json::parse(place.read("bench.json")).at("stages");
  REQUIRE(stages.size() > 6);
  const auto& step = stages.back();
  CHECK(step.at("name") == "step");
  CHECK(step.at("steps") == 3);
  CHECK(step.at("milliseconds_without_marks") > 0.0);
  CHECK(stages.at(stages.size() - 2).at("name") == "between operations");
  double sum = 0, floor = 0, share = 0;
  int calls = 0;
  for (const auto& stage : stages) {
    INFO(stage.dump());
    if (stage == step) break;
    CHECK(contains(outcome.output, "\n" + stage.at("name").get<std::string>() + " "));
    sum += stage.at("milliseconds").get<double>();
    share += stage.at("share_of_step").get<double>();
    calls += stage.at("calls").get<int>();
    if (!stage.contains("operations")) continue;
    double operations = 0;
    for (const auto& operation : stage.at("operations")) {
      CHECK(contains(outcome.output, "\n  " + operation.at("name").get<std::string>() + " "));
      CHECK(operation.at("milliseconds") > 0.0);
      CHECK(operation.at("kernels").is_array());
      operations += operation.at("milliseconds").get<double>();
      if (operation.at("floor_milliseconds").is_null()) continue;
      CHECK(operation.at("floor_share") > 0.0);
      floor += operation.at("floor_milliseconds").get<double>();
    }
    CHECK(operations == Approx(stage.at("milliseconds").get<double>()));
  }
  CHECK(sum == Approx(step.at("milliseconds").get<double>()));
  CHECK(share == Approx(1.0));
  CHECK(calls == step.at("calls").get<int>());
  CHECK(floor == Approx(step.at("floor_milliseconds").get<double>()));
  CHECK_FALSE(contains(place.run("bench config.json --steps 1 --set device=cpu").output, "between operations"));

  const Outcome help = place.run("bench --help");
  CHECK(contains(help.output, "--step "));
  for (const auto& [options, reason] :
       {std::pair{"--step --comm", "--step times a step of one rank, --comm what is between ranks"},
        std::pair{"--comm", "--comm times what is between ranks, and here is one; start several"},
        std::pair{"--step --steps 0", "expected --steps of at least 1, found 0"}}) {
    const Outcome refused = place.run(std::string("bench config.json ") + options);
    INFO(refused.output);
    CHECK(refused.status == 1);
    CHECK(contains(refused.output, "error: "));
    CHECK(contains(refused.output, reason));
  }
}

}  // namespace
}  // namespace sinkscope
