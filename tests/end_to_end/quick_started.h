// A folder like the repository after its quick start, in which the README's commands are run.
#pragma once

#include <filesystem>
#include <string>

#include "tests/files.h"

namespace sinkscope::test {

/// configs/, the program in build/cpu/tools/ with what makes its runs small, texts.
class QuickStarted {
 public:
  QuickStarted();
  const std::filesystem::path& path() const { return folder_.path(); }

  /// Shell text with the environment that every command has.
  std::string script(const std::string& command) const;

 private:
  TemporaryFolder folder_;
};

}  // namespace sinkscope::test
