// NCCL for tensors of a GPU, on a stream of its own that events order with the one of the Ops. The host polls for the
// end of what it waits for and for NCCL's asynchronous errors. Calls that enqueue may wait for other ranks inside NCCL, the first
// ones for connections, and count as waiting. (A communicator that does not block starts a thread for every one of them.)
// NCCL's kernels take multiprocessors that products beside them then lack, so that what they sum costs a backward pass more than
// by itself. Between GPUs of one host copy engines carry what ranks send one another instead, and each adds up between its own operations.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/comm/backends.h"
#include "engine/comm/nccl_window.h"
#include "engine/comm/world.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/wire.h"

namespace sinkscope {
namespace {

/// Multicast over NVLink stays off unless it was asked for.
void keep_multicast_off() { setenv("NCCL_NVLS_ENABLE", "0", 0); }

/// NCCL's type of an element, and how many of them a tensor has.
ncclDataType_t type_of(const Tensor& x) {
  switch (x.dtype) {
    case DType::f32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::f64: return ncclFloat64;
    case DType::i32: return ncclInt32;
  }
  throw std::logic_error("NCCL: unknown dtype");
}

std::size_t count_of(const Tensor& x) { return static_cast<std::size_t>(x.size()); }

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const World& world, CudaOps& ops, const std::string& id, bool copy_engines) : world_(world), ops_stream_(ops.stream()) {
    keep_multicast_off();
    ncclUniqueId unique{};
    if (id.size() != sizeof unique)
      throw std::runtime_error("NCCL: rank 0 has sent an id of " + std::to_string(id.size()) + " bytes, expected " +
                               std::to_string(sizeof unique) + "; the ranks run different builds");
    std::memcpy(&unique, id.data(), sizeof unique);
    try {
      const World::Waiting waiting(world_);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      copies_ = copy_engines && world_.on_one_host() && prefer_copy_engines(config);
      settle(ncclCommInitRankConfig(&nccl_, world_.size(), unique, world_.rank(), &config), "ncclCommInitRankConfig");
      // Blocks of sums go first where multiprocessors fall free, so that sums run beside a backward pass, not behind it.
      int least = 0, greatest = 0;
      check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
      check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreate");
      check_cuda(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "cudaEventCreate");
      check_cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreate");
      check_cuda(cudaEventCreateWithFlags(&exchanged_, cudaEventDisableTiming), "cudaEventCreate");
      for (cudaEvent_t& mark : marks_) check_cuda(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "cudaEventCreate");
      reserve(kStaging);
    } catch (...) {
      failed_ = true;
      release();
      throw;
    }
  }
  ~NcclCommunicator() override {
    failed_ = failed_ || std::uncaught_exceptions() > 0;
    release();
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  std::string description() const override {
    return std::to_string(size()) + (size() == 1 ? " rank, " : " ranks, ") + nccl_description();
  }

  void start_all_reduce(const Tensor& x, DType wire) override {
    check_summable("all_reduce", x, wire);
    if (x.size() == 0) return;
    const World::Waiting waiting(world_);
    begin();
    if (wire != DType::bf16) {
      settle(ncclAllReduce(x.data, x.data, count_of(x), type_of(x), ncclSum, nccl_, stream_), "ncclAllReduce");
      return;
    }
    constexpr std::int64_t kVector = 8;  // elements that are rounded together
    const Stretch stretch{.x = x, .part = (x.size() + size() * kVector - 1) / (size() * kVector) * kVector};
    const Tensor rounded = sum_rounded(stretch), own = stretch.of(rank());
    cuda::to_wire(stream_, at(rounded, stretch.begin_of(rank())), own.as<float>(), own.size());
    const Stretch sums{.x = rounded, .part = stretch.part};
    enqueue_share({&sums, 1});
    cuda::from_wire(stream_, x.as<float>(), rounded.data, x.size());
    check_cuda(cudaGetLastError(), "all_reduce");
  }

  void start_reduce(std::span<const Stretch> stretches, DType wire) override {
    for (const Stretch& stretch : stretches) {
      check_summable("reduce", stretch.x, wire);
      check_stretch("reduce", stretch, rank(), size());
    }
    const World::Waiting waiting(world_);
    const bool single = std::all_of(stretches.begin(), stretches.end(), [](const Stretch& stretch) { return stretch.x.dtype == DType::f32; });
    if (single && start_exchange(stretches, wire, waiting)) return;
    begin();
    for (const Stretch& stretch : stretches) enqueue_reduce(stretch, wire);
  }

  std::int64_t mark() override {
    check_cuda(cudaEventRecord(event_of(next_mark_), stream_), "cudaEventRecord");
    return next_mark_++;
  }

  /// Of a mark whose event another has taken since, that one's: it comes later.
  void join(std::int64_t mark) override {
    if (mark >= received_mark_) add_received();
    check_cuda(cudaStreamWaitEvent(ops_stream_, event_of(mark), 0), "cudaStreamWaitEvent");
    joined_ = true;
  }

  void finish() override {
    add_received();
    order();
    if (started_ && !joined_) poll(ready_);  // this rank's own work, which is no wait for others
    started_ = joined_ = false;
    const World::Waiting waiting(world_);
    poll(done_, &waiting);
  }

  void broadcast(const Tensor& x, int root) override {
    if (x.size() == 0) return;
    {
      const World::Waiting waiting(world_);
      begin();
      settle(ncclBroadcast(x.data, x.data, count_of(x), type_of(x), root, nccl_, stream_), "ncclBroadcast");
    }
    finish();
  }

  void start_share(std::span<const Stretch> stretches) override {
    for (const Stretch& stretch : stretches) check_stretch("share", stretch, rank(), size());
    const World::Waiting waiting(world_);
    begin();
    enqueue_share(stretches);
  }

  std::vector<std::byte> gather(std::span<const std::byte> mine) override {
    const std::size_t bytes = mine.size() * static_cast<std::size_t>(size());
    std::vector<std::byte> all(bytes);
    if (bytes == 0) return all;
    reserve(bytes);
    // The rank's bytes stand in their place of the whole, on the host and on the device.
    const std::size_t place = mine.size() * static_cast<std::size_t>(rank());
    std::memcpy(host_ + place, mine.data(), mine.size());
    check_cuda(cudaMemcpyAsync(device_ + place, host_ + place, mine.size(), cudaMemcpyHostToDevice, stream_), "gather");
    const World::Waiting waiting(world_);
    settle(ncclAllGather(device_ + place, device_, mine.size(), ncclUint8, nccl_, stream_), "ncclAllGather");
    check_cuda(cudaMemcpyAsync(host_, device_, bytes, cudaMemcpyDeviceToHost, stream_), "gather");
    check_cuda(cudaEventRecord(done_, stream_), "cudaEventRecord");
    poll(done_, &waiting);
    std::memcpy(all.data(), host_, bytes);
    return all;
  }

 private:
  static constexpr std::size_t kStaging = std::size_t{1} << 20, kAligned = 256;

  static void* at(const Tensor& x, std::int64_t element) {
    return static_cast<std::byte*>(x.data) + static_cast<std::size_t>(element) * size_of(x.dtype);
  }

  bool is_even(const Stretch& stretch) const { return stretch.part * size() == stretch.x.size(); }

  /// By NCCL's kernels.
  void enqueue_reduce(const Stretch& stretch, DType wire) {
    const Tensor& x = stretch.x;
    if (x.size() == 0) return;
    const Tensor kept = stretch.kept(rank());
    if (wire == DType::bf16) {
      sum_rounded(stretch);
    } else if (is_even(stretch)) {
      settle(ncclReduceScatter(x.data, kept.data, count_of(kept), type_of(x), ncclSum, nccl_, stream_), "ncclReduceScatter");
    } else {
      check_nccl(ncclGroupStart(), "ncclGroupStart");
      for (int root = 0; root < size(); ++root)
        if (const Tensor part = stretch.of(root); part.size() > 0)
          check_nccl(ncclReduce(part.data, root == rank() ? kept.data : part.data, count_of(part), type_of(part), ncclSum, root, nccl_, stream_),
                     "ncclReduce", nccl_);
      settle(ncclGroupEnd(), "ncclGroupEnd");
    }
  }

  /// By copy engines: the ranks' parts of all stretches change places, of which start_exchange() enqueues the packing on the Ops'
  /// stream, and add_received() the sums, once they are wanted or the room is. False where there are no windows.
  bool start_exchange(std::span<const Stretch> stretches, DType wire, const World::Waiting& waiting) {
    add_received();
    std::int64_t pitch = 0;
    for (const Stretch& stretch : stretches) pitch += exchanged_elements(stretch.part);
    if (!copies_ || !reserve_window(size_of(wire) * static_cast<std::size_t>(pitch * size()), waiting)) return false;
    if (pitch == 0) return true;
    received_wire_ = wire;
    received_pitch_ = pitch;
    std::int64_t place = 0;
    for (const Stretch& stretch : stretches) {
      cuda::pack_parts(ops_stream_, rows_at(window_.sent(), place), stretch.x.as<float>(), stretch.x.size(), stretch.part);
      place += exchanged_elements(stretch.part);
    }
    check_cuda(cudaGetLastError(), "reduce");
    begin();
    settle(window_.exchange(size_of(wire) * static_cast<std::size_t>(pitch), nccl_, stream_), "ncclAlltoAll");
    check_cuda(cudaEventRecord(exchanged_, stream_), "cudaEventRecord");
    received_.assign(stretches.begin(), stretches.end());
    received_mark_ = next_mark_;
    return true;
  }

  void add_received() {
    if (received_.empty()) return;
    check_cuda(cudaStreamWaitEvent(ops_stream_, exchanged_, 0), "cudaStreamWaitEvent");
    joined_ = true;
    std::int64_t place = 0;
    for (const Stretch& stretch : received_) {
      const Tensor own = stretch.of(rank());
      cuda::add_in_rank_order(ops_stream_, stretch.kept(rank()).as<float>(), own.as<float>(), rows_at(window_.received(), place), own.size());
      place += exchanged_elements(stretch.part);
    }
    check_cuda(cudaGetLastError(), "reduce");
    received_.clear();
  }

  cuda::WireRows rows_at(std::byte* rows, std::int64_t place) const {
    return {.data = rows + static_cast<std::size_t>(place) * size_of(received_wire_), .dtype = received_wire_, .pitch = received_pitch_, .ranks = size(), .mine = rank()};
  }

  /// Of the largest exchange yet.
  bool reserve_window(std::size_t bytes, const World::Waiting& waiting) {
    if (bytes <= window_.bytes()) return true;
    check_cuda(cudaEventRecord(ready_, ops_stream_), "cudaEventRecord");
    poll(ready_, &waiting);  // what is still added up from it
    copies_ = window_.allocate(nccl_, bytes);
    return copies_;
  }

  /// What each rank keeps comes to every rank, of all stretches at once.
  void enqueue_share(std::span<const Stretch> stretches) {
    constexpr int kMost = 512;  // calls of a group
    int calls = 0;
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    for (const Stretch& stretch : stretches) {
      if (calls >= kMost) {
        settle(ncclGroupEnd(), "ncclGroupEnd");
        check_nccl(ncclGroupStart(), "ncclGroupStart");
        calls = 0;
      }
      calls += is_even(stretch) ? 1 : size();
      const Tensor kept = stretch.kept(rank());
      if (is_even(stretch)) {
        check_nccl(ncclAllGather(kept.data, stretch.x.data, count_of(kept), type_of(kept), nccl_, stream_), "ncclAllGather", nccl_);
        continue;
      }
      for (int root = 0; root < size(); ++root)
        if (const Tensor part = stretch.of(root); part.size() > 0)
          check_nccl(ncclBroadcast(root == rank() ? kept.data : part.data, part.data, count_of(part), type_of(part), root, nccl_, stream_),
                     "ncclBroadcast", nccl_);
    }
    settle(ncclGroupEnd(), "ncclGroupEnd");
  }

  /// What the rank keeps of x, f32, becomes the sum in rank order of its own elements and of what the others send it rounded to
  /// bf16. Returns room for all of x in bf16.
  Tensor sum_rounded(const Stretch& stretch) {
    const Tensor& x = stretch.x;
    const Tensor own = stretch.of(rank()), kept = stretch.kept(rank());
    const std::size_t whole = count_of(x) * size_of(DType::bf16), part = count_of(own) * size_of(DType::bf16);
    const std::size_t behind = (whole + kAligned - 1) / kAligned * kAligned;
    reserve_wire(behind + part * static_cast<std::size_t>(size()));
    const Tensor sent(wire_, DType::bf16, {x.size()});
    cuda::to_wire(stream_, sent.data, x.as<float>(), x.size());
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    const cuda::WireRows rows{.data = wire_ + behind, .dtype = DType::bf16, .pitch = own.size(), .ranks = size(), .mine = rank()};
    for (int other = 0; other < size(); ++other) {
      if (other == rank()) continue;
      if (const std::int64_t count = stretch.size_of(other); count > 0)
        check_nccl(ncclSend(at(sent, stretch.begin_of(other)), static_cast<std::size_t>(count), ncclBfloat16, other, nccl_, stream_), "ncclSend", nccl_);
      if (part > 0)
        check_nccl(ncclRecv(wire_ + behind + part * static_cast<std::size_t>(other), count_of(own), ncclBfloat16, other, nccl_, stream_), "ncclRecv", nccl_);
    }
    settle(ncclGroupEnd(), "ncclGroupEnd");
    cuda::add_in_rank_order(stream_, kept.as<float>(), own.as<float>(), rows, own.size());
    check_cuda(cudaGetLastError(), "reduce");
    return sent;
  }

  /// What the Ops enqueues from now on comes after this stream.
  void order() {
    check_cuda(cudaEventRecord(done_, stream_), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(ops_stream_, done_, 0), "cudaStreamWaitEvent");
  }

  cudaEvent_t& event_of(std::int64_t mark) { return marks_[static_cast<std::size_t>(mark) % marks_.size()]; }

  /// What follows on this stream comes after what the Ops has enqueued.
  void begin() {
    check_cuda(cudaEventRecord(ready_, ops_stream_), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(stream_, ready_, 0), "cudaStreamWaitEvent");
    started_ = true;
  }

  /// Of a call's end, or of what NCCL meets behind it.
  void settle(ncclResult_t status, const char* call) {
    if (status == ncclSuccess) return;
    try {
      check_nccl(status, call, nccl_);
    } catch (...) {
      give_up();
      throw;
    }
  }

  /// What NCCL has on the device: whatever else waits for the device would wait for it.
  void give_up() noexcept {
    failed_ = true;
    if (nccl_ != nullptr) ncclCommAbort(nccl_);
    nccl_ = nullptr;
  }

  void poll(cudaEvent_t event, const World::Waiting* waiting = nullptr) {
    constexpr int kChecked = 1024;  // polls between looks at NCCL's own state
    for (int polls = 1;; ++polls) {
      if (waiting != nullptr) waiting->look();
      const cudaError_t status = cudaEventQuery(event);
      if (status == cudaSuccess) return;
      if (status != cudaErrorNotReady) {
        give_up();
        check_cuda(status, "NCCL");
      }
      if (polls % kChecked == 0) {
        ncclResult_t status_behind = ncclSuccess;
        check_nccl(ncclCommGetAsyncError(nccl_, &status_behind), "ncclCommGetAsyncError", nccl_);
        settle(status_behind, "NCCL");
      }
      std::this_thread::yield();
    }
  }

  void reserve(std::size_t bytes) {
    if (bytes <= staging_) return;
    release_staging();
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&device_), bytes), "cudaMalloc");
    check_cuda(cudaMallocHost(reinterpret_cast<void**>(&host_), bytes), "cudaMallocHost");
    staging_ = bytes;
  }

  void reserve_wire(std::size_t bytes) {
    if (bytes <= wire_bytes_) return;
    check_cuda(cudaFree(wire_), "cudaFree");  // once nothing uses it
    wire_ = nullptr;
    wire_bytes_ = 0;
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&wire_), bytes), "cudaMalloc");
    wire_bytes_ = bytes;
  }

  void release_staging() noexcept {
    cudaFree(device_);
    cudaFreeHost(host_);
    device_ = nullptr;
    host_ = nullptr;
    staging_ = 0;
  }

  void release() noexcept {
    if (!failed_) window_.release(nccl_);
    if (nccl_ != nullptr && !failed_ && ncclCommFinalize(nccl_) == ncclSuccess) {
      ncclCommDestroy(nccl_);
      nccl_ = nullptr;
    }
    give_up();
    window_.release(nullptr);
    release_staging();
    cudaFree(wire_);
    wire_ = nullptr;
    if (exchanged_ != nullptr) cudaEventDestroy(exchanged_);
    exchanged_ = nullptr;
    if (ready_ != nullptr) cudaEventDestroy(ready_);
    if (done_ != nullptr) cudaEventDestroy(done_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    for (cudaEvent_t& mark : marks_) {
      if (mark != nullptr) cudaEventDestroy(mark);
      mark = nullptr;
    }
    ready_ = done_ = nullptr;
    stream_ = nullptr;
  }

  const World& world_;
  cudaStream_t ops_stream_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr, done_ = nullptr;
  std::array<cudaEvent_t, 128> marks_{};  // in turns
  std::int64_t next_mark_ = 0;
  ncclComm_t nccl_ = nullptr;
  std::byte* device_ = nullptr;  // for gather()
  std::byte* host_ = nullptr;    // pinned
  std::size_t staging_ = 0;
  std::byte* wire_ = nullptr;    // bf16 of sums under way, one after the other
  std::size_t wire_bytes_ = 0;
  bool copies_ = false;          // by copy engines, until it turns out that there are no windows
  Window window_;
  std::vector<Stretch> received_;  // exchanged and not added up; what comes of them is there behind exchanged_
  std::int64_t received_mark_ = 0, received_pitch_ = 0;  // marks from it on stand for the exchange, too
  DType received_wire_ = DType::f32;
  cudaEvent_t exchanged_ = nullptr;
  bool started_ = false;
  bool joined_ = false;  // since the last finish(): the Ops may wait for other ranks
  bool failed_ = false;
};

}  // namespace

void check_nccl(ncclResult_t status, const char* call, ncclComm_t communicator) {
  if (status == ncclSuccess) return;
  const char* detail = ncclGetLastError(communicator);
  throw std::runtime_error(std::string(call) + ": " + ncclGetErrorString(status) +
                           (detail != nullptr && *detail != '\0' ? std::string(": ") + detail : std::string()));
}

std::string nccl_description() {
  int version = 0;
  check_nccl(ncclGetVersion(&version), "ncclGetVersion");
  return "NCCL " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string make_nccl_id() {
  keep_multicast_off();
  ncclUniqueId id{};
  check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
  return std::string(reinterpret_cast<const char*>(&id), sizeof id);
}

std::unique_ptr<Communicator> make_nccl_communicator(const World& world, Ops& ops, const std::string& id, bool copy_engines) {
  return std::make_unique<NcclCommunicator>(world, dynamic_cast<CudaOps&>(ops), id, copy_engines);
}

}  // namespace sinkscope
