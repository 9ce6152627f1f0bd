#include "engine/files/new_file.h"

#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::FileSizeLimit;
using test::message_of;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

void write(NewFile& file, std::string_view text) { file.write(std::as_bytes(std::span(text))); }

void overwrite(NewFile& file, std::int64_t offset, std::string_view text) {
  file.overwrite(offset, std::as_bytes(std::span(text)));
}

TEST_CASE("a new file's header can be written last") {
  const TemporaryFolder folder;
  NewFile file(folder / "shard");
  write(file, "????");
  write(file, "payload");
  overwrite(file, 0, "head");
  write(file, "!");
  CHECK_THROWS_AS(overwrite(file, 9, "four"), std::invalid_argument);
  CHECK_THROWS_AS(overwrite(file, -1, "x"), std::invalid_argument);
  file.finish();
  CHECK(read_file(folder / "shard") == "headpayload!");
}

TEST_CASE("a new file never touches one that exists") {
  const TemporaryFolder folder;
  const auto path = folder / "file";
  write_file(path, "old");
  CHECK(message_of([&] { NewFile file(path); }) == path.string() + ": cannot create: File exists");
  CHECK(message_of([&] { write_new_file(path, "new"); }) == path.string() + ": cannot create: File exists");
  CHECK(message_of([&] { copy_to_new_file(path, path); }) == path.string() + ": cannot create: File exists");
  CHECK(read_file(path) == "old");
  CHECK(message_of([&] { NewFile file(folder / "none/file"); }) ==
        (folder / "none/file").string() + ": cannot create: No such file or directory");
}

TEST_CASE("a new file that is not finished is removed") {
  const TemporaryFolder folder;
  {
    NewFile file(folder / "file");
    write(file, "half");
    CHECK(read_file(folder / "file") == "half");
  }
  CHECK(std::filesystem::is_empty(folder.path()));
  std::string error;
  {
    const FileSizeLimit full(1000);
    error = message_of([&] { write_new_file(folder / "file", std::string(2000, 'x')); });
  }
  CHECK(error == (folder / "file").string() + ": cannot write: File too large");
  CHECK(std::filesystem::is_empty(folder.path()));
  write_new_file(folder / "file", "whole");
  CHECK(read_file(folder / "file") == "whole");
}

}  // namespace
}  // namespace sinkscope
