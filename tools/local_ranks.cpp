#include "tools/local_ranks.h"

#include <csignal>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>

#include "engine/comm/backends.h"
#include "engine/comm/communicator.h"
#include "engine/comm/socket.h"
#include "engine/config/load.h"
#include "engine/train/batch_share.h"
#include "engine/train/run_memory.h"
#include "tools/child_process.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRankPoll{50};
// A rank that fails ends the others itself; whoever has not noticed by then is ended from here.
constexpr std::chrono::seconds kRankGrace{20};

}  // namespace

int local_ranks(const Config& config, int gpus) {
  const std::int64_t wanted = config.ranks.gpus;
  const bool on_gpu = backend_of(config).device == Device::cuda;
  if (wanted > 1 && !on_gpu)
    throw ConfigError("ranks.gpus is " + std::to_string(wanted) +
                      ", and the run computes on the CPU; there, start several ranks with mpirun");
  if (wanted > 1 && wanted > gpus)
    throw ConfigError("ranks.gpus is " + std::to_string(wanted) + ", and this process sees " + std::to_string(gpus) +
                      (gpus == 1 ? " GPU" : " GPUs"));
  if (wanted > 1 && nccl_description().empty())
    throw ConfigError("ranks.gpus is " + std::to_string(wanted) +
                      ", and this build has no NCCL, which several GPUs need; install NCCL and build again");
  if (wanted > 0) {
    static_cast<void>(batch_share(config.train, 0, static_cast<int>(wanted)));
    return static_cast<int>(wanted);
  }
  return on_gpu && !nccl_description().empty() ? most_ranks(config.train, gpus) : 1;
}

void run_local_ranks(int ranks, const std::vector<std::string>& arguments) {
  watch_interrupts();
  outlive_output();
  const std::string port = std::to_string(Listener("127.0.0.1", 0).port());
  std::vector<std::unique_ptr<ChildProcess>> children;
  for (int rank = 0; rank < ranks; ++rank)
    children.push_back(std::make_unique<ChildProcess>(
        ChildOptions{.arguments = arguments,
                     .environment = {{"RANK", std::to_string(rank)},
                                     {"WORLD_SIZE", std::to_string(ranks)},
                                     {"LOCAL_RANK", std::to_string(rank)},
                                     {"MASTER_ADDR", "127.0.0.1"},
                                     {"MASTER_PORT", port}},
                     .log = {}}));
  std::optional<ChildEnd> failed;
  int failed_rank = 0;
  Clock::time_point failed_at;
  bool passed_on = false, ended = false;
  while (true) {
    int running = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::optional<ChildEnd> end = children[static_cast<std::size_t>(rank)]->ended();
      if (!end) ++running;
      if (!end || end->status == 0 || failed) continue;
      failed = end;
      failed_rank = rank;
      failed_at = Clock::now();
    }
    if (running == 0) break;
    const auto send = [&](int signal) {
      for (const auto& child : children) child->send(signal);
    };
    if (interrupted().load() && !passed_on) {
      send(interrupting_signal());
      passed_on = true;
    }
    if (failed && !ended && Clock::now() - failed_at > kRankGrace) {
      send(SIGKILL);
      ended = true;
    }
    std::this_thread::sleep_for(kRankPoll);
  }
  if (!failed) return;
  // One that was still starting dies of what stops the others in order.
  if (failed->killed && interrupted().load() && failed->status - 128 == interrupting_signal())
    throw StoppedBySignal{interrupting_signal()};
  if (failed->killed)
    throw std::runtime_error("rank " + std::to_string(failed_rank) + " of " + std::to_string(ranks) +
                             " was ended by signal " + std::to_string(failed->status - 128));
  if (failed->status > 128) throw StoppedBySignal{failed->status - 128};
  throw ToldElsewhere();
}

}  // namespace sinkscope
