#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "engine/comm/launch.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using Environment = std::map<std::string, std::string>;

Launch read(const Environment& environment) {
  return read_launch([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

std::string error_of(const Environment& environment) {
  return test::message_of([&] { static_cast<void>(read(environment)); });
}

const Environment kTorchrun = {
    {"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "29500"}};
const Environment kOpenMpi = {
    {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
const Environment kSlurm = {
    {"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_ID", "0"}};

Environment with(Environment environment, const Environment& more) {
  for (const auto& [name, value] : more) environment[name] = value;
  return environment;
}

Environment without(Environment environment, const std::string& name) {
  environment.erase(name);
  return environment;
}

TEST_CASE("without a launcher's variables a process is alone") {
  const Launch launch = read({{"PATH", "/bin"}, {"MASTER_ADDR", "left over"}});
  CHECK(launch.launcher.empty());
  CHECK(launch.rank == 0);
  CHECK(launch.size == 1);
  CHECK_FALSE(launch.mpi);
}

TEST_CASE("each launcher's variables give rank, size and local rank") {
  for (const auto& [environment, launcher, mpi] :
       {std::tuple(kTorchrun, "torchrun", false), std::tuple(kOpenMpi, "Open MPI", true),
        std::tuple(kSlurm, "Slurm", false), std::tuple(with(kSlurm, {{"PMIX_RANK", "3"}}), "Slurm", true),
        std::tuple(with(kTorchrun, kOpenMpi), "torchrun", true)}) {
    const Launch launch = read(environment);
    INFO(launcher);
    CHECK(launch.launcher == launcher);
    CHECK(launch.rank == 3);
    CHECK(launch.size == 8);
    CHECK(launch.local_rank == 1);
    CHECK(launch.mpi == mpi);
  }
  CHECK(read(kTorchrun).master_address == "node0");
  CHECK(read(kTorchrun).master_port == 29500);
  CHECK(read(with(kSlurm, {{"MASTER_ADDR", "node0"}, {"MASTER_PORT", "1"}})).master_port == 1);
  CHECK(read(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}})).master_port == 29501);
  CHECK(read({{"PMIX_RANK", "2"}}).size == 0);
  CHECK(read({{"PMIX_RANK", "2"}}).mpi);
}

TEST_CASE("ranks are on one host unless their launcher tells of others") {
  const std::vector<std::tuple<Environment, const char*, const char*, const char*>> cases = {
      {kTorchrun, "LOCAL_WORLD_SIZE", "8", "4"},
      {kOpenMpi, "OMPI_COMM_WORLD_LOCAL_SIZE", "8", "4"},
      {kSlurm, "SLURM_STEP_NUM_NODES", "1", "2"}};
  for (const auto& [environment, variable, all, several] : cases) {
    INFO(variable);
    CHECK(read(environment).one_host);
    CHECK(read(with(environment, {{variable, all}})).one_host);
    CHECK_FALSE(read(with(environment, {{variable, several}})).one_host);
    CHECK(error_of(with(environment, {{variable, "few"}})) ==
          "launch: " + std::string(variable) + "=\"few\": expected a whole number from 1 to 1048576");
  }
  CHECK(read({{"LOCAL_WORLD_SIZE", "few"}}).one_host);
  CHECK(read({{"PMIX_RANK", "2"}}).one_host);
}

TEST_CASE("a batch script of Slurm, outside of any step, is no rank") {
  CHECK(read(without(kSlurm, "SLURM_STEP_ID")).launcher.empty());
}

TEST_CASE("variables that are missing, wrong or at odds are one clear error") {
  CHECK(error_of(without(kTorchrun, "WORLD_SIZE")) ==
        "launch: the environment has RANK, LOCAL_RANK and not WORLD_SIZE; give all of them or none");
  CHECK(error_of({{"RANK", "0"}}) ==
        "launch: the environment has RANK and not WORLD_SIZE, LOCAL_RANK; give all of them or none");
  CHECK(error_of(without(kTorchrun, "MASTER_PORT")) ==
        "launch: the environment has MASTER_ADDR and not MASTER_PORT; give both or none");
  CHECK(error_of(without(without(kTorchrun, "MASTER_PORT"), "MASTER_ADDR")) ==
        "launch: the environment has RANK, WORLD_SIZE, LOCAL_RANK and not MASTER_ADDR, MASTER_PORT; give all of them "
        "or none");
  CHECK(error_of(with(kTorchrun, {{"RANK", "8"}})) ==
        "launch: RANK=\"8\" and WORLD_SIZE=\"8\": a rank is less than their number");
  CHECK(error_of(with(kTorchrun, {{"RANK", "two"}})) ==
        "launch: RANK=\"two\": expected a whole number from 0 to 1048576");
  CHECK(error_of(with(kTorchrun, {{"RANK", "-1"}})) ==
        "launch: RANK=\"-1\": expected a whole number from 0 to 1048576");
  CHECK(error_of(with(kTorchrun, {{"WORLD_SIZE", "0"}})) ==
        "launch: WORLD_SIZE=\"0\": expected a whole number from 1 to 1048576");
  CHECK(error_of(with(kTorchrun, {{"MASTER_PORT", "65536"}})) ==
        "launch: MASTER_PORT=\"65536\": expected a whole number from 1 to 65535");
  CHECK(error_of(with(kTorchrun, {{"MASTER_ADDR", ""}})) ==
        "launch: MASTER_ADDR is empty; expected the name or address of rank 0's host");
  CHECK(error_of(without(kOpenMpi, "OMPI_COMM_WORLD_SIZE")) ==
        "launch: the environment has OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_LOCAL_RANK and not OMPI_COMM_WORLD_SIZE; "
        "give all of them or none");
  CHECK(error_of(without(kSlurm, "SLURM_LOCALID")) ==
        "launch: the environment has SLURM_PROCID, SLURM_NTASKS and not SLURM_LOCALID; give all of them or none");
  CHECK(error_of(with(with(kTorchrun, kOpenMpi), {{"OMPI_COMM_WORLD_RANK", "2"}})) ==
        "launch: this process is rank 3 of 8 (local 1) by torchrun's variables and rank 2 of 8 (local 1) by Open MPI's "
        "variables; unset those of one");
}

}  // namespace
}  // namespace sinkscope
