// Text from the model in training, to look at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/tokenizer.h"
#include "engine/model/decoder.h"

namespace sinkscope {

/// Continues sample.prompt by up to sample.tokens tokens, ending early at EOS, and decodes the whole. The context is a
/// BOS under policies that have one (or the EOS that stands before every document, so that an empty prompt has a first
/// token), then the prompt; of a longer text the last train.sequence_length tokens are kept, or with one BOS a window
/// the BOS and the last ones after it. Each token is drawn from softmax(logits / temperature), or is the most likely
/// one at temperature 0, by random numbers of (seed, step) alone: equal models write equal text.
std::string sample_text(Decoder& decoder, const Tokenizer& tokenizer, const Config& config, std::int64_t step);

}  // namespace sinkscope
