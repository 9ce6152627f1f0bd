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

/// The lines of a sample that takes `at_place` lines at a place.
Lines sample_of(LogFollower& follower, std::size_t places, std::size_t at_place = 1, std::int64_t least = 0) {
  Lines lines;
  std::size_t expected = 0;
  CHECK(follower.sample(places, least, [&](std::string_view line, std::size_t nth) {
    if (nth != 0) CHECK(nth == expected);
    expected = nth + 1;
    lines.emplace_back(line);
    return nth + 1 < at_place;
  }));
  return lines;
}

std::string numbered(int number, std::size_t width) {
  const std::string digits = std::to_string(number);
  return std::string(width - digits.size(), '0') + digits;
}

TEST_CASE("a sample is spread over a log, of whole lines, and leaves all of it to be read") {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  std::string text;
  Lines all;
  for (int i = 0; i < 1000; ++i) {
    all.push_back(numbered(i, 9));
    text += all.back() + "\n";
  }
  write_file(path, text);
  Reader reader(path);
  // 100 lines from place to place: each place begins where a line does.
  Lines expected;
  for (int i = 0; i < 1000; i += 100) expected.push_back(all[static_cast<std::size_t>(i)]);
  expected.push_back(all.back());
  CHECK(sample_of(reader.follower, 10) == expected);
  // Elsewhere the next whole line is taken.
  expected.clear();
  for (int i = 0; i < 7; ++i) expected.push_back(all[static_cast<std::size_t>((1428 * i + 9) / 10)]);
  expected.push_back(all.back());
  CHECK(sample_of(reader.follower, 7) == expected);
  const Lines threes = sample_of(reader.follower, 10, 3);
  REQUIRE(threes.size() == 33);
  for (std::size_t i = 0; i < 30; ++i) CHECK(threes[i] == all[100 * (i / 3) + i % 3]);
  CHECK(Lines(threes.end() - 3, threes.end()) == Lines(all.end() - 3, all.end()));

  const LogLook look = reader.look();
  CHECK(look.lines == 1000);
  CHECK_FALSE(look.began_again);
  CHECK(reader.lines == all);
  const auto never = [](std::string_view, std::size_t) {
    CHECK(false);
    return false;
  };
  CHECK_FALSE(reader.follower.sample(10, 1, never));  // nothing is unread
  CHECK_FALSE(LogFollower(path).sample(0, 0, never));
  CHECK_FALSE(LogFollower(path).sample(10, 10001, never));
  CHECK_FALSE(LogFollower(folder / "none").sample(10, 0, never));
}

TEST_CASE("a sample of few or long lines holds each once at most, the last whole one among them") {
  const TemporaryFolder folder;
  const auto path = folder / "probes.jsonl";
  LogFollower follower(path);
  write_file(path, "");
  CHECK(sample_of(follower, 10).empty());
  write_file(path, "torn");
  CHECK(sample_of(follower, 10).empty());
  write_file(path, "a\n");
  CHECK(sample_of(follower, 10) == Lines{"a"});
  CHECK(sample_of(follower, 10, 4) == Lines{"a"});
  write_file(path, "a\nb\ntorn");
  CHECK(sample_of(follower, 10) == Lines{"a", "b"});
  CHECK(sample_of(follower, 10, 2) == Lines{"a", "b"});

  // Many places in a line, and the last ones in the last line, or in a torn one.
  for (const bool torn : {false, true}) {
    Lines all;
    std::string text;
    for (int i = 0; i < 40; ++i) {
      all.push_back(std::to_string(i) + std::string(i == 39 ? 900'000 : 100'000, 'x'));
      text += all.back() + (torn && i == 39 ? "" : "\n");
    }
    if (torn) all.pop_back();
    write_file(path, text);
    const Lines lines = sample_of(follower, 500);
    CHECK(lines.size() >= 5);
    CHECK(lines.size() <= 10);  // an eighth, first and last
    CHECK(lines.front() == all.front());
    CHECK(lines.back() == all.back());
    std::size_t from = 0;
    for (const std::string& line : lines) {
      while (from < all.size() && all[from] != line) ++from;
      REQUIRE(from < all.size());
      ++from;
    }
  }
}

TEST_CASE("what was sampled is void when the log is replaced or cut back before it is read") {
  const TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  const std::string text = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
  write_file(path, text);
  Reader reader(path);
  SECTION("replaced") {
    sample_of(reader.follower, 2);
    drop_later_lines(path, 2);
    CHECK(reader.look().began_again);
    CHECK(reader.lines.size() == 2);
  }
  SECTION("cut back in place, behind what was read") {
    reader.look(1);
    CHECK(reader.lines.size() == 1);
    sample_of(reader.follower, 2);
    std::filesystem::resize_file(path, text.size() - 11);
    CHECK(reader.look().began_again);
    CHECK(reader.lines.size() == 2);
  }
  SECTION("replaced between look and sample") {
    reader.look(1);
    drop_later_lines(path, 2);
    CHECK_FALSE(reader.follower.sample(2, 0, [](std::string_view, std::size_t) { return false; }));
    CHECK(reader.look().began_again);
  }
  SECTION("grown, or without its torn end") {
    append(path, "{\"st");
    sample_of(reader.follower, 2);
    std::filesystem::resize_file(path, text.size());
    append(path, "{\"step\":4}\n");
    CHECK_FALSE(reader.look().began_again);
    CHECK(reader.lines.size() == 4);
  }
}

TEST_CASE("a reader's exception leaves the log at the next line, and what cannot be read is named") {
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
