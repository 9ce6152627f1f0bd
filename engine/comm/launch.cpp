#include "engine/comm/launch.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <vector>

namespace sinkscope {
namespace {

struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
};

constexpr Names kTorchrun{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names kOpenMpi{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"};
constexpr Names kSlurm{"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"};

constexpr int kMostRanks = 1 << 20;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error("launch: " + message); }

std::string quoted(const char* name, const char* value) { return std::string(name) + "=\"" + value + "\""; }

std::optional<int> number(const Variables& variable, const char* name, int least, int most) {
  const char* text = variable(name);
  if (text == nullptr) return std::nullopt;
  const std::string value = text;
  int result = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc() || end != value.data() + value.size() || result < least || result > most)
    fail(quoted(name, text) + ": expected a whole number from " + std::to_string(least) + " to " +
         std::to_string(most));
  return result;
}

/// The ranks that one launcher's variables give; nothing where none of them is there.
std::optional<Launch> ranks_of(const Variables& variable, const Names& names) {
  std::string given, missing;
  for (const char* name : {names.rank, names.size, names.local_rank}) {
    std::string& list = variable(name) == nullptr ? missing : given;
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  if (given.empty()) return std::nullopt;
  if (!missing.empty()) fail("the environment has " + given + " and not " + missing + "; give all of them or none");
  Launch launch;
  launch.launcher = names.launcher;
  launch.size = number(variable, names.size, 1, kMostRanks).value();
  launch.rank = number(variable, names.rank, 0, kMostRanks).value();
  launch.local_rank = number(variable, names.local_rank, 0, kMostRanks).value();
  for (const char* name : {names.rank, names.local_rank})
    if (number(variable, name, 0, kMostRanks).value() >= launch.size)
      fail(quoted(name, variable(name)) + " and " + quoted(names.size, variable(names.size)) +
           ": a rank is less than their number");
  return launch;
}

/// By what the launcher tells of this host, or of how many there are.
bool is_on_one_host(const Variables& variable, const Launch& launch) {
  if (launch.launcher == kSlurm.launcher)
    return number(variable, "SLURM_STEP_NUM_NODES", 1, kMostRanks).value_or(1) == 1;
  if (launch.launcher == kTorchrun.launcher)
    return number(variable, "LOCAL_WORLD_SIZE", 1, kMostRanks).value_or(launch.size) >= launch.size;
  return launch.launcher != kOpenMpi.launcher ||
         number(variable, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, kMostRanks).value_or(launch.size) >= launch.size;
}

void expect_agreement(const Launch& a, const Launch& b) {
  if (a.rank == b.rank && a.size == b.size && a.local_rank == b.local_rank) return;
  const auto text = [](const Launch& launch) {
    return "rank " + std::to_string(launch.rank) + " of " + std::to_string(launch.size) + " (local " +
           std::to_string(launch.local_rank) + ") by " + launch.launcher + "'s variables";
  };
  fail("this process is " + text(a) + " and " + text(b) + "; unset those of one");
}

}  // namespace

Launch read_launch(const Variables& variable) {
  std::vector<Launch> found;
  if (const auto launch = ranks_of(variable, kTorchrun)) found.push_back(*launch);
  if (const auto launch = ranks_of(variable, kOpenMpi)) {
    found.push_back(*launch);
    found.back().mpi = true;
  }
  // A batch script has Slurm's variables too, but is no task of a step.
  if (found.empty() && variable("SLURM_STEP_ID") != nullptr)
    if (const auto launch = ranks_of(variable, kSlurm)) found.push_back(*launch);
  for (std::size_t i = 1; i < found.size(); ++i) expect_agreement(found[0], found[i]);

  Launch launch;
  if (!found.empty()) {
    launch = found.front();
    for (const Launch& other : found) launch.mpi = launch.mpi || other.mpi;
  } else if (variable("PMIX_RANK") != nullptr) {
    launch.launcher = "PMIx";
    launch.size = 0;
  }
  // srun under PMIx is one that MPI can be initialised in.
  launch.mpi = launch.mpi || (launch.launcher != "torchrun" && variable("PMIX_RANK") != nullptr);
  if (launch.launcher.empty()) return launch;
  launch.one_host = is_on_one_host(variable, launch);

  const char* address = variable("MASTER_ADDR");
  if ((address == nullptr) != (variable("MASTER_PORT") == nullptr))
    fail(std::string("the environment has ") +
         (address == nullptr ? "MASTER_PORT and not MASTER_ADDR" : "MASTER_ADDR and not MASTER_PORT") +
         "; give both or none");
  if (address != nullptr) {
    if (*address == '\0') fail("MASTER_ADDR is empty; expected the name or address of rank 0's host");
    launch.master_address = address;
    launch.master_port = number(variable, "MASTER_PORT", 1, 65535).value();
    // torchrun's own store listens on MASTER_PORT then.
    const char* store = variable("TORCHELASTIC_USE_AGENT_STORE");
    if (store != nullptr && std::string(store) == "True") {
      if (launch.master_port == 65535)
        fail("MASTER_PORT is 65535, and torchrun takes it for itself; the next one is needed");
      ++launch.master_port;
    }
  }
  if (launch.launcher == "torchrun" && !launch.mpi && launch.size > 1 && launch.master_address.empty())
    fail("the environment has RANK, WORLD_SIZE, LOCAL_RANK and not MASTER_ADDR, MASTER_PORT; give all of them or none");
  return launch;
}

Launch read_launch() {
  return read_launch([](const char* name) { return std::getenv(name); });
}

}  // namespace sinkscope
