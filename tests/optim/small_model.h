// A model whose sections are a few lines of memory each.
#pragma once

#include "engine/config/config.h"

namespace sinkscope {

inline ModelConfig small_model() {
  ModelConfig config;
  config.layers = 2;
  config.channels = 8;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.hidden = 12;
  config.vocab_size = 11;
  config.max_sequence_length = 6;
  return config;
}

}  // namespace sinkscope
