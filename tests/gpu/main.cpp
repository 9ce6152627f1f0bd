#include <cstdlib>

#include "kernels/ops.h"
#include "tests/files.h"
#include "tests/skippable_main.h"

int main(int argc, char** argv) {
  const sinkscope::test::TemporaryFolder cache;  // of timed products, not the user's
  setenv("SINKSCOPE_CACHE", cache.path().c_str(), 0);
  return sinkscope::test::run_or_skip(argc, argv, [] {
    std::string why;
    return sinkscope::cuda_devices(&why).empty() ? "no GPU: " + why : std::string();
  });
}
