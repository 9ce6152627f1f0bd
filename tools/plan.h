// What a dry run prints, and a run before its first step.
#pragma once

#include "engine/train/trainer.h"

namespace sinkscope {

/// The resolved config as JSON, then parameters, FLOPs, data and the memory table, to standard output.
void print_plan(const RunPlan& plan);

/// The keys that differ from the defaults, a line a section, as --set takes them; then the same.
void print_start(const RunPlan& plan);

}  // namespace sinkscope
