// What a dry run prints.
#pragma once

#include "engine/train/trainer.h"

namespace sinkscope {

/// The resolved config as JSON, then parameters, FLOPs, data and the memory table, to standard output.
void print_plan(const RunPlan& plan);

}  // namespace sinkscope
