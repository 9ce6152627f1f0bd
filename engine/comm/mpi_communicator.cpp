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
#include <type_traits>
#include <vector>

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

void wait(MPI_Request& request, const char* call, const World::Waiting& waiting) {
  constexpr int kSpins = 200;
  for (int polls = 0;; ++polls) {
    waiting.look();
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

  void start_all_reduce(const Tensor& x, DType wire) override {
    check_summable("all_reduce", x, wire);
    for (std::int64_t begin = 0; begin < x.size(); begin += kPart) {
      const Tensor part = x.rows(begin, std::min(kPart, x.size() - begin));
      if (x.dtype == DType::f64)
        all_reduce_part<double, double>(part, MPI_DOUBLE);
      else if (wire == DType::bf16)
        all_reduce_part<float, std::uint16_t>(part, MPI_UINT16_T);
      else
        all_reduce_part<float, float>(part, MPI_FLOAT);
    }
  }

  void start_reduce(std::span<const Stretch> stretches, DType wire) override {
    for (const Stretch& stretch : stretches) {
      check_summable("reduce", stretch.x, wire);
      check_stretch("reduce", stretch, rank(), size());
    }
    for (const Stretch& stretch : stretches) {
      if (stretch.x.dtype == DType::f64)
        exchange_and_sum<double, double>(stretch, MPI_DOUBLE);
      else if (wire == DType::bf16)
        exchange_and_sum<float, std::uint16_t>(stretch, MPI_UINT16_T);
      else
        exchange_and_sum<float, float>(stretch, MPI_FLOAT);
    }
  }
  std::int64_t mark() override { return 0; }
  void join(std::int64_t) override {}
  void finish() override {}

  void start_share(std::span<const Stretch> stretches) override {
    for (const Stretch& stretch : stretches) {
      check_stretch("share", stretch, rank(), size());
      const Tensor place = stretch.of(rank()), kept = stretch.kept(rank());
      if (kept.data != place.data)
        std::copy_n(static_cast<const std::byte*>(kept.data), kept.bytes(), static_cast<std::byte*>(place.data));
      for (int root = 0; root < size(); ++root) broadcast(stretch.of(root), root);
    }
  }

  void broadcast(const Tensor& x, int root) override {
    const World::Waiting waiting(world_);
    auto* bytes = static_cast<std::byte*>(x.data);
    for (std::size_t begin = 0; begin < x.bytes(); begin += kBytes) {
      MPI_Request request = MPI_REQUEST_NULL;
      const std::size_t count = std::min(kBytes, x.bytes() - begin);
      check_mpi(MPI_Ibcast(bytes + begin, static_cast<int>(count), MPI_BYTE, root, MPI_COMM_WORLD, &request),
                "MPI_Ibcast");
      wait(request, "MPI_Ibcast", waiting);
    }
  }

  std::vector<std::byte> gather(std::span<const std::byte> mine) override {
    const World::Waiting waiting(world_);
    std::vector<std::byte> all(mine.size() * ranks());
    MPI_Request request = MPI_REQUEST_NULL;
    const int count = narrow(std::ssize(mine));
    check_mpi(MPI_Iallgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD, &request),
              "MPI_Iallgather");
    wait(request, "MPI_Iallgather", waiting);
    return all;
  }

 private:
  static constexpr std::int64_t kPart = std::int64_t{4} << 20;  // elements of a call
  static constexpr std::size_t kBytes = std::size_t{16} << 20;

  std::size_t ranks() const { return static_cast<std::size_t>(size()); }

  static int narrow(std::int64_t value) {
    if (value > INT_MAX)
      throw std::runtime_error("MPI: " + std::to_string(value) + " elements are too many for one call");
    return static_cast<int>(value);
  }

  /// An element as it travels, in bf16 or as it is, and back.
  template <class Wire, class Number>
  static Wire packed(Number x) {
    if constexpr (std::is_same_v<Wire, std::uint16_t>)
      return to_bf16(x);
    else
      return x;
  }
  static float unpacked(std::uint16_t x) { return from_bf16(x); }
  static float unpacked(float x) { return x; }
  static double unpacked(double x) { return x; }

  /// Elements of each rank's part of a stretch, and where they begin.
  struct Places {
    std::vector<int> counts, places;
  };
  Places places_of(const Stretch& stretch) const {
    Places all;
    for (int rank = 0; rank < size(); ++rank) {
      all.counts.push_back(narrow(stretch.size_of(rank)));
      all.places.push_back(narrow(stretch.begin_of(rank)));
    }
    return all;
  }

  template <class Number, class Wire>
  void all_reduce_part(const Tensor& x, MPI_Datatype type) {
    const Stretch stretch{.x = x, .part = (x.size() + size() - 1) / size()};
    exchange_and_sum<Number, Wire>(stretch, type);
    std::vector<Wire> all(static_cast<std::size_t>(x.size()));
    const auto* sums = x.as<Number>();
    const std::int64_t begin = stretch.begin_of(rank()), end = begin + stretch.size_of(rank());
    for (std::int64_t i = begin; i < end; ++i) all[static_cast<std::size_t>(i)] = packed<Wire>(sums[i]);
    const auto [counts, places] = places_of(stretch);
    {
      const World::Waiting waiting(world_);
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, type, all.data(), counts.data(), places.data(), type, MPI_COMM_WORLD,
                                &request),
                "MPI_Iallgatherv");
      wait(request, "MPI_Iallgatherv", waiting);
    }
    std::transform(all.begin(), all.end(), x.as<Number>(), [](Wire value) { return unpacked(value); });
  }

  /// Each rank gets every other rank's addends of its own part, and sums all in rank order, its own ones as they are.
  template <class Number, class Wire>
  void exchange_and_sum(const Stretch& stretch, MPI_Datatype type) {
    const auto [counts, places] = places_of(stretch);
    const auto mine = static_cast<std::size_t>(rank());
    const int count = counts[mine];
    const std::vector<int> receive_counts(ranks(), count);
    std::vector<int> receive_places(ranks());
    for (std::size_t rank = 0; rank < ranks(); ++rank)
      receive_places[rank] = narrow(static_cast<std::int64_t>(rank) * count);
    std::vector<Wire> sent(static_cast<std::size_t>(stretch.x.size())),
        received(ranks() * static_cast<std::size_t>(count));
    const auto* own = stretch.x.as<Number>();
    std::transform(own, own + stretch.x.size(), sent.begin(), packed<Wire, Number>);
    own += places[mine];
    auto* sums = stretch.kept(rank()).as<Number>();
    {
      const World::Waiting waiting(world_);
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Ialltoallv(sent.data(), counts.data(), places.data(), type, received.data(), receive_counts.data(),
                               receive_places.data(), type, MPI_COMM_WORLD, &request),
                "MPI_Ialltoallv");
      wait(request, "MPI_Ialltoallv", waiting);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const auto addend = [&](std::size_t rank) {
        return rank == mine ? own[i]
                            : unpacked(received[rank * static_cast<std::size_t>(count) + static_cast<std::size_t>(i)]);
      };
      Number sum = addend(0);
      for (std::size_t rank = 1; rank < ranks(); ++rank) sum += addend(rank);
      sums[i] = sum;
    }
  }

  const World& world_;
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
  const Alarm alarm(seconds, "MPI's start (ranks.start_timeout)");
  int given = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given), "MPI_Init_thread");
  if (given < MPI_THREAD_FUNNELED)
    throw std::runtime_error("MPI_Init_thread: this MPI knows no threads beside its own");
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

std::unique_ptr<Communicator> make_mpi_communicator(const World& world) {
  return std::make_unique<MpiCommunicator>(world);
}

}  // namespace sinkscope
