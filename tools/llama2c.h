// Files of llama2.c (https://github.com/karpathy/llama2.c): checkpoints of its first format, which has no magic
// number ("version 0"), and its tokenizer.bin. Layouts as its export.py, run.c and tokenizer.py have them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

struct Llama2cCheckpoint {
  ModelConfig model;              // a resolved Llama
  std::vector<float> parameters;  // in the layout of `model`
};

/// Little-endian i32: dim C, hidden_dim F, n_layers L, n_heads H, n_kv_heads G, vocab_size V (negative: the head
/// is a tensor of its own), seq_len T. Then f32, each tensor for all layers (D = C / H):
///   token embedding (V, C); norms before attention (L, C); wq (L, HD, C), wk, wv (L, GD, C), wo (L, C, HD);
///   norms before the MLP (L, C); w1 (L, F, C), the gate; w2 (L, C, F), down; w3 (L, F, C), up; last norm (C);
///   cosines and sines of the rotary embedding (T, D/2) each, which follow from theta 10000; head (V, C), untied only.
/// Rotary pairs are (2i, 2i+1) there and (i, i + D/2) here: rows of wq and wk take the places that turn one into the
/// other. Throws std::runtime_error naming the file and what was expected.
Llama2cCheckpoint read_llama2c_checkpoint(const std::filesystem::path& file);

/// The bytes of a sentencepiece model (BPE, ids 0, 1, 2 unknown, BOS, EOS) for a tokenizer.bin of `vocab_size`
/// tokens: i32 length of the longest, then for each f32 score, i32 length, bytes. There U+2581 has become a space.
/// Throws std::runtime_error naming the file and what was expected.
std::string sentencepiece_model_of_llama2c(const std::filesystem::path& file, std::int64_t vocab_size);

}  // namespace sinkscope
