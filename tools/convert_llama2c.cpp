// `sinkscope convert-llama2c`: a checkpoint of llama2.c as a folder that the transformers library loads.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/checkpoint/checkpoint.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "tools/commands.h"
#include "tools/llama2c.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

struct ConvertOptions {
  std::string checkpoint;
  std::string tokenizer;
  std::string output;
};

void run_convert(const ConvertOptions& options) {
  fs::path output = fs::absolute(options.output).lexically_normal();
  if (!output.has_filename()) output = output.parent_path();
  if (fs::exists(fs::symlink_status(output))) throw std::runtime_error(options.output + ": already exists");
  const Llama2cCheckpoint checkpoint = read_llama2c_checkpoint(options.checkpoint);
  CheckpointData data;
  data.model = checkpoint.model;
  data.bos_id = 1;
  data.eos_id = 2;
  data.parameters = checkpoint.parameters;
  std::optional<StagingFolder> staging;  // the export copies tokenizer files from where they are
  if (!options.tokenizer.empty()) {
    const std::string model = sentencepiece_model_of_llama2c(options.tokenizer, checkpoint.model.vocab_size);
    make_folders(output.parent_path());
    staging.emplace(output.parent_path() / ("." + output.filename().string() + ".tokenizer"));
    data.tokenizer_files = {staging->path() / "tokenizer.model"};
    write_new_file(data.tokenizer_files.front(), model);
  }
  export_hugging_face(output, data);
  std::cout << "converted " << options.checkpoint << " to " << options.output << ": "
            << ParameterLayout(checkpoint.model).parameter_count()
            << " parameters; every text begins with token 1, BOS\n";
}

}  // namespace

void add_convert_llama2c_command(CLI::App& app) {
  const auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand("convert-llama2c", "Write a llama2.c checkpoint as a Hugging Face folder");
  command->add_option("checkpoint", options->checkpoint, "llama2.c checkpoint, version 0 (.bin)")->required();
  command->add_option("--tokenizer", options->tokenizer,
                      "its tokenizer.bin, which becomes a sentencepiece tokenizer.model");
  command->add_option("-o,--output", options->output, "folder to create")->required();
  command->callback([options] { run_convert(*options); });
}

}  // namespace sinkscope
