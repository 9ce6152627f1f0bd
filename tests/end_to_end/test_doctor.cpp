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
  for (const char* name :
       {"CPU backend", "GEMM",   "OpenMP",        "sentencepiece", "cpp-httplib", "PCRE2",  "zstd",
        "zlib",        "xxHash", "nlohmann/json", "spdlog",        "CLI11",       "Catch2", "CUDA backend",
        "MPI",         "NCCL",   "GPU",           "uPlot",         "npm",         "nvcc"})
    CHECK(test::contains(outcome.output, name));
  if (!std::filesystem::exists("/proc/driver/nvidia"))  // no driver's version is to blame
    CHECK_FALSE(test::contains(outcome.output, "driver version is insufficient"));
  const std::string version = std::to_string(CATCH_VERSION_MAJOR) + "." + std::to_string(CATCH_VERSION_MINOR) + "." +
                              std::to_string(CATCH_VERSION_PATCH);
  CHECK(test::contains(outcome.output, version + ", in the tests"));
}

TEST_CASE("doctor tells where the record of matrix products is, how many it has, and what is wrong with it") {
  const test::Workplace place;
  const std::string cache = "export SINKSCOPE_CACHE=cache;", file = "cache/products.json";
  CHECK(test::contains(place.run("doctor", cache).output, file + ", 0 matrix products timed on GPUs\n"));
  CHECK_FALSE(std::filesystem::exists(place.path() / "cache"));
  place.write(file, R"({"a": "00", "b": "01"})");
  CHECK(test::contains(place.run("doctor", cache).output, file + ", 2 matrix products timed on GPUs\n"));
  place.write(file, R"({"a": 3})");
  const test::Outcome damaged = place.run("doctor", cache);
  CHECK(damaged.status == 0);
  CHECK(test::contains(damaged.output,
                       file + ": \"a\" is the integer 3, expected the algorithm's word; delete the file"));
  CHECK(test::contains(place.run("doctor", "unset SINKSCOPE_CACHE XDG_CACHE_HOME HOME;").output,
                       "matrix products on a GPU are not timed"));
}

}  // namespace
}  // namespace sinkscope
