// The main function of tests that need what not every machine has, for the one file of a program that defines it.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>

#ifdef SINKSCOPE_CATCH2_V2
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#else
#include <catch2/catch_session.hpp>
#endif

namespace sinkscope::test {

/// Runs or lists the tests. To run them is refused with exit status 77, so that ctest lists them as skipped, where
/// `lacking()` says what is missing.
template <class Lacking>
int run_or_skip(int argc, char** argv, Lacking&& lacking) {
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::strncmp(argv[i], "--list", 6) == 0;
  if (const std::string why = lists ? std::string() : lacking(); !why.empty()) {
    std::fprintf(stderr, "skipped: %s\n", why.c_str());
    return 77;
  }
  return Catch::Session().run(argc, argv) == 0 ? 0 : 1;  // not the number of failed assertions, which may be 77
}

}  // namespace sinkscope::test
