#include <cstdlib>

#include "engine/comm/backends.h"
#include "tests/skippable_main.h"

int main(int argc, char** argv) {
  return sinkscope::test::run_or_skip(argc, argv, []() -> std::string {
    if (sinkscope::mpi_description().empty()) return "this build has no MPI; install libopenmpi-dev and build again";
    if (std::system("mpirun --version > /dev/null 2>&1") != 0) return "no mpirun; install openmpi-bin";
    return "";
  });
}
