#include "support.h"

#include <stdlib.h>
#include <zstd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace sinkscope::test {

std::string compress(const std::string& content) {
  std::string frame(ZSTD_compressBound(content.size()), '\0');
  frame.resize(ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), 1));
  return frame;
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void write_gpt2_shard(const std::filesystem::path& path, const std::vector<std::uint16_t>& tokens) {
  std::vector<std::int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<std::int32_t>(tokens.size());
  std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
  bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
  write_file(path, bytes);
}

void write_small_bpe(const std::filesystem::path& folder) {
  nlohmann::json encoder;
  const auto utf8 = [](int code) {
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return std::string{static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
  };
  // GPT-2's order: the printable characters of Latin-1 first, then U+0100 to U+0143.
  int id = 0;
  for (int code = 0x21; code <= 0x7e; ++code) encoder[utf8(code)] = id++;
  for (int code = 0xa1; code <= 0xff; ++code)
    if (code != 0xad) encoder[utf8(code)] = id++;
  for (int code = 0x100; code <= 0x143; ++code) encoder[utf8(code)] = id++;
  for (const char* token : {"he", "ll", "\xc4\xa0w", "hell", "aa", "aaaa", "<|endoftext|>"}) encoder[token] = id++;
  write_file(folder / "encoder.json", encoder.dump());
  write_file(folder / "vocab.bpe", "#version: 0.2\nh e\nl l\n\xc4\xa0 w\nhe ll\na a\naa aa\n");
}

std::string random_text(std::mt19937& random, std::size_t characters) {
  static const std::vector<std::string> kAlphabet = {
      "a", "a", "a", "h", "e", "l", "l", "w", " ", " ", "\n", "\t", "'s", "7", "!", "\r", "\xc3\xa9", "\xc2\xa0",
      "\xe1\xa0\x8e", "\xe2\x80\xa8", "\xe4\xb8\xad", "\xf0\x9f\x98\x80", std::string(1, '\0')};
  std::string text;
  for (std::size_t i = 0; i < characters; ++i) text += kAlphabet[random() % kAlphabet.size()];
  return text;
}

std::vector<std::int32_t> all_tokens(const TokenStream& stream) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);
  return tokens;
}

}  // namespace sinkscope::test
