#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/files/replacement.h"
#include "engine/model/decoder.h"
#include "engine/model/random.h"
#include "tools/commands.h"
#include "tools/model_source.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

struct DumpArguments {
  std::string model;
  std::string output;
  std::int64_t sequences = 2;
  std::int64_t length = 32;
  std::int64_t positions = 8;
  std::int64_t seed = 1;
};

/// Nested lists of the given extents.
Json nested(const float* values, std::span<const std::int64_t> extents) {
  Json list = Json::array();
  std::int64_t inner = 1;
  for (const std::int64_t extent : extents.subspan(1)) inner *= extent;
  for (std::int64_t i = 0; i < extents[0]; ++i) {
    if (extents.size() == 1)
      list.push_back(values[i]);
    else
      list.push_back(nested(values + i * inner, extents.subspan(1)));
  }
  return list;
}

void run(const DumpArguments& arguments) {
  PendingFile output(arguments.output);  // refuses an existing file before any work
  const ModelSource source = open_model_source(arguments.model);
  const ModelConfig& config = source.model;
  const std::int64_t B = arguments.sequences, T = arguments.length, V = config.vocab_size;
  const std::int64_t K = arguments.positions, L = config.layers, H = config.heads;
  if (B < 1 || T < 1 || K < 1 || K > T)
    throw std::runtime_error("--sequences and --length must be at least 1, --positions in 1.." + std::to_string(T));
  if (T > config.max_sequence_length)
    throw std::runtime_error("--length " + std::to_string(T) + " is beyond the model's " +
                             std::to_string(config.max_sequence_length) + " positions");

  const auto ops = make_cpu_ops();
  Decoder decoder(
      *ops, config,
      {.max_sequences = B, .max_length = T, .sink_positions = K, .residual_norms = true, .training = false});
  std::vector<float> parameters(static_cast<std::size_t>(decoder.layout().flat_size()));
  source.load(parameters);
  load_parameters(*ops, decoder, parameters);

  std::vector<std::int32_t> tokens(static_cast<std::size_t>(B * T));
  const std::uint64_t key = random_key(static_cast<std::uint64_t>(arguments.seed), "probe-dump");
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(random_bits(key, i) % static_cast<std::uint64_t>(V));
  decoder.forward(B, T, tokens.data());
  std::vector<float> logits(static_cast<std::size_t>(B * T * V));
  for (std::int64_t row = 0; row < B * T; ++row) decoder.logits(row, logits.data() + row * V);

  Json json;
  json["tokens"] = Json::array();
  for (std::int64_t b = 0; b < B; ++b)
    json["tokens"].push_back(std::vector<std::int32_t>(tokens.begin() + b * T, tokens.begin() + (b + 1) * T));
  json["logits"] = nested(logits.data(), std::vector<std::int64_t>{B, T, V});
  json["sink_scores"] = nested(decoder.sink_scores().data(), std::vector<std::int64_t>{L, B, H, K});
  json["residual_norms"] = nested(decoder.residual_norms().data(), std::vector<std::int64_t>{L + 1, B, T});
  output.write(json.dump() + "\n");
  output.commit();
}

}  // namespace

void add_probe_dump_command(CLI::App& app) {
  const auto arguments = std::make_shared<DumpArguments>();
  CLI::App* command = app.add_subcommand(
      "probe-dump", "Write a model's logits, sink scores and residual norms on random tokens, to check against others");
  command
      ->add_option("model", arguments->model,
                   "checkpoint, run directory (its newest checkpoint), or a folder in Hugging Face layout")
      ->required()
      ->type_name("FOLDER");
  command->add_option("--output", arguments->output, "JSON file to write; must not exist")
      ->required()
      ->type_name("FILE");
  command->add_option("--sequences", arguments->sequences, "B, default 2");
  command->add_option("--length", arguments->length, "T, default 32");
  command->add_option("--positions", arguments->positions, "K, default 8");
  command->add_option("--seed", arguments->seed, "of the tokens, default 1");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
