// The GPUs that `--devices` names, for processes that are each to see one of them.
#pragma once

#include <string>
#include <vector>

namespace sinkscope {

/// What CUDA_VISIBLE_DEVICES must be for each device of `list`, a comma-separated list of numbers as this process
/// counts its GPUs (of `count` that it sees, `visible` being its own CUDA_VISIBLE_DEVICES or null) or of names as
/// nvidia-smi -L has them ("GPU-...", "MIG-..."). Throws std::runtime_error beginning with `flag` for anything else, or
/// one given twice.
std::vector<std::string> gpu_choices(const std::string& list, const char* visible, std::size_t count,
                                     const std::string& flag);

}  // namespace sinkscope
