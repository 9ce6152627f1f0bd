// More ranks than there are GPUs: ranks that share one, each a host of its own for NCCL, against training on one.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "engine/metrics/sinks.h"
#include "tests/catch.h"
#include "tests/comm/gpu_runs.h"
#include "tests/comm/mpirun.h"
#include "tests/comm/run_difference.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::as_ranks;
using test::loss_difference;
using test::Outcome;
using test::train_small;
using test::Workplace;

constexpr int kRanks = 8;

fs::path train_on(int ranks, const Workplace& place, const std::string& name, const std::string& options) {
  const std::string all = " --set checkpoint.every=0" + options;  // but at the end
  return ranks == 1 ? train_small(place, name, all + " --gpus 1")
                    : train_small(place, name, all, as_ranks(ranks, true));
}

std::string sharded(const std::string& shard) {
  // A section has several blocks.
  return " --set ranks.bucket_megabytes=0.02 --set ranks.shard=" + shard;
}

TEST_CASE("100 steps on eight ranks are those on one and the same to the bit again, however they are sharded") {
  const Workplace place;
  const std::string as = " --set precision=fp32";
  const fs::path one = train_on(1, place, "one", as);
  for (const std::string shard : {"none", "optimizer", "gradients", "parameters"}) {
    INFO(shard);
    const fs::path run = train_on(kRanks, place, shard, as + sharded(shard));
    CHECK(test::step_difference(run, one) < 2e-4);
    const std::string config = test::read_file(run / "config.json");
    CHECK(test::contains(config, ", 8 ranks, NCCL "));
    CHECK(test::contains(config, " and copy engines") == (shard != "none"));
    if (shard == "gradients" || shard == "parameters")
      test::check_same_bits(train_on(kRanks, place, shard + "-again", as + sharded(shard)), run);
  }
}

TEST_CASE("eight ranks sum by NCCL's kernels as one does, and within rounding with gradients in bf16") {
  const Workplace place;
  const std::string as = " --set precision=fp32 --set train.steps=30";
  const fs::path one = train_on(1, place, "one", as);
  for (const std::string shard : {"optimizer", "parameters"}) {
    INFO(shard);
    const std::string kernels = as + sharded(shard) + " --set ranks.copy_engines=false";
    const fs::path run = train_on(kRanks, place, shard, kernels);
    CHECK(test::step_difference(run, one) < 2e-4);
    const fs::path wire = train_on(kRanks, place, shard + "-wire", kernels + " --set ranks.reduce_dtype=bf16");
    const double rounding = loss_difference(wire, run);
    CHECK(rounding > 0);
    CHECK(rounding < 2e-2);
  }
}

TEST_CASE("losses of eight ranks in bf16 and FP8 are those on one within rounding") {
  const Workplace place;
  for (const std::string precision : {"bf16", "fp8"}) {
    INFO(precision);
    const std::string as = " --set train.steps=40 --set precision=" + precision;
    const fs::path one = train_on(1, place, precision + "-one", as);
    for (const std::string shard : {"optimizer", "parameters"}) {
      INFO(shard);
      const fs::path run = train_on(kRanks, place, precision + "-" + shard, as + sharded(shard));
      CHECK(loss_difference(run, one) < 2e-2);
    }
  }
}

TEST_CASE("a checkpoint of eight ranks goes on on two and on one, and one of one on eight") {
  const Workplace place;
  const std::string as = " --set precision=fp32 --set checkpoint.every=50";
  const fs::path one = train_on(1, place, "one", as), eight = train_on(kRanks, place, "eight", as);
  const auto go_on = [&](const fs::path& run, int ranks) {
    INFO(run << " goes on on " << ranks);
    fs::remove_all(run / "checkpoints/step_00000100");
    train_on(ranks, place, run.filename().string(), as + " --resume");
    CHECK(test::step_difference(eight, one) < 2e-4);
  };
  for (const int ranks : {2, 1}) go_on(eight, ranks);
  go_on(one, kRanks);
}

TEST_CASE("what eight ranks sum and share is right at every size, and what three do") {
  const Workplace place;
  const std::string way = GENERATE("copies", "kernels");
  for (const int ranks : {3, kRanks}) test::check_communicator(place, ranks, way, true);
}

TEST_CASE("what rank 0 does for eight is the same where most of the parameters are elsewhere") {
  const Workplace place;
  const std::string as = " --set precision=fp32" + test::kWorkForAll + " --set ranks.shard=";
  const fs::path whole = train_on(kRanks, place, "whole", as + "none");
  test::check_work_for_all(train_on(kRanks, place, "parts", as + "parameters"), whole);
}

TEST_CASE("one of eight ranks that is killed or hangs ends all of them, by name, and they go on") {
  const int signal = GENERATE(SIGKILL, SIGSTOP);
  const Workplace place;
  Outcome outcome = test::disturb_small(place, "", as_ranks(kRanks, true), 30, [&](pid_t victim) {
    kill(victim, signal);
    if (signal == SIGKILL) return;
    for (int i = 0; i < 600 && test::process_with(place.path(), "RANK=0") != 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    kill(victim, SIGKILL);  // as a launcher would: a shell waits for it
  });
  INFO(outcome.output);
  CHECK(outcome.status != 0);
  CHECK(test::contains(outcome.output, "sinkscope: error: rank 1 on "));
  for (int rank = 0; rank < kRanks; ++rank)
    CHECK(test::process_with(place.path(), "RANK=" + std::to_string(rank)) == 0);
  const std::size_t logged = read_step_records(place.path() / "runs/long").size();
  outcome = test::disturb_small(place, "--resume", as_ranks(kRanks, true), logged + 5,
                                [](pid_t victim) { kill(victim, SIGTERM); });
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  CHECK(test::contains(outcome.output, "stopped after step "));
  const std::vector<StepRecord> steps = read_step_records(place.path() / "runs/long");
  CHECK(steps.size() >= logged + 5);
  CHECK(steps.back().step == std::ssize(steps));
}

}  // namespace
}  // namespace sinkscope
