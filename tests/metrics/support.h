// What the tests of the logs share: fresh folders, whole files, and example records.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>

#include "engine/metrics/records.h"
#include "tests/files.h"

namespace sinkscope::test {

// Every field set, of 2 layers, 3 heads, 1 key head and 4 positions; numbers that differ by step.
StepRecord example_step(std::int64_t step);
ProbeRecord example_probe(std::int64_t step, const std::string& set = "natural");

}  // namespace sinkscope::test
