#define PCRE2_CODE_UNIT_WIDTH 8
#include <omp.h>
#include <pcre2.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <spdlog/version.h>
#include <string>
#include <vector>

#include "engine/comm/backends.h"
#include "engine/train/product_record.h"
#include "kernels/ops.h"
#include "tools/commands.h"
#include "tools/program.h"
#include "tools/report/assets.h"
#include "tools/watch/server.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

void found(const std::string& what, const std::string& detail) {
  std::printf("  found    %-22s %s\n", what.c_str(), detail.c_str());
}

/// `without`: what does not work then; `remedy`: how to get it.
void missing(const std::string& what, const std::string& without, const std::string& remedy) {
  std::printf("  missing  %-22s without it: %s; to get it: %s\n", what.c_str(), without.c_str(), remedy.c_str());
}

/// The first folder of PATH that holds the program, or nothing.
std::string on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string folders = path == nullptr ? "" : path;
  for (std::size_t begin = 0; begin <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    const fs::path candidate = fs::path(folders.substr(begin, end - begin)) / program;
    if (access(candidate.c_str(), X_OK) == 0) return candidate.string();
    begin = end + 1;
  }
  return {};
}

std::string version(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

/// "10.42 2022-12-11".
std::string pcre2_version() {
  std::string text(static_cast<std::size_t>(pcre2_config(PCRE2_CONFIG_VERSION, nullptr)), '\0');
  pcre2_config(PCRE2_CONFIG_VERSION, text.data());
  return text.c_str();  // less the NUL at its end
}

void check() {
  std::printf("%s\n\nCompiled in\n", build_description().c_str());
  found("CPU backend", make_cpu_ops()->description());
  found("GEMM", gemm_library_description());
  found("OpenMP", std::to_string(omp_get_num_procs()) + " processors, " + std::to_string(omp_get_max_threads()) +
                      " threads by default");
#ifdef SINKSCOPE_SENTENCEPIECE
  found("sentencepiece", SINKSCOPE_SENTENCEPIECE);
#else
  missing("sentencepiece", "no training and reading of sentencepiece tokenizers",
          "install libsentencepiece-dev and build again");
#endif
  if (http_library().empty())
    missing("cpp-httplib", "no live page of runs (monitor --serve)", "install libcpp-httplib-dev and build again");
  else
    found("cpp-httplib", http_library());
  found("PCRE2", pcre2_version());
  found("zstd", ZSTD_versionString());
  found("zlib", zlibVersion());
  found("xxHash",
        version(static_cast<int>(XXH_versionNumber() / 10000), static_cast<int>(XXH_versionNumber() / 100 % 100),
                static_cast<int>(XXH_versionNumber() % 100)));
  found("nlohmann/json",
        version(NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH));
  found("simdjson", SINKSCOPE_SIMDJSON);
  found("Boost.Math", SINKSCOPE_BOOST);
  found("spdlog", version(SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH));
  found("CLI11", CLI11_VERSION);
#ifdef SINKSCOPE_CATCH2
  found("Catch2", SINKSCOPE_CATCH2 ", in the tests");
#else
  missing("Catch2", "this build has no tests (the program is complete)",
          "install catch2, configure with -DSINKSCOPE_TESTS=ON and build again");
#endif
  if (cuda_description().empty())
    missing("CUDA backend", "training runs on the CPU",
            "install the CUDA toolkit, configure with the cuda preset and build again");
  else
    found("CUDA backend", cuda_description());
  if (mpi_description().empty())
    missing("MPI", "no training on several ranks of the CPU", "install libopenmpi-dev and openmpi-bin and build again");
  else
    found("MPI", mpi_description());
  if (!nccl_description().empty())
    found("NCCL", nccl_description());
  else
    missing("NCCL", "no training on several GPUs",
            "install NCCL (libnccl-dev), configure with the cuda preset and build again");

  std::printf("\nOn this machine\n");
  try {
    load_chart_library();
    found("uPlot", "the chart library of the HTML report");
  } catch (const std::exception&) {
    missing("uPlot", "no HTML report (the terminal table works)", "run scripts/fetch_assets");
  }
  const auto program = [](const std::string& name, const std::string& without, const std::string& remedy) {
    const std::string place = on_path(name);
    if (place.empty())
      missing(name, without, remedy);
    else
      found(name, place);
  };
  program("npm", "scripts/quickstart and scripts/fetch_assets cannot fetch text and charts", "install npm");
  program("nvcc", "no CUDA code is compiled", "install the CUDA toolkit (not needed on the CPU)");
  std::string why;
  const std::vector<std::string> gpus = cuda_devices(&why);
  for (std::size_t i = 0; i < gpus.size(); ++i) found("GPU " + std::to_string(i), gpus[i]);
  if (const fs::path record = product_record_file(); record.empty()) {
    missing("product record", "matrix products on a GPU are not timed", "set SINKSCOPE_CACHE to a folder");
  } else {
    try {
      found("product record",
            record.string() + ", " + std::to_string(ProductRecord(record).size()) + " matrix products timed on GPUs");
    } catch (const std::exception& error) {
      missing("product record", "no run on a GPU", error.what());
    }
  }
  if (gpus.empty())
    missing("GPU", "training runs on the CPU (" + why + ")", "use a machine and a build that have one (not needed)");
  std::fflush(stdout);
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  app.add_subcommand("doctor", "Print what this build and machine have, and what they lack")->callback([] { check(); });
}

}  // namespace sinkscope
