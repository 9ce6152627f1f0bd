// dataset.json: what a dataset folder holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/data/dataset.h"

namespace sinkscope {

inline constexpr const char* kManifestFile = "dataset.json";

struct DatasetManifest {
  std::string tokenizer;             // "byte", "sentencepiece", "gpt2"
  std::string tokenizer_file;        // relative to the folder, as open_tokenizer takes it; empty for bytes
  std::int64_t vocab_size = 0;
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  std::uint64_t vocab_hash = 0;
  std::int64_t documents = 0;
  std::int64_t bytes = 0;            // of text
  std::vector<ShardInfo> train;      // file names relative to the folder
  std::vector<ShardInfo> validation;
};

std::string to_text(const DatasetManifest& manifest);
/// Throws std::runtime_error naming file and key.
DatasetManifest read_manifest(const std::filesystem::path& file);

}  // namespace sinkscope
