// Runs the built program in a fresh working folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/files.h"

namespace sinkscope::test {

struct Outcome {
  int status = 0;       // exit status; 128 + n when signal n ended it
  std::string output;   // stdout and stderr together
};

/// A fresh folder with a text, a dataset of its bytes (data/) and a small config (config.json).
class Workplace {
 public:
  Workplace();

  const std::filesystem::path& path() const { return folder_.path(); }
  /// `sinkscope ARGUMENTS` by the shell, in the folder; `before` is shell text put in front, such as
  /// "ulimit -f 8;".
  Outcome run(const std::string& arguments, const std::string& before = {}) const;
  /// Starts `sinkscope ARGUMENTS` and kills it with SIGKILL after `milliseconds`, unless it ended
  /// before. Returns whether it was killed.
  bool run_and_kill(const std::vector<std::string>& arguments, int milliseconds) const;
  void write(const std::string& file, const std::string& content) const;
  std::string read(const std::string& file) const;

 private:
  TemporaryFolder folder_;
};

/// A log's lines without the keys that hold times, and without resume events.
std::vector<std::string> timeless_lines(const std::filesystem::path& file);

}  // namespace sinkscope::test
