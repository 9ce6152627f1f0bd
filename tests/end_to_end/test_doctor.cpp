#include <filesystem>
#include <string>

#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

TEST_CASE("doctor tells what the build was made of, the tests' library included") {
  const test::Workplace place;
  const test::Outcome outcome = place.run("doctor");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  for (const char* name : {"CPU backend", "GEMM", "OpenMP", "sentencepiece", "cpp-httplib", "PCRE2", "zstd", "zlib", "xxHash", "nlohmann/json", "spdlog",
                           "CLI11", "Catch2", "CUDA backend", "MPI", "NCCL", "GPU", "uPlot", "npm", "nvcc"})
    CHECK(test::contains(outcome.output, name));
  if (!std::filesystem::exists("/proc/driver/nvidia"))  // no driver's version is to blame
    CHECK_FALSE(test::contains(outcome.output, "driver version is insufficient"));
  const std::string version = std::to_string(CATCH_VERSION_MAJOR) + "." + std::to_string(CATCH_VERSION_MINOR) + "." +
                              std::to_string(CATCH_VERSION_PATCH);
  CHECK(test::contains(outcome.output, version + ", in the tests"));
}

}  // namespace
}  // namespace sinkscope
