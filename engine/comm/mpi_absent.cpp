// What there is of MPI in a build without it.
#include <stdexcept>

#include "engine/comm/backends.h"

namespace sinkscope {
namespace {

[[noreturn]] void refuse(const char* call) { throw std::runtime_error(std::string(call) + ": this build has no MPI"); }

}  // namespace

std::string mpi_description() { return {}; }
MpiPlace start_mpi(double) { refuse("start_mpi"); }
void finish_mpi() { refuse("finish_mpi"); }
std::string mpi_text_of_leader(const std::string&) { refuse("mpi_text_of_leader"); }
std::unique_ptr<Communicator> make_mpi_communicator(const World&) { refuse("make_mpi_communicator"); }

}  // namespace sinkscope
