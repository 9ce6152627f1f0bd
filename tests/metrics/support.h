// What the tests of the logs share: fresh folders, whole files, and example records.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>

#include "engine/metrics/records.h"

namespace sinkscope::test {

/// A new empty folder, removed with everything in it at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& content);

/// The message of the exception that `action` throws; empty when it throws none.
template <class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part);

// Every field set, of 2 layers, 3 heads, 1 key head and 4 positions; numbers that differ by step.
StepRecord example_step(std::int64_t step);
ProbeRecord example_probe(std::int64_t step, const std::string& set = "natural");

}  // namespace sinkscope::test
