#include "engine/files/append_file.h"

#include <utility>

#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::FileSizeLimit;
using test::message_of;
using test::read_file;
using test::TemporaryFolder;

TEST_CASE("a file for appending is new, or goes on at its end") {
  const TemporaryFolder folder;
  const auto path = folder / "log";
  { AppendFile(path, AppendFile::Mode::kCreate).append("one\n"); }
  CHECK(message_of([&] { AppendFile(path, AppendFile::Mode::kCreate); }) ==
        path.string() + ": cannot create: File exists");
  AppendFile file(path, AppendFile::Mode::kContinue);
  AppendFile moved(std::move(file));
  moved.append("two\n");
  moved.sync();
  CHECK(read_file(path) == "one\ntwo\n");
}

TEST_CASE("a failed append takes back what it wrote") {
  const TemporaryFolder folder;
  AppendFile file(folder / "log", AppendFile::Mode::kCreate);
  file.append("one\n");
  {
    const FileSizeLimit full(6);
    CHECK(message_of([&] { file.append("two\n"); }) == (folder / "log").string() + ": cannot write: File too large");
  }
  CHECK(read_file(folder / "log") == "one\n");
  file.append("three\n");
  CHECK(read_file(folder / "log") == "one\nthree\n");
}

TEST_CASE("no space left on the device is reported as such") {
  if (!std::filesystem::exists("/dev/full")) return;
  const TemporaryFolder folder;
  std::filesystem::create_symlink("/dev/full", folder / "full.jsonl");
  AppendFile file(folder / "full.jsonl", AppendFile::Mode::kContinue);
  const std::string error = message_of([&] { file.append("line\n"); });
  CHECK(contains(error, "full.jsonl"));
  CHECK(contains(error, "No space left"));
}

}  // namespace
}  // namespace sinkscope
