#include "engine/train/text_sampler.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "engine/model/random.h"

namespace sinkscope {
namespace {

std::int32_t draw(const std::vector<float>& logits, double temperature, double uniform) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<double> weights(logits.size());
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    total += weights[i] = std::exp((static_cast<double>(logits[i]) - *best) / temperature);
  double rest = uniform * total;
  for (std::size_t i = 0; i + 1 < weights.size(); ++i) {
    rest -= weights[i];
    if (rest < 0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(weights.size() - 1);
}

}  // namespace

std::string sample_text(Decoder& decoder, const Tokenizer& tokenizer, const Config& config, std::int64_t step) {
  const auto bos = static_cast<std::int32_t>(config.data.bos_id), eos = static_cast<std::int32_t>(config.data.eos_id);
  std::vector<std::int32_t> text = tokenizer.encode(config.sample.prompt);
  std::vector<std::int32_t> context;
  if (config.data.bos != BosPolicy::none && bos >= 0)
    context.push_back(bos);
  else if (text.empty())
    context.push_back(eos >= 0 ? eos : 0);
  context.insert(context.end(), text.begin(), text.end());

  // Every training window began with the BOS, so every context does; BOS of documents pass by like text.
  const std::ptrdiff_t kept = config.data.bos == BosPolicy::sequence && bos >= 0 ? 1 : 0;
  const auto limit = static_cast<std::size_t>(config.train.sequence_length);
  const auto shortest = static_cast<std::size_t>(std::max<std::int64_t>(1, decoder.options().sink_positions));
  const std::uint64_t key =
      random_key(static_cast<std::uint64_t>(config.train.seed), "sample at step " + std::to_string(step));
  std::vector<float> logits(static_cast<std::size_t>(decoder.config().vocab_size));
  for (std::int64_t i = 0; i < config.sample.tokens; ++i) {
    if (context.size() > limit) {
      const auto first = context.begin() + kept;
      context.erase(first, first + static_cast<std::ptrdiff_t>(context.size() - limit));
    }
    const std::size_t last = context.size() - 1;
    std::vector<std::int32_t> padded = context;  // what follows a row cannot change it
    padded.resize(std::max(padded.size(), shortest), 0);
    decoder.forward(1, static_cast<std::int64_t>(padded.size()), padded.data());
    decoder.logits(static_cast<std::int64_t>(last), logits.data());
    const std::int32_t token =
        draw(logits, config.sample.temperature, random_uniform(key, static_cast<std::uint64_t>(i)));
    if (token == eos || token >= tokenizer.vocab_size()) break;
    text.push_back(token);
    context.push_back(token);
  }
  return tokenizer.decode(text);
}

}  // namespace sinkscope
