// Runs of a small Llama on GPUs, which tests compare.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>

#include "tests/end_to_end/program.h"

namespace sinkscope::test {

/// Options of `train` with which a step of the Workplace's config is 8 sequences, and 8 ranks have one each.
extern const std::string kSmallStep;

/// Shell text before a command that runs it as ranks 0 to `ranks` - 1 of this machine, by the variables that torchrun
/// gives. Its exit status is that of one that failed. Ranks `shared` by one GPU are hosts of their own for NCCL, which
/// otherwise refuses two of one host, and send through sockets.
std::string as_ranks(int ranks, bool shared = false);

/// The run directory of `train` with 100 steps and these options, `before` as Workplace::run has it; a run that fails
/// fails the test.
std::filesystem::path train_small(const Workplace& place, const std::string& name, const std::string& options,
                                  const std::string& before = {});

/// Begins the run "long" or goes on with it, and does something to its rank 1 once so many steps are logged. Ranks wait
/// for one another for 10 seconds at most. What `train` printed, and its exit status.
Outcome disturb_small(const Workplace& place, const std::string& options, const std::string& before, std::size_t steps,
                      const std::function<void(pid_t)>& action);

/// Options with which rank 0 of a run of 20 steps probes, tests causes and writes 4 samples, and all evaluate.
extern const std::string kWorkForAll;
/// Fails the test unless two such runs measured and wrote the same, within 2e-4.
void check_work_for_all(const std::filesystem::path& run, const std::filesystem::path& whole);

/// Runs the checks of a Communicator on so many ranks, `shared` as above, by "copies" or by "kernels".
void check_communicator(const Workplace& place, int ranks, const std::string& way, bool shared = false);

/// The largest relative difference of two runs' losses, which is what bf16 leaves comparable: other sums of gradients
/// round weights to other neighbours.
double loss_difference(const std::filesystem::path& a, const std::filesystem::path& b);

/// Fails the test unless both runs logged the same and saved the same at step 100, to the bit.
void check_same_bits(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace sinkscope::test
