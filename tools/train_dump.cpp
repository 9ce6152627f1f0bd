// `sinkscope train-dump`: what the first steps of a run start from and train on, for other software to
// train the same model on the same batches.
#include <CLI/CLI.hpp>
#include <bit>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "engine/model/parameters.h"
#include "engine/optim/schedule.h"
#include "engine/train/training_batches.h"
#include "tools/arguments.h"
#include "tools/commands.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "tokens are dumped as they lie in memory");

struct TrainDumpArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string output;
  std::int64_t steps = 200;
};

void write_model(const std::filesystem::path& folder, const Config& config, const ParameterLayout& layout) {
  std::vector<float> parameters(static_cast<std::size_t>(layout.flat_size()));
  initialize_parameters(layout, static_cast<std::uint64_t>(config.train.seed), parameters);
  CheckpointData data;
  data.model = config.model;
  data.bos_id = static_cast<std::int32_t>(config.data.bos_id);
  data.eos_id = static_cast<std::int32_t>(config.data.eos_id);
  data.parameters = parameters;
  export_hugging_face(folder, data);
}

/// inputs.bin and targets.bin: (steps, micro-batches * B, T) i32, in the order in which a run draws them.
void write_batches(const std::filesystem::path& folder, const Dataset& dataset, const Config& config,
                   std::int64_t steps) {
  const TrainingBatches batches(dataset, config);
  NewFile inputs(folder / "inputs.bin"), targets(folder / "targets.bin");
  Batch batch;
  for (std::int64_t micro = 0; micro < steps * config.train.gradient_accumulation; ++micro) {
    batches.draw(micro * config.train.micro_batch, config.train.micro_batch, batch);
    inputs.write(std::as_bytes(std::span(batch.inputs)));
    targets.write(std::as_bytes(std::span(batch.targets)));
  }
  inputs.finish();
  targets.finish();
}

Json description(const Dataset& dataset, const Config& config, const ParameterLayout& layout, std::int64_t steps) {
  const TrainConfig& train = config.train;
  Json rates = Json::array(), decayed = Json::array(), others = Json::array();
  for (std::int64_t step = 1; step <= steps; ++step)
    rates.push_back(learning_rate(train.schedule, train.optimizer.learning_rate, step, train.steps));
  for (const HuggingFaceTensor& tensor : hugging_face_tensors(config.model))
    (layout.find(tensor.parameter).decay ? decayed : others).push_back(tensor.name);
  Json json;
  json["model"] = "model";
  json["inputs"] = "inputs.bin";
  json["targets"] = "targets.bin";
  json["shape"] = {steps, train.gradient_accumulation * train.micro_batch, train.sequence_length};
  json["micro_batch"] = train.micro_batch;
  json["learning_rates"] = rates;
  json["weight_decay"] = train.optimizer.weight_decay;
  json["betas"] = {train.optimizer.beta1, train.optimizer.beta2};
  json["eps"] = train.optimizer.eps;
  json["clip_norm"] = train.optimizer.clip_norm;  // 0: none
  json["decay"] = decayed;
  json["no_decay"] = others;
  json["dataset_fingerprint"] = dataset.fingerprint;
  json["config"] = to_json(config);
  return json;
}

void run(const TrainDumpArguments& arguments) {
  const Config loaded = load_config(arguments.config, arguments.overrides);
  if (arguments.steps < 1 || arguments.steps > loaded.train.steps)
    throw std::runtime_error("--steps is " + std::to_string(arguments.steps) + ", expected 1 to train.steps (" +
                             std::to_string(loaded.train.steps) + ")");
  PendingFolder output(arguments.output);  // refuses an existing folder before any work
  const Dataset dataset = open_dataset(loaded.data);
  const Config config = complete_config(loaded, dataset);
  const ParameterLayout layout(config.model);
  write_model(output.path() / "model", config, layout);
  write_batches(output.path(), dataset, config, arguments.steps);
  write_new_file(output.path() / "training.json", description(dataset, config, layout, arguments.steps).dump(2) + "\n");
  output.commit();
  std::cout << "dumped the initial weights and " << arguments.steps << " steps to " << arguments.output << std::endl;
}

}  // namespace

void add_train_dump_command(CLI::App& app) {
  const auto arguments = std::make_shared<TrainDumpArguments>();
  CLI::App* command = app.add_subcommand(
      "train-dump", "Write a run's initial weights and first batches, to train the same in other software");
  command->add_option("config", arguments->config, "config file (JSON)")->required()->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override, e.g. data.bos=none; may be repeated");
  command->add_option("--steps", arguments->steps, "steps to dump, default 200");
  command->add_option("--output", arguments->output, "folder to create; must not exist")->required()->type_name("DIR");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
