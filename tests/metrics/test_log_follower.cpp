// A log that grows, tears, is cut back and is replaced, as its reader sees it.
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/log_follower.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::contains;
using test::message_of;
using test::TemporaryFolder;
using test::write_file;

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
using Lines = std::vector<std::string>;

void append(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

/// A reader that keeps every line that still holds.
struct Reader {
  explicit Reader(const std::filesystem::path& path) : follower(path) {}

  LogLook look(std::int64_t limit = kAll) {
    return follower.look([&] { lines.clear(); },
                         [&](std::string_view line, std::int64_t number) {
                           lines.emplace_back(line);
                           CHECK(number == std::ssize(lines));
                         },
                         limit);
  }

  LogFollower follower;
  Lines lines;
};

TEST_CASE("a log is read as it grows, each line once and whole") {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  Reader reader(path);
  CHECK(reader.look().lines == 0);  // not there yet
  write_file(path, "");
  CHECK(reader.look().lines == 0);
  append(path, "{\"step\":1}\n{\"st");
  CHECK(reader.look().lines == 1);
  CHECK(reader.lines == Lines{"{\"step\":1}"});
  CHECK(reader.look().lines == 0);  // the torn end stays for later
  append(path, "ep\":2}");
  CHECK(reader.look().lines == 0);
  append(path, "\n\n{\"step\":3}\n");
  const LogLook look = reader.look();
  CHECK(look.lines == 3);
  CHECK_FALSE(look.began_again);
  CHECK(reader.lines == Lines{"{\"step\":1}", "{\"step\":2}", "", "{\"step\":3}"});
  CHECK(reader.follower.read_bytes() == static_cast<std::int64_t>(std::filesystem::file_size(path)));
}

TEST_CASE("lines longer than a block and more of them than a look takes come in turn") {
  const TemporaryFolder folder;
  const auto path = folder / "probes.jsonl";
  const std::string longest(3 << 20, 'x');
  std::string text;
  Lines expected;
  for (int i = 0; i < 5; ++i) {
    expected.push_back(std::to_string(i) + longest);
    text += expected.back() + "\n";
    expected.push_back(std::to_string(i));
    text += expected.back() + "\n";
  }
  write_file(path, text);
  Reader reader(path);
  CHECK(reader.look(1).lines == 1);
  CHECK(reader.follower.unread_bytes() == static_cast<std::int64_t>(text.size() - longest.size() - 2));
  CHECK(reader.look(1).lines == 1);
  while (reader.look(5 << 20).lines > 0) {}
  CHECK(reader.follower.unread_bytes() == 0);
  CHECK(reader.lines == expected);
}

TEST_CASE("a resume's cut, by a new file or in place, makes the log begin again") {
  const TemporaryFolder folder;
  const auto path = folder / "events.jsonl";
  const auto line = [](int step, const std::string& word = "a") {
    return "{\"step\":" + std::to_string(step) + ",\"word\":\"" + word + "\"}\n";
  };
  write_file(path, line(1) + line(2) + line(3));
  Reader reader(path);
  reader.look();

  SECTION("as a resume does it") {
    drop_later_lines(path, 2);
    append(path, line(3, "b") + line(4, "b"));
    const LogLook look = reader.look();
    CHECK(look.began_again);
    CHECK(look.lines == 4);
    CHECK(contains(reader.lines[2], "\"b\""));
  }
  SECTION("shorter, in place") {
    std::filesystem::resize_file(path, line(1).size());
    CHECK(reader.look().began_again);
    CHECK(reader.lines.size() == 1);
    append(path, line(2));
    CHECK_FALSE(reader.look().began_again);
    CHECK(reader.lines.size() == 2);
  }
  SECTION("shorter and grown again behind the place that was read to") {
    std::filesystem::resize_file(path, line(1).size());
    append(path, line(2, "b") + line(3, "b") + line(4, "b"));
    CHECK(reader.look().began_again);
    CHECK(reader.lines.size() == 4);
    CHECK(contains(reader.lines[1], "\"b\""));
  }
  SECTION("another file of the same length and end") {
    const auto other = folder / "other";
    write_file(other, line(1, "b") + line(2) + line(3));
    std::filesystem::rename(other, path);
    CHECK(reader.look().began_again);
    CHECK(contains(reader.lines[0], "\"b\""));
    CHECK(reader.lines.size() == 3);
  }
  SECTION("removed, and there again") {
    std::filesystem::remove(path);
    CHECK(reader.look().began_again);
    CHECK(reader.lines.empty());
    CHECK_FALSE(reader.look().began_again);
    write_file(path, line(7));
    reader.look();
    CHECK(reader.lines.size() == 1);
  }
}

TEST_CASE("a reader's exception leaves the log at the next line; what cannot be read is named") {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  write_file(path, "bad\ngood\n");
  LogFollower follower(path);
  const auto nothing = [] {};
  CHECK_THROWS_AS(follower.look(nothing, [](std::string_view, std::int64_t) { throw 1; }, kAll), int);
  Lines lines;
  follower.look(nothing, [&](std::string_view line, std::int64_t) { lines.emplace_back(line); }, kAll);
  CHECK(lines == Lines{"good"});

  LogFollower of_folder(folder.path());
  CHECK(contains(message_of([&] { of_folder.look(nothing, [](std::string_view, std::int64_t) {}, kAll); }),
                 folder.path().string() + ": cannot read: Is a directory"));
}

}  // namespace
}  // namespace sinkscope
