// MPI for tensors on the host. Every call is a nonblocking one that is polled, so that ranks which share cores leave
// them to those that compute. Sums are formed in rank order by the one rank that owns a part.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "engine/comm/backends.h"
#include "engine/comm/world.h"

namespace sinkscope {
namespace {

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw std::runtime_error(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(length)));
}

void wait(MPI_Request& request, const char* call) {
  constexpr int kSpins = 200;
  for (int polls = 0;; ++polls) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), call);
    if (done != 0) return;
    if (polls < kSpins)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

/// Ends the process when it lives for longer than so many seconds.
class Alarm {
 public:
  Alarm(double seconds, const char* what)
      : thread_([this, seconds, what](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          done_.wait_for(lock, stop, std::chrono::duration<double>(seconds), [] { return false; });
          if (stop.stop_requested()) return;
          std::fprintf(stderr, "\nsinkscope: error: %s has not come to an end within %.3g s\n", what, seconds);
          _exit(1);
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any done_;
  std::jthread thread_;
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const World& world) : world_(world) {}

  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  std::string description() const override { return std::to_string(size()) + " ranks, " + mpi_description(); }

  void start_all_reduce(const Tensor& x) override {
    check_summable("all_reduce", x);
    for (std::int64_t begin = 0; begin < x.size(); begin += kPart)
      all_reduce_part(x.as<float>() + begin, std::min(kPart, x.size() - begin));
  }
  void finish() override {}

  void share_parts(const Tensor& x, std::int64_t part) override {
    check_share("share_parts", x, part, size());
    for (int root = 0; root < size(); ++root) broadcast(part_of(x, part, root), root);
  }

  void broadcast(const Tensor& x, int root) override {
    const World::Waiting waiting(world_);
    auto* bytes = static_cast<std::byte*>(x.data);
    for (std::size_t begin = 0; begin < x.bytes(); begin += kBytes) {
      MPI_Request request = MPI_REQUEST_NULL;
      const std::size_t count = std::min(kBytes, x.bytes() - begin);
      check_mpi(MPI_Ibcast(bytes + begin, static_cast<int>(count), MPI_BYTE, root, MPI_COMM_WORLD, &request), "MPI_Ibcast");
      wait(request, "MPI_Ibcast");
    }
  }

  void all_gather(const Tensor& all, const Tensor& part) override {
    check_summable("all_gather", all);
    check_parts("all_gather", all, part, size());
    for (std::int64_t begin = 0; begin < part.size(); begin += kPart)
      gather_part(all.as<float>(), part.as<float>(), part.size(), begin, std::min(kPart, part.size() - begin));
  }

  void reduce_scatter(const Tensor& part, const Tensor& all) override {
    check_summable("reduce_scatter", all);
    check_parts("reduce_scatter", all, part, size());
    const std::int64_t most = std::max<std::int64_t>(1, kPart / size());
    for (std::int64_t begin = 0; begin < part.size(); begin += most) {
      const std::int64_t count = std::min(most, part.size() - begin);
      std::vector<int> counts(ranks(), static_cast<int>(count)), places(ranks());
      for (std::size_t rank = 0; rank < ranks(); ++rank)
        places[rank] = narrow(static_cast<std::int64_t>(rank) * part.size());
      exchange_and_sum(all.as<float>() + begin, counts, places, part.as<float>() + begin, count);
    }
  }

  std::vector<std::byte> gather(std::span<const std::byte> mine) override {
    const World::Waiting waiting(world_);
    std::vector<std::byte> all(mine.size() * ranks());
    MPI_Request request = MPI_REQUEST_NULL;
    const int count = narrow(std::ssize(mine));
    check_mpi(MPI_Iallgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD, &request),
              "MPI_Iallgather");
    wait(request, "MPI_Iallgather");
    return all;
  }

 private:
  static constexpr std::int64_t kPart = std::int64_t{4} << 20;  // elements of a call
  static constexpr std::size_t kBytes = std::size_t{16} << 20;

  std::size_t ranks() const { return static_cast<std::size_t>(size()); }

  static int narrow(std::int64_t value) {
    if (value > INT_MAX) throw std::runtime_error("MPI: " + std::to_string(value) + " elements are too many for one call");
    return static_cast<int>(value);
  }

  void all_reduce_part(float* x, std::int64_t count) {
    const std::int64_t most = (count + size() - 1) / size();
    std::vector<int> counts(ranks()), places(ranks());
    for (std::size_t rank = 0; rank < ranks(); ++rank) {
      const std::int64_t begin = std::min(count, static_cast<std::int64_t>(rank) * most);
      places[rank] = narrow(begin);
      counts[rank] = narrow(std::min(most, count - begin));
    }
    const auto mine = static_cast<std::size_t>(rank());
    exchange_and_sum(x, counts, places, x + places[mine], counts[mine]);
    const World::Waiting waiting(world_);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_FLOAT, x, counts.data(), places.data(), MPI_FLOAT, MPI_COMM_WORLD, &request),
              "MPI_Iallgatherv");
    wait(request, "MPI_Iallgatherv");
  }

  /// Each rank gets its place of every rank's `x`, `count` elements, and sums them in rank order into `sum`.
  void exchange_and_sum(const float* x, const std::vector<int>& counts, const std::vector<int>& places, float* sum,
                        std::int64_t count) {
    const std::vector<int> receive_counts(ranks(), narrow(count));
    std::vector<int> receive_places(ranks());
    for (std::size_t rank = 0; rank < ranks(); ++rank) receive_places[rank] = narrow(static_cast<std::int64_t>(rank) * count);
    received_.resize(ranks() * static_cast<std::size_t>(count));
    {
      const World::Waiting waiting(world_);
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Ialltoallv(x, counts.data(), places.data(), MPI_FLOAT, received_.data(), receive_counts.data(),
                               receive_places.data(), MPI_FLOAT, MPI_COMM_WORLD, &request),
                "MPI_Ialltoallv");
      wait(request, "MPI_Ialltoallv");
    }
    std::copy_n(received_.data(), count, sum);
    for (std::size_t rank = 1; rank < ranks(); ++rank) {
      const float* other = received_.data() + rank * static_cast<std::size_t>(count);
      for (std::int64_t i = 0; i < count; ++i) sum[i] += other[i];
    }
  }

  void gather_part(float* all, const float* part, std::int64_t stride, std::int64_t begin, std::int64_t count) {
    const World::Waiting waiting(world_);
    std::vector<int> counts(ranks(), narrow(count)), places(ranks());
    for (std::size_t rank = 0; rank < ranks(); ++rank) places[rank] = narrow(static_cast<std::int64_t>(rank) * stride + begin);
    MPI_Request request = MPI_REQUEST_NULL;
    const bool in_place = part == all + rank() * stride;
    check_mpi(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : part + begin, narrow(count), MPI_FLOAT, all, counts.data(),
                              places.data(), MPI_FLOAT, MPI_COMM_WORLD, &request),
              "MPI_Iallgatherv");
    wait(request, "MPI_Iallgatherv");
  }

  const World& world_;
  std::vector<float> received_;
};

}  // namespace

std::string mpi_description() {
#ifdef OMPI_MAJOR_VERSION
  return "Open MPI " + std::to_string(OMPI_MAJOR_VERSION) + "." + std::to_string(OMPI_MINOR_VERSION) + "." +
         std::to_string(OMPI_RELEASE_VERSION);
#else
  return "MPI " + std::to_string(MPI_VERSION) + "." + std::to_string(MPI_SUBVERSION);
#endif
}

MpiPlace start_mpi(double seconds) {
  const Alarm alarm(seconds, "MPI's start");
  int given = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given), "MPI_Init_thread");
  if (given < MPI_THREAD_FUNNELED) throw std::runtime_error("MPI_Init_thread: this MPI knows no threads beside its own");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  MpiPlace place;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &place.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &place.size), "MPI_Comm_size");
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, place.rank, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(host, &place.local_rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  return place;
}

void finish_mpi() { check_mpi(MPI_Finalize(), "MPI_Finalize"); }

std::string mpi_text_of_leader(const std::string& mine) {
  int size = static_cast<int>(mine.size());
  check_mpi(MPI_Bcast(&size, 1, MPI_INT, 0, MPI_COMM_WORLD), "MPI_Bcast");
  std::string text = mine;
  text.resize(static_cast<std::size_t>(size));
  check_mpi(MPI_Bcast(text.data(), size, MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
  return text;
}

std::unique_ptr<Communicator> make_mpi_communicator(const World& world) { return std::make_unique<MpiCommunicator>(world); }

}  // namespace sinkscope
