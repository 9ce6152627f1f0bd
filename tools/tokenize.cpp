#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "engine/data/dataset.h"
#include "tools/commands.h"

namespace sinkscope {
namespace {

void run(const TokenizeOptions& options) {
  const TokenizeSummary summary = tokenize(options);
  std::printf("%s: %lld %s, %lld bytes, %lld training tokens, %lld validation tokens\n", options.output.c_str(),
              static_cast<long long>(summary.documents), summary.documents == 1 ? "document" : "documents",
              static_cast<long long>(summary.bytes), static_cast<long long>(summary.train_tokens),
              static_cast<long long>(summary.validation_tokens));
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  const auto shared = std::make_shared<TokenizeOptions>();
  TokenizeOptions& options = *shared;
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into a folder of token shards to train on");
  command->add_option("input", options.inputs, ".txt, .jsonl, .zst of either, or folders of them")->required();
  command->add_option("--output", options.output, "The dataset folder to write; must not exist")->required();
  auto* tokenizer =
      command->add_option("--tokenizer", options.tokenizer,
                          "\"byte\", a sentencepiece .model, or a folder with encoder.json and vocab.bpe");
  auto* train = command
                    ->add_option("--train-sentencepiece", options.train_vocab_size,
                                 "Train a sentencepiece tokenizer of this vocabulary size on the inputs")
                    ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  tokenizer->excludes(train);
  command->add_option("--validation-fraction", options.validation_fraction,
                      "Share of the documents (of the text when they are few) held out for validation")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--validation", options.validation_inputs, "Validation texts instead of a fraction");
  command->add_option("--text-key", options.text_key, "Key of the text in .jsonl")->capture_default_str();
  command->add_option("--document-separator", options.document_separator,
                      "Line between documents in .txt; empty: one document a file")->capture_default_str();
  command->add_option("--shard-tokens", options.shard_tokens, "Tokens a shard")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command->callback([shared, tokenizer, train] {
    if (tokenizer->count() + train->count() == 0)
      throw CLI::RequiredError("--tokenizer or --train-sentencepiece");
    run(*shared);
  });
}

}  // namespace sinkscope
