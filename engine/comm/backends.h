// The two ways tensors travel between ranks, each of which a build may lack.
#pragma once

#include <memory>
#include <string>

#include "engine/comm/communicator.h"

namespace sinkscope {

class Ops;
class World;

/// "Open MPI 4.1.4", "NCCL 2.28.9"; empty where this build has none.
std::string mpi_description();
std::string nccl_description();

struct MpiPlace {
  int rank = 0, size = 1, local_rank = 0;
};
/// Initialises MPI. Throws std::runtime_error, in a build without it too. After `seconds` the process ends with a
/// message: nothing else stops MPI while it waits for others.
MpiPlace start_mpi(double seconds);
/// Every rank calls it at its end; waits for the others.
void finish_mpi();
/// The text of rank 0 on every rank.
std::string mpi_text_of_leader(const std::string& mine);

/// For tensors on the host.
std::unique_ptr<Communicator> make_mpi_communicator(const World& world);

/// What rank 0 makes and every rank needs, of any bytes. Throws std::runtime_error in a build without NCCL.
std::string make_nccl_id();
/// For tensors of the GPU of `ops`; they are summed on a stream of their own. Collective. NVLink multicast stays off
/// (NCCL_NVLS_ENABLE=0) unless the environment says otherwise. Between GPUs of one host copy engines, where NCCL has
/// them, carry up to so many bytes at a time, for which memory is taken here; sums are formed in rank order then.
std::unique_ptr<Communicator> make_nccl_communicator(const World& world, Ops& ops, const std::string& id,
                                                     const CarriedBytes& carried);

}  // namespace sinkscope
