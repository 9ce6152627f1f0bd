// Exit status 77 where there are fewer than two GPUs, so that ctest lists these tests as skipped.
#include <cstdio>
#include <cstring>

#ifdef SINKSCOPE_CATCH2_V2
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#else
#include <catch2/catch_session.hpp>
#endif

#include "kernels/ops.h"

int main(int argc, char** argv) {
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::strncmp(argv[i], "--list", 6) == 0;
  if (!lists && sinkscope::cuda_devices().size() < 2) {
    std::fprintf(stderr, "skipped: fewer than two GPUs\n");
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
