// What the tests of the data share: fresh folders, whole files, streams in memory.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "engine/data/dataset.h"
#include "engine/data/memory_stream.h"
#include "tests/files.h"

namespace sinkscope::test {

std::string compress(const std::string& content);  // one zstd frame
std::vector<std::string> names_in(const std::filesystem::path& folder);

/// A GPT-2-style shard: 256 int32 header, then uint16 tokens.
void write_gpt2_shard(const std::filesystem::path& path, const std::vector<std::uint16_t>& tokens);
/// encoder.json and vocab.bpe of the 256 bytes, the merges "h e", "l l", "Ġ w", "he ll", "a a",
/// "aa aa" and "<|endoftext|>".
void write_small_bpe(const std::filesystem::path& folder);

/// Valid UTF-8 of letters, digits, blanks of many kinds, and characters of every length.
std::string random_text(std::mt19937& random, std::size_t characters);

std::vector<std::int32_t> all_tokens(const TokenStream& stream);

}  // namespace sinkscope::test
