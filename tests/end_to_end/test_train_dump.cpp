// The dump of a run's first steps: trained on by hand it gives the run's own losses.
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/metrics/sinks.h"
#include "engine/model/decoder.h"
#include "engine/optim/adamw.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;
using test::contains;
using test::Outcome;
using test::Workplace;

/// A file of (steps, rows, T) i32.
std::vector<std::int32_t> tokens_of(const Workplace& place, const std::string& file, std::size_t count) {
  const std::string bytes = place.read(file);
  REQUIRE(bytes.size() == count * sizeof(std::int32_t));
  std::vector<std::int32_t> tokens(count);
  std::memcpy(tokens.data(), bytes.data(), bytes.size());
  return tokens;
}

/// Trains on a dump with nothing but what it says; the mean loss of every step.
std::vector<double> losses_of(const Workplace& place, const std::string& folder) {
  const Json dump = Json::parse(place.read(folder + "/training.json"));
  const auto shape = dump.at("shape").get<std::vector<std::int64_t>>();
  const std::int64_t steps = shape.at(0), rows = shape.at(1), T = shape.at(2), B = dump.at("micro_batch");
  const auto tokens = static_cast<std::size_t>(steps * rows * T);
  const auto inputs = tokens_of(place, folder + "/" + dump.at("inputs").get<std::string>(), tokens);
  const auto targets = tokens_of(place, folder + "/" + dump.at("targets").get<std::string>(), tokens);

  const auto model_folder = place.path() / folder / dump.at("model").get<std::string>();
  const ModelConfig model = model_config_from_hugging_face(model_folder);
  const auto ops = make_cpu_ops(2);
  Decoder decoder(*ops, model, {.max_sequences = B, .max_length = T});
  std::vector<float> parameters(static_cast<std::size_t>(decoder.layout().flat_size()));
  load_hugging_face(model_folder, model, parameters);
  ops->copy_from_host(decoder.parameters(), parameters.data());
  AdamW optimizer(*ops, decoder.layout(),
                  {.beta1 = dump.at("betas").at(0), .beta2 = dump.at("betas").at(1), .eps = dump.at("eps"),
                   .weight_decay = dump.at("weight_decay"), .clip_norm = dump.at("clip_norm")});

  std::vector<double> means;
  std::vector<float> losses(static_cast<std::size_t>(B * T));
  for (std::int64_t step = 0; step < steps; ++step) {
    double sum = 0;
    decoder.zero_gradients();
    for (std::int64_t row = step * rows; row < (step + 1) * rows; row += B) {
      decoder.forward(B, T, inputs.data() + row * T);
      decoder.loss(targets.data() + row * T, losses.data(), static_cast<float>(1.0 / static_cast<double>(rows * T)));
      decoder.backward();
      for (const float loss : losses) sum += loss;
    }
    const double rate = dump.at("learning_rates").at(static_cast<std::size_t>(step));
    optimizer.step(decoder.parameters(), decoder.gradients(), rate, step + 1);
    means.push_back(sum / static_cast<double>(rows * T));
  }
  return means;
}

TEST_CASE("training on a dump gives the losses that the run logged, bit for bit") {
  const Workplace place;
  const std::string overrides =
      " --set train.steps=20 --set train.gradient_accumulation=2 --set train.optimizer.weight_decay=0.3"
      " --set train.optimizer.clip_norm=0.5 --set probes.every=0";
  REQUIRE(place.run("train config.json" + overrides).status == 0);
  const Outcome outcome = place.run("train-dump config.json --steps 12 --output dump" + overrides);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const std::vector<double> losses = losses_of(place, "dump");
  const auto records = read_step_records(place.path() / "runs/small");
  REQUIRE(losses.size() == 12);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    INFO("step " << i + 1);
    CHECK(losses[i] == records.at(i).loss);
  }

  const Json dump = Json::parse(place.read("dump/training.json"));
  const Json run = Json::parse(place.read("runs/small/config.json"));
  CHECK(dump.at("dataset_fingerprint") == run.at("run").at("dataset_fingerprint"));
  CHECK(dump.at("config").at("model") == run.at("model"));
  CHECK(dump.at("config").at("train") == run.at("train"));
  // Matrices decay, vectors do not; together they are the file's tensors.
  const SafetensorsFile file(place.path() / "dump/model/model.safetensors");
  std::set<std::string> named;
  for (const char* key : {"decay", "no_decay"})
    for (const std::string name : dump.at(key)) {
      named.insert(name);
      CHECK((file.shape(name).size() == 2) == (std::string(key) == "decay"));
    }
  const auto names = file.names();
  CHECK(named == std::set<std::string>(names.begin(), names.end()));
}

TEST_CASE("a dump refuses what it cannot do and leaves nothing") {
  const Workplace place;
  const Outcome longer = place.run("train-dump config.json --steps 61 --output dump");
  CHECK(longer.status == 1);
  CHECK(contains(longer.output, "--steps is 61, expected 1 to train.steps (60)"));
  CHECK(place.run("train-dump config.json --steps 2 --output dump --set model.position=none").status == 1);
  CHECK(!std::filesystem::exists(place.path() / "dump"));
  place.write("dump/mine", "text");
  CHECK(place.run("train-dump config.json --steps 2 --output dump").status == 1);
  CHECK(place.read("dump/mine") == "text");
}

}  // namespace
}  // namespace sinkscope
