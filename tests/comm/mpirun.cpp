#include "tests/comm/mpirun.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace sinkscope::test {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::size_t lines_of(const fs::path& file) {
  std::size_t lines = 0;
  for (const char c : content(file)) lines += c == '\n' ? 1 : 0;
  return lines;
}

}  // namespace

pid_t process_with(const fs::path& folder, const std::string& variable) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t process = std::atoi(entry.path().filename().c_str());
    if (process <= 0 || fs::read_symlink(entry.path() / "cwd", error) != fs::canonical(folder)) continue;
    const std::string environment = '\0' + content(entry.path() / "environ");
    if (environment.find('\0' + variable + '\0') != std::string::npos) return process;
  }
  return 0;
}

bool stand_still_until_gone(pid_t process) {
  if (ptrace(PTRACE_SEIZE, process, nullptr, nullptr) != 0) return false;
  if (ptrace(PTRACE_INTERRUPT, process, nullptr, nullptr) != 0) throw std::runtime_error("PTRACE_INTERRUPT failed");
  int status = 0;
  while (waitpid(process, &status, __WALL) == process && WIFSTOPPED(status)) {
  }
  return true;
}

std::string mpirun(int ranks) {
  return "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive "
         "ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe --bind-to none --mca btl self,vader "
         "--mca btl_vader_single_copy_mechanism none -n " +
         std::to_string(ranks);
}

Outcome run_ranks(const Workplace& place, int ranks, const std::string& arguments) {
  return place.run(arguments, ranks == 1 ? "" : mpirun(ranks));
}

Outcome run_ranks_until(const Workplace& place, int ranks, const std::string& arguments, const std::string& metrics,
                        std::size_t lines, const std::function<void(const std::vector<pid_t>&)>& then) {
  Outcome outcome;
  std::jthread runner([&] { outcome = run_ranks(place, ranks, arguments); });
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (lines_of(place.path() / metrics) < lines) {
    if (std::chrono::steady_clock::now() > end)
      throw std::runtime_error(metrics + ": has too few lines after two minutes");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    processes.push_back(process_with(place.path(), "OMPI_COMM_WORLD_RANK=" + std::to_string(rank)));
    if (processes.back() == 0) throw std::runtime_error("rank " + std::to_string(rank) + " is not running");
  }
  then(processes);
  runner.join();
  return outcome;
}

}  // namespace sinkscope::test
