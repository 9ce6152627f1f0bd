// Work that repeats itself, recorded as a CUDA graph.
#include <utility>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"

namespace sinkscope {

/// The first run calls the work, which makes plans of products and takes memory that it needs; the second records it,
/// and later ones launch what was recorded, until memory that operations keep for themselves has moved.
class CudaOps::RecordedWork final : public RepeatedWork {
 public:
  explicit RecordedWork(CudaOps& ops) : ops_(ops) {}
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;
  ~RecordedWork() override { forget(); }

  void run(const std::function<void()>& work) override {
    if (moves_ != ops_.moves_) {
      forget();
      work();
      moves_ = ops_.moves_;
      return;
    }
    if (recorded_ == nullptr) record(work);
    check_cuda(cudaGraphLaunch(recorded_, ops_.stream_), "cudaGraphLaunch");
  }

 private:
  void forget() {
    if (recorded_ != nullptr) cudaGraphExecDestroy(std::exchange(recorded_, nullptr));
  }

  void record(const std::function<void()>& work) {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamBeginCapture(ops_.stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(ops_.stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      static_cast<void>(cudaGetLastError());
      throw;
    }
    cudaError_t status = cudaStreamEndCapture(ops_.stream_, &graph);
    static_cast<void>(cudaGetLastError());  // which no later operation is to take for its own
    check_cuda(status, "cudaStreamEndCapture");
    status = cudaGraphInstantiate(&recorded_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "cudaGraphInstantiate");
  }

  CudaOps& ops_;
  cudaGraphExec_t recorded_ = nullptr;
  std::int64_t moves_ = -1;  // of the run that called the work last
};

std::unique_ptr<RepeatedWork> CudaOps::repeated_work() { return std::make_unique<RecordedWork>(*this); }

}  // namespace sinkscope
