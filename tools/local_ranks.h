// Training on several GPUs of this machine without a launcher: one process of this program for each.
#pragma once

#include <string>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

/// How many processes train a config that was started without a launcher on `gpus` GPUs: ranks.gpus, or the most that
/// the sequences of a step can be dealt to. 1 on the CPU, and where the build cannot let several GPUs communicate.
/// Throws ConfigError where ranks.gpus asks for more than there are, or than can be.
int local_ranks(const Config& config, int gpus);

/// Runs `sinkscope ARGUMENTS` as so many ranks, which tell what there is to tell, and passes signals on to them.
/// Returns when all are done. Throws StoppedBySignal after an orderly stop, else ToldElsewhere when one has failed, or
/// std::runtime_error naming the rank that a signal ended.
void run_local_ranks(int ranks, const std::vector<std::string>& arguments);

}  // namespace sinkscope
