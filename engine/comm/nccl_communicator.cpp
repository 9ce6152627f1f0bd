// NCCL for tensors of a GPU, on a stream of its own that events order with the one of the Ops. The host polls for the
// end of what it waits for and for NCCL's asynchronous errors. Calls that enqueue may wait for other ranks inside NCCL,
// the first ones for connections, and count as waiting. (A communicator that does not block starts a thread for every
// one of them.) NCCL's kernels take multiprocessors that products beside them then lack, so that what they sum costs a
// backward pass more than by itself. Between GPUs of one host copy engines carry what ranks send one another instead;
// what is packed for them, added up and unpacked are operations on the stream of the Ops, between its others.
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
#include "engine/comm/nccl_error.h"
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
  NcclCommunicator(const World& world, CudaOps& ops, const std::string& id, const CarriedBytes& carried)
      : world_(world), ops_stream_(ops.stream()) {
    keep_multicast_off();
    ncclUniqueId unique{};
    if (id.size() != sizeof unique)
      throw std::runtime_error("NCCL: rank 0 has sent an id of " + std::to_string(id.size()) + " bytes, expected " +
                               std::to_string(sizeof unique) + "; the ranks run different builds");
    std::memcpy(&unique, id.data(), sizeof unique);
    try {
      const World::Waiting waiting(world_);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      const bool prefers =
          carried.reduced > 0 && carried.shared > 0 && world_.on_one_host() && prefer_copy_engines(config);
      settle(ncclCommInitRankConfig(&nccl_, world_.size(), unique, world_.rank(), &config), "ncclCommInitRankConfig");
      copies_ =
          prefers && reduced_.window.allocate(nccl_, carried.reduced) && shared_.window.allocate(nccl_, carried.shared);
      // Blocks of sums go first where multiprocessors fall free, so that sums run beside a backward pass, not behind
      // it.
      int least = 0, greatest = 0;
      check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
      check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreate");
      check_cuda(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "cudaEventCreate");
      check_cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreate");
      for (cudaEvent_t* event : {&reduced_.there, &shared_.there})
        check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
      for (cudaEvent_t& mark : marks_)
        check_cuda(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "cudaEventCreate");
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
    return std::to_string(size()) + (size() == 1 ? " rank, " : " ranks, ") + nccl_description() +
           (copies_ ? " and copy engines" : "");
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
    const bool single = std::all_of(stretches.begin(), stretches.end(),
                                    [](const Stretch& stretch) { return stretch.x.dtype == DType::f32; });
    if (copies_ && single) return start_exchange(stretches, wire);
    begin();
    for (const Stretch& stretch : stretches) enqueue_reduce(stretch, wire);
  }

  std::int64_t mark() override {
    check_cuda(cudaEventRecord(event_of(next_mark_), stream_), "cudaEventRecord");
    return next_mark_++;
  }

  /// Of a mark whose event another has taken since, that one's: it comes later.
  void join(std::int64_t mark) override {
    add_up(mark);
    unpack(mark);
    check_cuda(cudaStreamWaitEvent(ops_stream_, event_of(mark), 0), "cudaStreamWaitEvent");
    joined_ = true;
  }

  void finish() override {
    add_up(next_mark_);
    unpack(next_mark_);
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

  bool shares_beside() const override { return copies_; }

  void start_share_beside(std::span<const Stretch> stretches) override {
    const auto is_alike = [&](const Stretch& stretch) {
      return stretch.x.dtype == stretches.front().x.dtype && size_of(stretch.x.dtype) <= sizeof(float);
    };
    if (!copies_ || !std::ranges::all_of(stretches, is_alike)) return start_share(stretches);
    for (const Stretch& stretch : stretches) check_stretch("share", stretch, rank(), size());
    const World::Waiting waiting(world_);
    start_spreading(stretches);
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
      settle(ncclReduceScatter(x.data, kept.data, count_of(kept), type_of(x), ncclSum, nccl_, stream_),
             "ncclReduceScatter");
    } else {
      check_nccl(ncclGroupStart(), "ncclGroupStart");
      for (int root = 0; root < size(); ++root)
        if (const Tensor part = stretch.of(root); part.size() > 0)
          check_nccl(ncclReduce(part.data, root == rank() ? kept.data : part.data, count_of(part), type_of(part),
                                ncclSum, root, nccl_, stream_),
                     "ncclReduce", nccl_);
      settle(ncclGroupEnd(), "ncclGroupEnd");
    }
  }

  /// What copy engines carry of some stretches, in rows for each rank or from each.
  struct Carried {
    Window window;
    std::vector<Stretch> stretches;  // on their way or there, and not taken out of the window
    DType dtype = DType::f32;
    std::int64_t pitch = 0;          // of a row: parts of all stretches, one after the other
    std::int64_t mark = 0;           // this one and those behind it stand for them
    cudaEvent_t there = nullptr;

    /// Calls work with each stretch and its place in the rows, of which `begin` is the first.
    template <class Work>
    void for_each(std::byte* begin, const Work& work) const {
      for (const Stretch& stretch : stretches) {
        work(stretch, begin);
        begin += static_cast<std::size_t>(line_elements(stretch.part)) * size_of(dtype);
      }
    }
    std::size_t row_bytes() const { return static_cast<std::size_t>(pitch) * size_of(dtype); }
  };

  /// The ranks' parts of all stretches change places, after they have been packed on the Ops' stream.
  void start_exchange(std::span<const Stretch> stretches, DType wire) {
    add_up(next_mark_);
    prepare(reduced_, stretches, wire, 2);
    if (reduced_.pitch == 0) return;
    const std::size_t half = reduced_.row_bytes() * static_cast<std::size_t>(size());
    std::byte* sent = reduced_.window.data();
    reduced_.for_each(sent, [&](const Stretch& stretch, std::byte* rows) {
      cuda::pack_parts(ops_stream_, rows_of(reduced_, rows), stretch.x.as<float>(), stretch.x.size(), stretch.part);
    });
    check_cuda(cudaGetLastError(), "reduce");
    begin();
    settle(all_to_all(sent, sent + half, reduced_.row_bytes(), nccl_, stream_), "ncclAlltoAll");
    set_out(reduced_);
  }

  /// Every rank's row comes to all of them.
  void start_spreading(std::span<const Stretch> stretches) {
    unpack(next_mark_);
    prepare(shared_, stretches, stretches.empty() ? DType::f32 : stretches.front().x.dtype, 1);
    if (shared_.pitch == 0) return;
    std::byte* own = shared_.window.data() + shared_.row_bytes() * static_cast<std::size_t>(rank());
    shared_.for_each(own, [&](const Stretch& stretch, std::byte* row) {
      if (const Tensor kept = stretch.kept(rank()); kept.size() > 0)
        check_cuda(cudaMemcpyAsync(row, kept.data, kept.bytes(), cudaMemcpyDeviceToDevice, ops_stream_), "share");
    });
    begin();
    settle(ncclAllGather(own, shared_.window.data(), shared_.row_bytes(), ncclUint8, nccl_, stream_), "ncclAllGather");
    set_out(shared_);
  }

  void prepare(Carried& carried, std::span<const Stretch> stretches, DType dtype, std::size_t copies) {
    carried.dtype = dtype;
    carried.pitch = 0;
    for (const Stretch& stretch : stretches) carried.pitch += line_elements(stretch.part);
    const std::size_t bytes = copies * carried.row_bytes() * static_cast<std::size_t>(size());
    if (bytes > carried.window.bytes())
      throw std::logic_error("NCCL: copy engines are to carry " + std::to_string(bytes) +
                             " bytes at a time, expected at most " + std::to_string(carried.window.bytes()));
    if (carried.pitch > 0) carried.stretches.assign(stretches.begin(), stretches.end());
  }

  void set_out(Carried& carried) {
    check_cuda(cudaEventRecord(carried.there, stream_), "cudaEventRecord");
    carried.mark = next_mark_;
  }

  /// Calls work, which enqueues on the Ops' stream what takes the stretches out of the window, with each of them and
  /// its place in the rows from `begin` on, if the mark stands for them.
  template <class Work>
  void take(Carried& carried, std::int64_t mark, std::byte* begin, const Work& work) {
    if (carried.stretches.empty() || mark < carried.mark) return;
    check_cuda(cudaStreamWaitEvent(ops_stream_, carried.there, 0), "cudaStreamWaitEvent");
    joined_ = true;
    carried.for_each(begin, work);
    check_cuda(cudaGetLastError(), "NCCL");
    carried.stretches.clear();
  }

  void add_up(std::int64_t mark) {
    std::byte* received = reduced_.window.data() + reduced_.row_bytes() * static_cast<std::size_t>(size());
    take(reduced_, mark, received, [&](const Stretch& stretch, std::byte* rows) {
      const Tensor own = stretch.of(rank());
      cuda::add_in_rank_order(ops_stream_, stretch.kept(rank()).as<float>(), own.as<float>(), rows_of(reduced_, rows),
                              own.size());
    });
  }

  void unpack(std::int64_t mark) {
    take(shared_, mark, shared_.window.data(), [&](const Stretch& stretch, std::byte* rows) {
      cuda::unpack_parts(ops_stream_, stretch.x.data, stretch.x.size(), stretch.part, rows_of(shared_, rows));
    });
  }

  cuda::WireRows rows_of(const Carried& carried, std::byte* rows) const {
    return {.data = rows, .dtype = carried.dtype, .pitch = carried.pitch, .ranks = size(), .mine = rank()};
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
        check_nccl(ncclAllGather(kept.data, stretch.x.data, count_of(kept), type_of(kept), nccl_, stream_),
                   "ncclAllGather", nccl_);
        continue;
      }
      for (int root = 0; root < size(); ++root)
        if (const Tensor part = stretch.of(root); part.size() > 0)
          check_nccl(ncclBroadcast(root == rank() ? kept.data : part.data, part.data, count_of(part), type_of(part),
                                   root, nccl_, stream_),
                     "ncclBroadcast", nccl_);
    }
    settle(ncclGroupEnd(), "ncclGroupEnd");
  }

  /// What the rank keeps of x, f32, becomes the sum in rank order of its own elements and of what the others send it
  /// rounded to bf16. Returns room for all of x in bf16.
  Tensor sum_rounded(const Stretch& stretch) {
    const Tensor& x = stretch.x;
    const Tensor own = stretch.of(rank()), kept = stretch.kept(rank());
    const std::size_t whole = count_of(x) * size_of(DType::bf16), part = count_of(own) * size_of(DType::bf16);
    const std::size_t behind = (whole + kAligned - 1) / kAligned * kAligned;
    reserve_wire(behind + part * static_cast<std::size_t>(size()));
    const Tensor sent(wire_, DType::bf16, {x.size()});
    cuda::to_wire(stream_, sent.data, x.as<float>(), x.size());
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    const cuda::WireRows rows{
        .data = wire_ + behind, .dtype = DType::bf16, .pitch = own.size(), .ranks = size(), .mine = rank()};
    for (int other = 0; other < size(); ++other) {
      if (other == rank()) continue;
      if (const std::int64_t count = stretch.size_of(other); count > 0)
        check_nccl(ncclSend(at(sent, stretch.begin_of(other)), static_cast<std::size_t>(count), ncclBfloat16, other,
                            nccl_, stream_),
                   "ncclSend", nccl_);
      if (part > 0)
        check_nccl(ncclRecv(wire_ + behind + part * static_cast<std::size_t>(other), count_of(own), ncclBfloat16, other,
                            nccl_, stream_),
                   "ncclRecv", nccl_);
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

  /// What NCCL's kernels have on the device: whatever else waits for the device would wait for them. (Where copy
  /// engines wait for a rank that does not come, the World ends this one.)
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
    for (Carried* carried : {&reduced_, &shared_}) {
      if (!failed_) carried->window.release(nccl_);
      if (carried->there != nullptr) cudaEventDestroy(carried->there);
      carried->there = nullptr;
    }
    if (nccl_ != nullptr && !failed_ && ncclCommFinalize(nccl_) == ncclSuccess) {
      ncclCommDestroy(nccl_);
      nccl_ = nullptr;
    }
    give_up();
    release_staging();
    cudaFree(wire_);
    wire_ = nullptr;
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
  bool copies_ = false;  // by copy engines
  Carried reduced_, shared_;
  bool started_ = false;
  bool joined_ = false;  // since the last finish(): the Ops may wait for other ranks
  bool failed_ = false;
};

}  // namespace

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

std::unique_ptr<Communicator> make_nccl_communicator(const World& world, Ops& ops, const std::string& id,
                                                     const CarriedBytes& carried) {
  return std::make_unique<NcclCommunicator>(world, dynamic_cast<CudaOps&>(ops), id, carried);
}

}  // namespace sinkscope
