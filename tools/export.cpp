// `sinkscope export`: a checkpoint as a folder that the transformers library loads.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/parameters.h"
#include "tools/commands.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

struct ExportOptions {
  std::string source;
  std::string output;
};

void run_export(const ExportOptions& options) {
  const std::filesystem::path output = options.output;
  if (std::filesystem::exists(std::filesystem::symlink_status(output)))
    throw std::runtime_error(output.string() + ": already exists");
  const std::filesystem::path checkpoint = find_checkpoint(options.source);
  const CheckpointInfo info = read_checkpoint_info(checkpoint);
  std::vector<float> parameters(static_cast<std::size_t>(ParameterLayout(info.model).flat_size()));
  load_checkpoint(checkpoint, info.model, parameters, {}, {});

  CheckpointData data;
  data.model = info.model;
  data.step = info.step;
  data.bos_id = info.bos_id;
  data.eos_id = info.eos_id;
  data.parameters = parameters;
  data.tokenizer_files = info.tokenizer_files;
  export_hugging_face(output, data);
  std::cout << "exported step " << info.step << " of " << checkpoint.string() << " to " << output.string() << "\n";
}

}  // namespace

void add_export_command(CLI::App& app) {
  const auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "Write a checkpoint as a Hugging Face folder");
  command->add_option("source", options->source, "checkpoint folder, or run directory (its newest checkpoint)")
      ->required();
  command->add_option("-o,--output", options->output, "folder to create")->required();
  command->callback([options] { run_export(*options); });
}

}  // namespace sinkscope
