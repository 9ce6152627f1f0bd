#include "engine/comm/watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

namespace sinkscope {
namespace {

// Kinds of messages.
constexpr char kBeat = 'b', kFarewell = 'l', kFailed = 'f', kVerdict = 'v';

constexpr std::chrono::milliseconds kInterval{250};
constexpr double kPatience = 5;  // seconds, where another says more

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", seconds);
  return text;
}

double seconds_between(std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

Watchdog::Watchdog(Options options, std::vector<Socket> sockets)
    : options_(std::move(options)), limit_(options_.start) {
  int rank = options_.rank == 0 ? 1 : 0;
  for (Socket& socket : sockets)
    peers_.push_back({.rank = rank++, .socket = std::move(socket), .beat = {}, .heard = Clock::now(),
                      .looked = Clock::now(), .left = false});
  // Signals are for the main thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() { stop_thread(); }

void Watchdog::stop_thread() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
}

void Watchdog::enter() {
  ++calls_;
  waiting_since_ = Clock::now().time_since_epoch().count();
}

void Watchdog::leave() {
  stop_thread();
  send_all({kFarewell, {}});
  // Connections that close with something unread take back what was sent last.
  const auto deadline = Clock::now() + std::chrono::seconds(2);
  for (Peer& peer : peers_) {
    Socket::Message message;
    while (!peer.left && peer.socket.receive(message, deadline) == Socket::Received::message)
      peer.left = message.kind == kFarewell;
  }
}

void Watchdog::fail() {
  stop_thread();
  send_all({kFailed, {}});
}

Watchdog::Beat Watchdog::beat() const {
  const std::int64_t since = waiting_since_;
  const double waiting =
      since == 0 ? -1.0 : seconds_between(Clock::time_point(Clock::duration(since)), Clock::now());
  return {.step = step_, .calls = calls_, .waiting = waiting, .limit = limit_, .looks = looks_, .works = works_};
}

void Watchdog::send_all(const Socket::Message& message) noexcept {
  for (Peer& peer : peers_)
    if (!peer.left) peer.socket.send(message, Clock::now() + std::chrono::milliseconds(100));
}

void Watchdog::run(const std::stop_token& stop) {
  auto last = Clock::now();
  auto next_beat = last;
  std::int64_t told_step = 0;
  while (!stop.stop_requested()) {
    const auto now = Clock::now();
    // Whoever was stopped himself has not listened: it is not the others that were silent, and when they have gone
    // meanwhile they have told why.
    was_stopped_ = now - last > 8 * kInterval;
    last = now;
    if (was_stopped_)
      for (Peer& peer : peers_) peer.heard = now;
    if (const Beat mine = beat(); now >= next_beat || mine.step != told_step) {
      next_beat = now + kInterval;
      told_step = mine.step;
      send_all({kBeat, std::string(reinterpret_cast<const char*>(&mine), sizeof mine)});
    }
    for (Peer& peer : peers_) listen(peer);
    judge();
    std::this_thread::sleep_for(kInterval / 5);
  }
}

void Watchdog::listen(Peer& peer) {
  Socket::Message message;
  while (!peer.left) {
    const Socket::Received received = peer.socket.receive(message, Clock::now());
    if (received == Socket::Received::late) return;
    if (received == Socket::Received::gone) end(peer.rank, "is gone");
    peer.heard = Clock::now();
    if (message.kind == kBeat && message.text.size() == sizeof peer.beat) {
      const std::int64_t looks = peer.beat.looks;
      std::memcpy(&peer.beat, message.text.data(), sizeof peer.beat);
      if (peer.beat.looks != looks) peer.looked = peer.heard;
    }
    if (message.kind == kFarewell) peer.left = true;
    if (message.kind == kFailed) {
      if (options_.rank == 0) send_all(message);
      end_quietly();
    }
    if (message.kind == kVerdict) end_told(message.text.substr(1), message.text[0] == '0' ? 0 : 1);
  }
}

void Watchdog::judge() {
  for (const Peer& peer : peers_)
    if (const double silent = seconds_between(peer.heard, Clock::now()); !peer.left && silent > options_.usual)
      end(peer.rank, "has not been heard from for " + seconds_text(silent) + " s");
  if (options_.rank == 0) judge_waits();
  // Rank 0 should have said more by now.
  if (const Beat mine = beat(); mine.waiting > mine.limit + kPatience)
    end_told(about(options_.rank, mine.step) + " has waited for the others for " + seconds_text(mine.waiting) + " s",
             options_.rank);
}

/// One that waits too long is in a call that another has not come to, or stands still in, or that does not end though
/// all wait for it. Ranks that are behind may themselves wait for the one that stands still.
void Watchdog::judge_waits() {
  struct Rank {
    int rank;
    Beat beat;
    bool still;
  };
  const auto now = Clock::now();
  const auto stands_still = [now](Clock::time_point looked) { return now - looked > 4 * kInterval; };
  const Beat mine = beat();
  if (std::exchange(seen_looks_, mine.looks) != mine.looks) looked_ = now;
  std::vector<Rank> ranks = {{0, mine, stands_still(looked_)}};
  for (const Peer& peer : peers_)
    if (!peer.left) ranks.push_back({peer.rank, peer.beat, stands_still(peer.looked)});
  // Those that are furthest behind first; of them those that do not wait, since some calls wait without a look.
  std::stable_sort(ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) {
    return a.beat.calls != b.beat.calls ? a.beat.calls < b.beat.calls : (a.beat.waiting < 0) > (b.beat.waiting < 0);
  });
  if (const auto waits = std::find_if(ranks.begin(), ranks.end(),
                                      [](const Rank& rank) { return rank.beat.waiting > rank.beat.limit; });
      waits != ranks.end()) {
    const std::string limit = "for more than " + seconds_text(waits->beat.limit) + " s";
    const auto still = std::find_if(ranks.begin(), ranks.end(), [](const Rank& rank) { return rank.still; });
    const bool all_still = std::all_of(ranks.begin(), ranks.end(), [](const Rank& rank) { return rank.still; });
    if (still != ranks.end() && !all_still) end(still->rank, "keeps the others waiting " + limit);
    if (ranks.front().beat.calls < ranks.back().beat.calls)
      end(ranks.front().rank, "keeps the others waiting " + limit);
    end(waits->rank, "waits " + limit + " in a call that every rank has come to");
  }
  std::int64_t progress = 0;
  for (const Rank& rank : ranks) progress += rank.beat.calls + rank.beat.looks + rank.beat.works + rank.beat.step;
  judge_progress(progress, now);
}

/// Where each rank stands in a call of the device, which nobody sees.
void Watchdog::judge_progress(std::int64_t progress, Clock::time_point now) {
  if (std::exchange(progress_, progress) != progress || was_stopped_) progressed_ = now;
  if (seconds_between(progressed_, now) <= options_.start + kPatience) return;
  const std::string message =
      "no rank has gone on for more than " + seconds_text(options_.start) + " s (ranks.start_timeout; " +
      (step_ > 0 ? "the last step was " + std::to_string(step_) : "before the first step") + ")";
  send_all({kVerdict, "0" + message});
  end_told(message, 0);
}

std::string Watchdog::about(int rank, std::int64_t step) const {
  const RankPlace& place = options_.places[static_cast<std::size_t>(rank)];
  return "rank " + std::to_string(rank) + " on " + place.host + " (process " + std::to_string(place.process) +
         (step > 0 ? ", its last step was " + std::to_string(step) : ", before its first step") + ")";
}

void Watchdog::end(int culprit, const std::string& reason) {
  if (was_stopped_) end_quietly();
  std::int64_t step = step_;
  for (const Peer& peer : peers_)  // which has been in every step with this rank
    if (peer.rank == culprit) step = std::max(peer.beat.step, step_ - 1);
  const std::string message = about(culprit, step) + " " + reason;
  const int teller = culprit == 0 ? 1 : 0;
  if (options_.rank == 0) send_all({kVerdict, std::to_string(teller) + message});
  end_told(message, teller);
}

void Watchdog::end_told(const std::string& message, int teller) const {
  if (teller != options_.rank) end_quietly();
  std::fprintf(stderr, "\nsinkscope: error: %s; all ranks end, and --resume goes on from the last checkpoint\n",
               message.c_str());
  _exit(1);
}

void Watchdog::end_quietly() const {
  // A launcher that sees a rank end kills the others, the one too that is about to tell why.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  _exit(1);
}

}  // namespace sinkscope
