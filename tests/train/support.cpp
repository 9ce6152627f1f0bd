#include "tests/train/support.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/metrics/json_lines.h"
#include "engine/model/random.h"

namespace sinkscope::test {

std::filesystem::path make_dataset(const std::filesystem::path& folder, double validation_fraction) {
  const std::vector<std::string> words = {"the",    "whale", "and", "ship",  "sea",
                                          "nation", "of",    "a",   "white", "captain"};
  const std::uint64_t key = random_key(7, "words");
  std::ofstream out(folder / "text.txt");
  for (std::uint64_t i = 0; i < 4000; ++i) {
    out << words[static_cast<std::size_t>(random_bits(key, i) % words.size())];
    out << (i % 11 == 10 ? ".\n" : " ");
    if (i % 200 == 199) out << "<|endoftext|>\n";
  }
  out.close();
  TokenizeOptions options;
  options.inputs = {folder / "text.txt"};
  options.output = folder / "dataset";
  options.tokenizer = "byte";
  options.validation_fraction = validation_fraction;
  tokenize(options);
  return options.output;
}

Config small_config(const std::filesystem::path& folder, const std::vector<std::string>& overrides) {
  const nlohmann::ordered_json json = {
      {"name", "small"},
      {"output", (folder / "runs").string()},
      {"threads", 2},
      {"model",
       {{"preset", "llama"}, {"layers", 2}, {"channels", 16}, {"heads", 2}, {"hidden", 24}}},
      {"data", {{"path", (folder / "dataset").string()}, {"bos", "sequence"}}},
      {"train",
       {{"steps", 12},
        {"micro_batch", 3},
        {"gradient_accumulation", 2},
        {"sequence_length", 24},
        {"optimizer", {{"learning_rate", 0.01}}},
        {"schedule", {{"warmup_steps", 3}}}}},
      {"evaluation", {{"every", 4}, {"batches", 3}}},
      {"sample", {{"every", 6}, {"tokens", 5}, {"prompt", "the "}}},
      {"probes", {{"every", 3}, {"sequences", 4}, {"short_length", 12}, {"positions", 4}, {"from_layer", 1}}},
      {"checkpoint", {{"every", 5}}}};
  return parse_config(json.dump(), "test", overrides);
}

std::vector<std::string> timeless_lines(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  for_each_json_line(file, [&](const nlohmann::ordered_json& json, const std::string&) {
    nlohmann::ordered_json kept = json;
    kept.erase("step_seconds");
    kept.erase("tokens_per_second");
    kept.erase("mfu");
    if (kept.value("kind", std::string()) != "resume") lines.push_back(kept.dump());
  });
  return lines;
}

TrainResult train_quietly(const Config& config, bool resume) {
  TrainOptions options;
  options.resume = resume;
  options.build = "test";
  return train(config, std::move(options));
}

std::string train_error(const Config& config, bool resume) {
  try {
    train_quietly(config, resume);
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace sinkscope::test
