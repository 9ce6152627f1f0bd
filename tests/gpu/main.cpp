#include "kernels/ops.h"
#include "tests/skippable_main.h"

int main(int argc, char** argv) {
  return sinkscope::test::run_or_skip(argc, argv, [] {
    std::string why;
    return sinkscope::cuda_devices(&why).empty() ? "no GPU: " + why : std::string();
  });
}
