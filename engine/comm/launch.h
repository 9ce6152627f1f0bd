// How this process was started: alone, or as one rank of several by torchrun, mpirun or srun.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace sinkscope {

/// What the variables of a launcher say.
struct Launch {
  std::string launcher;        // "torchrun", "Open MPI", "Slurm", "PMIx"; empty without one
  int rank = 0;
  int size = 1;                // 0: only MPI knows it and the rank
  int local_rank = 0;          // among the ranks of this host
  bool one_host = true;        // unless the launcher says that there are ranks on others
  bool mpi = false;            // MPI can be initialised: Open MPI's or PMIx's variables are there
  std::string master_address;  // of rank 0, for the TCP rendezvous; empty: not given
  int master_port = 0;
};

/// The value of a variable, or null.
using Variables = std::function<const char*(const char*)>;

/// Reads, the first of them that is there:
///   RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT            torchrun, and the form for scripts
///   OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_RANK    mpirun of Open MPI
///   SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, within a step (SLURM_STEP_ID)  srun
///   PMIX_RANK                                                         others with PMIx
/// and LOCAL_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_SIZE, SLURM_STEP_NUM_NODES where they are there.
/// MASTER_ADDR and MASTER_PORT count with every one of them. Throws std::runtime_error naming the variable that is
/// missing, is no number, is out of range, or that two launchers give differently.
Launch read_launch(const Variables& variable);

/// The same of this process's environment.
Launch read_launch();

}  // namespace sinkscope
