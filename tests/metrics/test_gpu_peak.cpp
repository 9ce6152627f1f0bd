#include "engine/metrics/gpu_peak.h"
#include "tests/catch.h"

using namespace sinkscope;

TEST_CASE("datasheet peaks are found by the driver's exact name") {
  CHECK(datasheet_bf16_flops("NVIDIA H100 80GB HBM3") == 989.4e12);
  CHECK(datasheet_bf16_flops("NVIDIA H200") == 989.4e12);
  CHECK(datasheet_bf16_flops("NVIDIA H100 PCIe") == 756e12);
  CHECK(datasheet_bf16_flops("NVIDIA A100-SXM4-80GB") == 312e12);
  CHECK(datasheet_bf16_flops("NVIDIA GeForce RTX 4090") == 165.2e12);
}

TEST_CASE("an unknown GPU, a slice of one, or none has no peak") {
  for (const char* name : {"", "NVIDIA", "NVIDIA H100", "nvidia h200", "NVIDIA H200 ", "NVIDIA H300",
                           "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA L40S-48Q"}) {
    INFO(name);
    CHECK_FALSE(datasheet_bf16_flops(name).has_value());
  }
}
