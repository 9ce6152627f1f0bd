// Training on several GPUs of this machine, started by the program itself, against training on one.
#include <signal.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/metrics/sinks.h"
#include "kernels/ops.h"
#include "tests/catch.h"
#include "tests/comm/gpu_runs.h"
#include "tests/comm/mpirun.h"
#include "tests/comm/run_difference.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::loss_difference;
using test::Outcome;
using test::train_small;
using test::Workplace;

/// Numbers of GPUs to train on: 2, and 4 and 8 where there are so many.
std::vector<int> counts() {
  std::vector<int> counts;
  for (const int count : {2, 4, 8})
    if (count <= static_cast<int>(cuda_devices().size())) counts.push_back(count);
  return counts;
}

std::string on(int gpus) { return " --gpus " + std::to_string(gpus); }

void check_steps(const std::string& precision) {
  const Workplace place;
  const std::string as = " --set precision=" + precision;
  const fs::path one = train_small(place, precision + "-one", as + on(1));
  for (const int count : counts()) {
    INFO(precision << " on " << count);
    const std::string name = precision + "-" + std::to_string(count);
    const fs::path some = train_small(place, name, as + on(count));
    const auto check = [&](const fs::path& run) {
      if (precision == "fp32")
        CHECK(test::step_difference(run, one) < 2e-4);
      else
        CHECK(loss_difference(run, one) < 2e-2);
    };
    const auto check_again = [&](const fs::path& run, const std::string& more) {
      test::check_same_bits(train_small(place, run.filename().string() + "-again", as + on(count) + more), run);
    };
    check(some);
    check_again(some, "");
    for (const std::string shard : {"none", "optimizer", "gradients", "parameters"}) {
      INFO(shard);
      // A section has several blocks.
      const std::string more = " --set ranks.bucket_megabytes=0.02 --set ranks.shard=" + shard;
      const fs::path run = train_small(place, name + shard, as + on(count) + more);
      check(run);
      if (shard != "optimizer") check_again(run, more);
      const std::string rounded = more + " --set ranks.reduce_dtype=bf16";
      const fs::path wire = train_small(place, name + shard + "-wire", as + on(count) + rounded);
      // Gradient norms are up to 0.055 apart after 100 steps of this.
      const double rounding = loss_difference(wire, run);
      CHECK(rounding > 0);
      CHECK(rounding < 2e-2);
      if (shard == "gradients") check_again(wire, rounded);
      if (precision == "bf16" || shard == "none" || shard == "parameters") continue;
      const std::string kernels = more + " --set ranks.copy_engines=false";
      check(train_small(place, name + shard + "-kernels", as + on(count) + kernels));
    }
    const std::string config = test::read_file(some / "config.json");
    CHECK(test::contains(config, ", " + std::to_string(count) + " ranks, NCCL "));
    CHECK(test::contains(config, " and copy engines"));
  }
}

TEST_CASE(
    "100 steps on several GPUs are those on one, the same to the bit again, and alike however they are sharded and "
    "summed") {
  check_steps("fp32");
}

TEST_CASE(
    "100 steps in bf16 on several GPUs are those on one, the same to the bit again, and alike however they are sharded "
    "and summed") {
  check_steps("bf16");
}

TEST_CASE(
    "what several GPUs sum and share is right at every size, by copy engines and by NCCL's kernels, to the bit where "
    "the order is told") {
  const Workplace place;
  const std::string way = GENERATE("copies", "kernels");
  for (const int count : counts()) test::check_communicator(place, count, way);
}

TEST_CASE("FP8 products on several GPUs are scaled by the magnitudes of all, the same to the bit again") {
  const Workplace place;
  const std::string as = " --set precision=fp8 --set train.steps=40";
  const fs::path one = train_small(place, "one", as + on(1));
  for (const std::string shard : {"optimizer", "parameters"}) {
    INFO(shard);
    const std::string more = as + on(2) + " --set ranks.shard=" + shard;
    const fs::path two = train_small(place, "two-" + shard, more), again = train_small(place, "again-" + shard, more);
    CHECK(loss_difference(two, one) < 2e-2);
    CHECK(test::timeless_lines(again / "metrics.jsonl") == test::timeless_lines(two / "metrics.jsonl"));
  }
}

TEST_CASE("a checkpoint of all GPUs goes on on two and on one") {
  const Workplace place;
  const std::string as = " --set precision=fp32 --set checkpoint.every=50";
  const fs::path one = train_small(place, "one", as + on(1)), all = train_small(place, "all", as + on(counts().back()));
  for (const int count : {2, 1}) {
    fs::remove_all(all / "checkpoints/step_00000100");
    train_small(place, "all", as + on(count) + " --resume");
    INFO(count);
    CHECK(test::step_difference(all, one) < 2e-4);
  }
}

TEST_CASE("what rank 0 does for all is the same on GPUs that keep all of the parameters, and most of them elsewhere") {
  const Workplace place;
  const std::string as = on(counts().back()) + " --set precision=fp32" + test::kWorkForAll;
  const fs::path whole = train_small(place, "whole", as + " --set ranks.shard=none");
  const std::string shard = GENERATE("optimizer", "parameters");
  INFO(shard);
  test::check_work_for_all(train_small(place, shard, as + " --set ranks.shard=" + shard), whole);
}

/// A long run on two GPUs, to whose rank 1 something is done once it is under way.
Outcome disturbed(const Workplace& place, const std::string& more, const std::function<void(pid_t)>& action) {
  return test::disturb_small(place, "--gpus 2" + more, "", 30, action);
}

TEST_CASE("a signal to one rank stops both with a checkpoint") {
  const Workplace place;
  const Outcome outcome = disturbed(place, "", [](pid_t victim) { kill(victim, SIGTERM); });
  INFO(outcome.output);
  CHECK(outcome.status == 143);
  CHECK(test::contains(outcome.output, "stopped after step "));
}

TEST_CASE("a rank that is killed or hangs ends both, by name") {
  for (const int signal : {SIGKILL, SIGSTOP}) {
    const Workplace place;
    const Outcome outcome = disturbed(place, "", [&](pid_t victim) { kill(victim, signal); });
    INFO(outcome.output);
    CHECK(outcome.status == 1);
    CHECK(test::contains(outcome.output, "sinkscope: error: rank 1 on "));
    CHECK(test::process_with(place.path(), "RANK=0") == 0);
    CHECK(test::process_with(place.path(), "RANK=1") == 0);
  }
}

TEST_CASE("a rank whose main thread alone stands still ends both, by name, whatever is sharded") {
  const std::string shard = GENERATE("none", "optimizer", "gradients", "parameters");
  INFO(shard);
  const Workplace place;
  bool stood = false;
  // Without checkpoints, at which ranks wait for ranks.start_timeout.
  const Outcome outcome = disturbed(place, " --set checkpoint.every=0 --set ranks.shard=" + shard, [&](pid_t victim) {
    stood = test::stand_still_until_gone(victim);
    if (!stood) kill(victim, SIGKILL);
  });
  INFO(outcome.output);
  CHECK(outcome.status == 1);
  if (!stood) {
    WARN("the system allows no tracing: not tried");
    return;
  }
  CHECK(test::contains(outcome.output, "sinkscope: error: rank 1 on "));
  CHECK(test::contains(outcome.output, " keeps the others waiting for more than 10 s"));
}

}  // namespace
}  // namespace sinkscope
