#include "engine/files/new_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include "engine/files/new_file.h"
#include "engine/files/rename.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::message_of;
using test::entries;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

TEST_CASE("a staged folder takes the place of another") {
  const TemporaryFolder folder;
  write_file(folder / "target/old", "old");
  write_file(folder / ".partial/left", "by an interrupted construction");
  {
    const StagingFolder dropped(folder / ".partial");
    write_new_file(dropped.path() / "new", "new");
    CHECK(entries(dropped.path()) == 1);
  }
  CHECK(entries(folder.path()) == 1);
  CHECK(read_file(folder / "target/old") == "old");

  StagingFolder staging(folder / ".partial");
  write_new_file(staging.path() / "new", "new");
  staging.commit(folder / "target");
  CHECK(entries(folder.path()) == 1);
  CHECK(entries(folder / "target") == 1);
  CHECK(read_file(folder / "target/new") == "new");
}

TEST_CASE("a pending folder appears whole, and only where there is nothing") {
  const TemporaryFolder folder;
  const auto target = folder / "above/target";
  const std::string taken = target.string() + ": exists already; the output must be a new folder";
  {
    const PendingFolder dropped(target);
    write_new_file(dropped.path() / "new", "new");
    CHECK(!std::filesystem::exists(target));
  }
  CHECK(entries(folder / "above") == 0);

  PendingFolder first(target.string() + "/"), second(target);
  write_new_file(first.path() / "new", "first");
  write_new_file(second.path() / "new", "second");
  first.commit();
  CHECK(message_of([&] { second.commit(); }) == taken);
  CHECK(message_of([&] { PendingFolder third(target); }) == taken);
  CHECK(read_file(target / "new") == "first");
  using std::filesystem::perms;
  CHECK((std::filesystem::status(target).permissions() & perms::others_read) != perms::none);
}

TEST_CASE("a process that ends within leaves no target") {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const PendingFolder pending(folder / "pending");
    write_new_file(pending.path() / "new", "new");
    const StagingFolder staging(folder / ".staging");
    write_new_file(staging.path() / "new", "new");
    ::_exit(0);  // without destructors, as when killed
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(entries(folder.path()) == 2);
  CHECK(!std::filesystem::exists(folder / "pending"));
  PendingFolder(folder / "pending").commit();
  CHECK(entries(folder.path()) == 2);  // what the process left of it is gone
  StagingFolder(folder / ".staging").commit(folder / "staged");
  CHECK(std::filesystem::is_empty(folder / "staged"));
}

TEST_CASE("a pending folder removes what a killed process left of it, and nothing else") {
  const TemporaryFolder folder;
  write_file(folder / ".set.pending-a1B2c3/half", "left by a killed process");
  for (const char* kept : {".set.pending-backup2/mine", ".other.pending-a1B2c3/mine", ".set.backup/mine"})
    write_file(folder / kept, "mine");
  write_file(folder / "linked/mine", "mine");
  std::filesystem::create_directory_symlink(folder / "linked", folder / ".set.pending-symbol");
  const PendingFolder in_use(folder / "set");
  write_new_file(in_use.path() / "half", "in use");
  CHECK(!std::filesystem::exists(folder / ".set.pending-a1B2c3"));
  const PendingFolder second(folder / "set");
  CHECK(read_file(in_use.path() / "half") == "in use");
  for (const char* kept :
       {".set.pending-backup2/mine", ".other.pending-a1B2c3/mine", ".set.backup/mine", "linked/mine"})
    CHECK(read_file(folder / kept) == "mine");
}

TEST_CASE("a rename to a new name replaces nothing") {
  const TemporaryFolder folder;
  write_file(folder / "from", "from");
  write_file(folder / "to", "to");
  CHECK(message_of([&] { rename_to_new(folder / "from", folder / "to"); }) ==
        (folder / "to").string() + ": exists already");
  std::filesystem::create_symlink(folder / "nowhere", folder / "link");
  CHECK(contains(message_of([&] { rename_to_new(folder / "from", folder / "link"); }), "link: exists already"));
  CHECK(read_file(folder / "to") == "to");
  rename_to_new(folder / "from", folder / "new");
  CHECK(read_file(folder / "new") == "from");
  CHECK(message_of([&] { rename_to_new(folder / "from", folder / "newer"); }) ==
        (folder / "newer").string() + ": cannot put in place: No such file or directory");
  CHECK(message_of([&] { sync_folder(folder / "none"); }) ==
        (folder / "none").string() + ": cannot open: No such file or directory");
}

}  // namespace
}  // namespace sinkscope
