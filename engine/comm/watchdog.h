// Watches over the ranks of a run from a thread in each: one that is gone, silent, or keeps the others waiting ends
// them all.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/socket.h"

namespace sinkscope {

/// A rank, for messages.
struct RankPlace {
  std::string host;
  std::int64_t process = 0;
};

/// Every rank tells rank 0 several times a second how far it is, and rank 0 tells every rank. When a rank's connection
/// closes without a farewell, when nothing is heard from it for `usual` seconds, or when another has waited for it
/// longer than the limit that set_limit() gave there, or when none waits and none works for `start` seconds, each rank
/// is told, and its process ends at once with status 1, whatever its main thread does. One of them says why on stderr:
/// rank 0, or rank 1 when it is about rank 0. Rank 0 is watched by each of the others in the same way.
class Watchdog {
 public:
  struct Options {
    int rank = 0;
    std::vector<RankPlace> places;  // of all ranks
    double usual = 0;               // seconds
    double start = 0;               // seconds, the limit until set_limit()
  };
  /// `sockets`: on rank 0 one to each other rank, in their order from 1 on; elsewhere the one to rank 0.
  Watchdog(Options options, std::vector<Socket> sockets);
  /// Without leave() or fail() before it the other ranks take this one for gone.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Of the main thread.
  void set_step(std::int64_t step) { step_ = step; }
  void set_limit(double seconds) { limit_ = seconds; }
  /// Before and after waiting for other ranks.
  void enter();
  void leave_wait() { waiting_since_ = 0; }
  /// Meanwhile, again and again.
  void look() { ++looks_; }
  /// Some work is done: a pass, a batch.
  void work() { ++works_; }

  /// This rank needs the others no more: they go on without it.
  void leave();
  /// This rank ends with an error that it tells itself: the others end at once and quietly.
  void fail();

 private:
  using Clock = std::chrono::steady_clock;
  struct Beat {  // as it travels, in the bytes of the machine
    std::int64_t step = 0;
    std::int64_t calls = 0;  // waits begun
    double waiting = -1;     // seconds so far; negative: does not wait
    double limit = 0;        // seconds
    std::int64_t looks = 0;  // of waits, for their end
    std::int64_t works = 0;
  };
  struct Peer {
    int rank = 0;
    Socket socket;
    Beat beat;
    Clock::time_point heard;
    Clock::time_point looked;  // when `looks` was seen to change
    bool left = false;
  };

  void run(const std::stop_token& stop);
  Beat beat() const;
  void listen(Peer& peer);
  void judge();
  void judge_waits();
  void judge_progress(std::int64_t progress, Clock::time_point now);
  std::string about(int rank, std::int64_t step) const;
  void send_all(const Socket::Message& message) noexcept;
  [[noreturn]] void end(int culprit, const std::string& reason);
  [[noreturn]] void end_told(const std::string& message, int teller) const;
  [[noreturn]] void end_quietly() const;
  void stop_thread();

  Options options_;
  std::vector<Peer> peers_;
  bool was_stopped_ = false;  // this process, before the thread went on
  /// Nanoseconds of Clock; 0: does not wait.
  std::atomic<std::int64_t> step_ = 0, calls_ = 0, looks_ = 0, works_ = 0, waiting_since_ = 0;
  std::int64_t seen_looks_ = 0;   // of this rank
  Clock::time_point looked_ = Clock::now();
  std::int64_t progress_ = 0;     // of all ranks, on rank 0
  Clock::time_point progressed_ = Clock::now();
  std::atomic<double> limit_ = 0;
  std::jthread thread_;
};

}  // namespace sinkscope
