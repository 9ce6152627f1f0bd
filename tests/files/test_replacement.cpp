#include "engine/files/replacement.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::FileSizeLimit;
using test::message_of;
using test::entries;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

TEST_CASE("a replacement shows when it is committed, and not before") {
  const TemporaryFolder folder;
  write_file(folder / "file", "old");
  { FileReplacement(folder / "file").write("dropped"); }
  CHECK(read_file(folder / "file") == "old");
  {
    FileReplacement replacement(folder / "file", "file.tmp");
    replacement.write("n");
    replacement.write("ew");
    CHECK(read_file(folder / "file") == "old");
    CHECK(std::filesystem::exists(folder / "file.tmp"));
    replacement.commit();
  }
  CHECK(read_file(folder / "file") == "new");
  FileReplacement first(folder / "first");
  first.write("1");
  first.commit();
  CHECK(read_file(folder / "first") == "1");
  CHECK(entries(folder.path()) == 2);
}

TEST_CASE("a replacement keeps links, and refuses what is no regular file") {
  const TemporaryFolder folder;
  write_file(folder / "elsewhere/file", "old");
  std::filesystem::create_symlink(folder / "elsewhere/file", folder / "link");
  FileReplacement replacement(folder / "link");
  replacement.write("new");
  replacement.commit();
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_file(folder / "elsewhere/file") == "new");
  CHECK(entries(folder / "elsewhere") == 1);
  const std::string refused = ": exists and is not a regular file";
  CHECK(message_of([&] { FileReplacement(folder / "elsewhere"); }) == (folder / "elsewhere").string() + refused);
  CHECK(message_of([&] { FileReplacement("/dev/null"); }) == "/dev/null" + refused);
}

TEST_CASE("a full disk leaves the old content and nothing else") {
  const TemporaryFolder folder;
  write_file(folder / "file", "old");
  const auto fill = [](auto& file) {
    file.write(std::string(2000, 'x'));
    file.commit();
  };
  std::string replacing, creating;
  {
    const FileSizeLimit full(1000);
    replacing = message_of([&] {
      FileReplacement file(folder / "file");
      fill(file);
    });
    creating = message_of([&] {
      PendingFile file(folder / "new");
      fill(file);
    });
  }
  CHECK(replacing == (folder / "file.partial").string() + ": cannot write: File too large");
  CHECK(creating == (folder / "new.partial").string() + ": cannot write: File too large");
  CHECK(read_file(folder / "file") == "old");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a pending file never replaces anything") {
  const TemporaryFolder folder;
  const auto path = folder / "file";
  { PendingFile(path).write("dropped"); }
  CHECK(entries(folder.path()) == 0);
  PendingFile file(path);
  file.write("mine");
  write_file(path, "theirs");
  CHECK(message_of([&] { file.commit(); }) == path.string() + ": exists already");
  CHECK(message_of([&] { PendingFile another(path); }) == path.string() + ": exists already");
  CHECK(read_file(path) == "theirs");
  std::filesystem::remove(path);
  PendingFile again(path);
  again.write("whole");
  again.commit();
  CHECK(read_file(path) == "whole");
}

TEST_CASE("a process that ends within leaves the old content, and the next one goes on") {
  const TemporaryFolder folder;
  write_file(folder / "old", "old");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    FileReplacement replacement(folder / "old");
    replacement.write("half");
    PendingFile pending(folder / "new");
    pending.write("half");
    ::_exit(0);  // without destructors, as when killed
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(read_file(folder / "old") == "old");
  CHECK(!std::filesystem::exists(folder / "new"));
  CHECK(entries(folder.path()) == 3);  // old, and the two halves
  FileReplacement replacement(folder / "old");
  replacement.write("whole");
  replacement.commit();
  PendingFile pending(folder / "new");
  pending.write("whole");
  pending.commit();
  CHECK(read_file(folder / "old") == "whole");
  CHECK(read_file(folder / "new") == "whole");
  CHECK(entries(folder.path()) == 2);
}

}  // namespace
}  // namespace sinkscope
