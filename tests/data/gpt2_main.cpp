// Exit status 77 without GPT-2's files, so that ctest lists these tests as skipped.
#include <cstdlib>
#include <filesystem>
#include <string>

#include "gpt2_files.h"
#include "tests/skippable_main.h"

std::filesystem::path sinkscope::test::gpt2_files() {
  const char* named = std::getenv("SINKSCOPE_GPT2_BPE");
  return named != nullptr && *named != '\0' ? named : SINKSCOPE_GPT2_CACHE;
}

int main(int argc, char** argv) {
  return sinkscope::test::run_or_skip(argc, argv, [] {
    const std::filesystem::path folder = sinkscope::test::gpt2_files();
    if (folder != SINKSCOPE_GPT2_CACHE || std::filesystem::exists(folder)) return std::string();
    return "no " + folder.string() +
           "; run scripts/fetch_test_files, or let SINKSCOPE_GPT2_BPE name a folder with GPT-2's encoder.json and "
           "vocab.bpe";
  });
}
