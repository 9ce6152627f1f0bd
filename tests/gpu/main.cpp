// Exit status 77 where there is no GPU, so that ctest lists these tests as skipped.
#include <cstdio>
#include <cstring>
#include <string>

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
  std::string why;
  if (!lists && sinkscope::cuda_devices(&why).empty()) {
    std::fprintf(stderr, "skipped: no GPU: %s\n", why.c_str());
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
