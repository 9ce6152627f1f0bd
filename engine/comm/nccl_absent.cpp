// What there is of NCCL in a build without it.
#include <stdexcept>

#include "engine/comm/backends.h"

namespace sinkscope {

std::string nccl_description() { return {}; }
std::string make_nccl_id() { throw std::runtime_error("make_nccl_id: this build has no NCCL"); }
std::unique_ptr<Communicator> make_nccl_communicator(const World&, Ops&, const std::string&, const CarriedBytes&) {
  throw std::runtime_error("make_nccl_communicator: this build has no NCCL");
}

}  // namespace sinkscope
