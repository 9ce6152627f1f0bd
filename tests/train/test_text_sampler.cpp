#include "engine/train/text_sampler.h"

#include <algorithm>
#include <vector>

#include "engine/config/load.h"
#include "engine/model/parameters.h"
#include "tests/catch.h"
#include "tests/train/support.h"

namespace sinkscope {
namespace {

/// The most likely token after `context`.
std::int32_t most_likely_next(Decoder& decoder, const std::vector<std::int32_t>& context) {
  std::vector<float> logits(static_cast<std::size_t>(decoder.config().vocab_size));
  decoder.forward(1, static_cast<std::int64_t>(context.size()), context.data());
  decoder.logits(static_cast<std::int64_t>(context.size()) - 1, logits.data());
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST_CASE("a text longer than the context keeps the BOS of the window, and the text's end") {
  test::TemporaryFolder folder;
  const auto tokenizer = make_byte_tokenizer();
  const auto bos = static_cast<std::int32_t>(tokenizer->bos_id());
  for (const char* policy : {"sequence", "none", "document"}) {
    Config config = test::small_config(
        folder.path(), {std::string("data.bos=") + policy, "train.sequence_length=12", "sample.tokens=20",
                        "sample.temperature=0", "sample.prompt=the white whale and the sea"});
    resolve_with_dataset(config, tokenizer->vocab_size(), bos, tokenizer->eos_id());
    const auto ops = make_ops(config);
    Decoder decoder(*ops, config.model, decoder_options(config));
    // Large weights, so that every token of the context decides what comes next.
    std::vector<float> values(static_cast<std::size_t>(decoder.layout().flat_size()));
    initialize_parameters(decoder.layout(), 5, values);
    for (float& value : values) value *= 20;
    ops->copy_from_host(decoder.parameters(), values.data());

    std::vector<std::int32_t> expected = tokenizer->encode(config.sample.prompt);
    const bool keeps_bos = config.data.bos == BosPolicy::sequence;
    for (int i = 0; i < 20; ++i) {
      std::vector<std::int32_t> context(expected.end() - (keeps_bos ? 11 : 12), expected.end());
      if (keeps_bos) context.insert(context.begin(), bos);
      const std::int32_t next = most_likely_next(decoder, context);
      if (next >= 256) break;
      expected.push_back(next);
    }
    INFO(policy);
    CHECK(expected.size() > 27);  // it does say something
    CHECK(sample_text(decoder, *tokenizer, config, 1) == tokenizer->decode(expected));
  }
}

}  // namespace
}  // namespace sinkscope
