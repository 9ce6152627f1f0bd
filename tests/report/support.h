// Run folders with known numbers, and a stand-in chart library.
#pragma once

#include <exception>
#include <filesystem>
#include <string>

#include "engine/probes/bootstrap.h"
#include "tests/files.h"
#include "tools/report/report.h"

namespace sinkscope::test {

/// Points SINKSCOPE_ASSETS at `folder` for the scope.
class AssetFolder {
 public:
  explicit AssetFolder(const std::filesystem::path& folder);
  ~AssetFolder();
  AssetFolder(const AssetFolder&) = delete;
  AssetFolder& operator=(const AssetFolder&) = delete;
};

struct ExampleRun {
  std::string name = "sweep/bos";
  std::string bos = "sequence";
  int steps = 100;          // logged; 100 are planned
  double sink = 0.01;       // excess of position 0 grows by this every step from 1; 0: stays 1
  bool probes = true;       // a pass every 5 steps, sets natural_bos (or natural) and random
  bool step_probes = true;
  int bad_step = 0;         // this step's loss is NaN
  int seed = 1;
  double loss = 0;           // added to every loss
  std::string patch = "{}";  // JSON object merged into config.json
};

/// Writes config.json and the logs. Loss at step s is 4 - s/100, common loss a half less,
/// validation (every 10 steps) a quarter more; u_0 is 0.05; 2 layers, 2 heads, 8 positions;
/// residual norm 10, 20, 40 of position 0 (embedding, blocks) against 10.
void write_run(const std::filesystem::path& folder, const ExampleRun& run);

/// The same in `place` of a folder, read back.
RunData example(const TemporaryFolder& folder, const std::string& place, const ExampleRun& run);

/// A number with an interval of a tenth to both sides.
Estimate around(double value);

/// uplot/ with a tiny script and style in `folder`.
void write_chart_library(const std::filesystem::path& folder);

}  // namespace sinkscope::test
