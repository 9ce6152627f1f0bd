#include "kernels/cpu/cpu_ops.h"

#include <cblas.h>
#include <omp.h>

#include <stdexcept>

namespace sinkscope {

CpuOps::CpuOps(int threads) {
  // Taken before the first omp_set_num_threads, which later calls would otherwise see.
  static const int default_threads = omp_get_max_threads();
  if (threads < 0)
    throw std::invalid_argument("make_cpu_ops: threads is " + std::to_string(threads) + ", expected >= 0");
  threads_ = threads == 0 ? default_threads : threads;
  omp_set_num_threads(threads_);
  openblas_set_num_threads(threads_);
}

std::string CpuOps::device_name() const { return "cpu"; }

std::string CpuOps::description() const {
  return "fp32, " + gemm_library_description() + ", " + std::to_string(threads_) +
         (threads_ == 1 ? " thread" : " threads");
}

std::unique_ptr<Ops> make_cpu_ops(int threads) { return std::make_unique<CpuOps>(threads); }

std::string gemm_library_description() {
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..."
  const std::size_t name_end = config.find(' ');
  const std::size_t version_end = name_end == std::string::npos ? name_end : config.find(' ', name_end + 1);
  return config.substr(0, version_end) + ", cores " + openblas_get_corename();
}

}  // namespace sinkscope
