#include "kernels/ops.h"
#include "tests/skippable_main.h"

int main(int argc, char** argv) {
  return sinkscope::test::run_or_skip(argc, argv, []() -> std::string {
    return sinkscope::cuda_devices().size() < 2 ? "fewer than two GPUs" : "";
  });
}
