#include "tests/comm/gpu_runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>
#include <vector>

#include "engine/comm/socket.h"
#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/comm/mpirun.h"
#include "tests/comm/run_difference.h"

namespace sinkscope::test {

const std::string kSmallStep = " --set device=cuda --set train.micro_batch=2 --set train.gradient_accumulation=4"
                               " --set train.optimizer.learning_rate=0.003 --set model.channels=64"
                               " --set model.hidden=96";

std::string as_ranks(int ranks, bool shared) {
  const std::string size = std::to_string(ranks), port = std::to_string(Listener("127.0.0.1", 0).port());
  std::string text = "export WORLD_SIZE=" + size + " MASTER_ADDR=127.0.0.1 MASTER_PORT=" + port + "; ";
  if (shared) text += "export NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_NVLS_ENABLE=0; ";
  text += "processes=; each() { for rank in $(seq 0 " + std::to_string(ranks - 1) + "); do RANK=$rank ";
  text += shared ? "LOCAL_RANK=0 NCCL_HOSTID=rank-$rank" : "LOCAL_RANK=$rank";
  return text +
         " \"$@\" & processes=\"$processes $!\"; done; status=0; for process in $processes; do wait $process || "
         "status=$?; done; return $status; }; each ";
}

std::filesystem::path train_small(const Workplace& place, const std::string& name, const std::string& options,
                                  const std::string& before) {
  const Outcome outcome =
      place.run("train config.json --set train.steps=100 --set name=" + name + kSmallStep + options, before);
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  return place.path() / "runs" / name;
}

Outcome disturb_small(const Workplace& place, const std::string& options, const std::string& before, std::size_t steps,
                      const std::function<void(pid_t)>& action) {
  Outcome outcome;
  std::jthread runner([&] {
    outcome = place.run(
        "train config.json --set name=long --set train.steps=100000 --set log.tensorboard=false --set "
        "ranks.timeout=10 --set probes.every=0 --set checkpoint.every=20" +
            kSmallStep + " " + options,
        before);
  });
  const std::filesystem::path log = place.path() / "runs/long/metrics.jsonl";
  const auto ended = [&] { return process_with(place.path(), "RANK=0") == 0; };
  for (int i = 0; i < 1200 && !(i > 300 && ended()) &&
                  (!std::filesystem::exists(log) || read_step_records(log.parent_path()).size() < steps);
       ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const pid_t victim = process_with(place.path(), "RANK=1");
  if (victim != 0) action(victim);
  runner.join();
  INFO(outcome.output);
  REQUIRE(victim != 0);
  return outcome;
}

const std::string kWorkForAll =
    " --set train.steps=20 --set probes.every=10 --set probes.causal_every=10 --set sample.every=5 --set "
    "sample.tokens=12 --set evaluation.every=4 --set evaluation.batches=3";

void check_work_for_all(const std::filesystem::path& run, const std::filesystem::path& whole) {
  CHECK(step_difference(run, whole) < 2e-4);
  CHECK(probe_difference(run, whole) < 2e-4);
  const std::vector<EventRecord> expected = read_event_records(whole), found = read_event_records(run);
  REQUIRE(found.size() == expected.size());
  int samples = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].kind == expected[i].kind);
    if (found[i].kind != "sample") continue;
    ++samples;
    CHECK(found[i].message == expected[i].message);
  }
  CHECK(samples == 4);
}

void check_communicator(const Workplace& place, int ranks, const std::string& way, bool shared) {
  const char* moved = std::getenv("SINKSCOPE_RANK_CHECKS");
  const std::string program = moved == nullptr ? SINKSCOPE_RANK_CHECKS : moved;
  INFO(way << " on " << ranks);
  const Outcome outcome = place.run("--version", as_ranks(ranks, shared) + program + " " + way + " || exit; ");
  INFO(outcome.output);
  CHECK(outcome.status == 0);
  CHECK(contains(outcome.output, std::to_string(ranks) + " ranks agree"));
}

double loss_difference(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto first = read_step_records(a), second = read_step_records(b);
  REQUIRE(first.size() == second.size());
  double most = 0;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const double apart = std::abs(first[i].loss - second[i].loss) / second[i].loss;
    most = std::isnan(apart) ? INFINITY : std::max(most, apart);
  }
  return most;
}

void check_same_bits(const std::filesystem::path& a, const std::filesystem::path& b) {
  CHECK(timeless_lines(a / "metrics.jsonl") == timeless_lines(b / "metrics.jsonl"));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    INFO(file);
    CHECK((read_file(a / "checkpoints/step_00000100" / file) == read_file(b / "checkpoints/step_00000100" / file)));
  }
}

}  // namespace sinkscope::test
