// The ranks of a run as processes: how they find one another, end together, and are watched.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/comm/launch.h"
#include "engine/comm/socket.h"
#include "engine/comm/watchdog.h"

namespace sinkscope {

class Ops;

/// Seconds after which a rank that is waited for ends the run.
struct RankLimits {
  double start = 900;  // until the first step is done, and where one rank saves, probes or samples for all
  double usual = 120;
};

/// One process's view of all. With several the ranks are connected by TCP to rank 0, which broadcasts what is needed
/// to begin and watches the others (Watchdog); tensors travel by MPI or NCCL.
class World {
 public:
  /// One process.
  World();
  /// Meets the other ranks. Throws std::runtime_error naming those that have not come by `limits.start`, and what the
  /// launch lacks.
  World(const Launch& launch, const RankLimits& limits);
  /// Where it goes out of scope by an exception of this rank's own, the others end.
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }
  bool leads() const { return rank_ == 0; }
  bool on_one_host() const;
  /// "rank 2 on node7".
  std::string name() const;

  /// Calls `action` on every rank. When it throws on one, or on several, all of them throw: the lowest of those the
  /// error, the others ToldElsewhere. Before connect() only.
  template <class Action>
  auto together(Action&& action) {
    using Result = decltype(action());
    std::optional<Result> result;
    std::exception_ptr error;
    try {
      result.emplace(action());
    } catch (const std::exception&) {
      error = std::current_exception();
    }
    agree(error);
    return std::move(*result);
  }

  /// The text of every rank, in rank order. Before connect() only.
  std::vector<std::string> exchange(const std::string& mine);

  /// Throws on all ranks, naming the lowest that has another `value` than rank 0, with what `difference` says of it.
  /// Before connect() only.
  using Difference = std::function<std::string(const std::string& of_rank_0, const std::string& other)>;
  void expect_equal(const std::string& what, const std::string& value, const Difference& difference = {});

  /// Communication between the ranks for what `ops` computes: MPI for the CPU, NCCL for a GPU, none for one process.
  /// From here on the ranks are watched. Throws std::runtime_error on all ranks when there is no way. `carried` as for
  /// make_nccl_communicator().
  std::unique_ptr<Communicator> connect(Ops& ops, const CarriedBytes& carried);

  /// What the last step was, for messages.
  void set_step(std::int64_t step);
  /// A part of a step is done: ranks of which none does any for the limit of the start end.
  void works() const {
    if (watchdog_) watchdog_->work();
  }
  /// Seconds that this rank waits for others from now on.
  void set_limit(double seconds);
  /// From here on this rank ends in order, with an error or without: the others do so too.
  void end_in_order() { in_order_ = true; }

  /// While one lives this rank waits for others.
  class Waiting {
   public:
    explicit Waiting(const World& world) : watchdog_(world.watchdog_.get()) {
      if (watchdog_ != nullptr) watchdog_->enter();
    }
    ~Waiting() {
      if (watchdog_ != nullptr) watchdog_->leave_wait();
    }
    /// Again and again while it does: a rank that stands still is told from one that waits.
    void look() const {
      if (watchdog_ != nullptr) watchdog_->look();
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    Watchdog* watchdog_;
  };

 private:
  void meet_at(const std::vector<std::string>& addresses, Listener* listener, int port, const std::string& token);
  void agree(const std::exception_ptr& error);
  Deadline start_deadline() const;

  int rank_ = 0, size_ = 1, local_rank_ = 0;
  bool mpi_ = false;
  RankLimits limits_;
  std::vector<RankPlace> places_;
  std::vector<Socket> sockets_;  // as the Watchdog's, which takes them
  std::unique_ptr<Watchdog> watchdog_;
  bool in_order_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace sinkscope
