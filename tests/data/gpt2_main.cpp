// Exit status 77 without GPT-2's files, so that ctest lists these tests as skipped.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#ifdef SINKSCOPE_CATCH2_V2
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#else
#include <catch2/catch_session.hpp>
#endif

#include "gpt2_files.h"

std::filesystem::path sinkscope::test::gpt2_files() {
  const char* named = std::getenv("SINKSCOPE_GPT2_BPE");
  return named != nullptr && *named != '\0' ? named : SINKSCOPE_GPT2_CACHE;
}

int main(int argc, char** argv) {
  const std::filesystem::path folder = sinkscope::test::gpt2_files();
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::strncmp(argv[i], "--list", 6) == 0;
  if (!lists && folder == SINKSCOPE_GPT2_CACHE && !std::filesystem::exists(folder)) {
    std::fprintf(stderr, "skipped: no %s; run scripts/fetch_test_files, or let SINKSCOPE_GPT2_BPE name a folder with "
                         "GPT-2's encoder.json and vocab.bpe\n", folder.c_str());
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
