// Exit status 77 where the build or the machine has no MPI, so that ctest lists these tests as skipped.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef SINKSCOPE_CATCH2_V2
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#else
#include <catch2/catch_session.hpp>
#endif

#include "engine/comm/backends.h"

int main(int argc, char** argv) {
  bool lists = false;
  for (int i = 1; i < argc; ++i) lists = lists || std::strncmp(argv[i], "--list", 6) == 0;
  if (!lists && sinkscope::mpi_description().empty()) {
    std::fprintf(stderr, "skipped: this build has no MPI; install libopenmpi-dev and build again\n");
    return 77;
  }
  if (!lists && std::system("mpirun --version > /dev/null 2>&1") != 0) {
    std::fprintf(stderr, "skipped: no mpirun; install openmpi-bin\n");
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
