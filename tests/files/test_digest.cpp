#include "engine/files/digest.h"

#include "engine/files/input_file.h"
#include "engine/files/new_file.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

using test::message_of;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

TEST_CASE("the hash is XXH3-128 with seed 0 in canonical form") {
  // The value of the empty input from xxHash's own tests (xxhsum's sanity check).
  CHECK(hash_text("") == "99aa06d3014798d86001c324468d497f");
}

TEST_CASE("a text, its pieces, its file and its copy have one hash") {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += std::to_string(i);  // more than one buffer
  const FileDigest expected{static_cast<std::int64_t>(text.size()), hash_text(text)};

  HashedFile file(folder / "pieces");
  for (std::size_t at = 0, size = 1; at < text.size(); at += size, size = size * 3 + 1)
    file.write(std::string_view(text).substr(at, size));
  CHECK(file.finish() == expected);
  CHECK(read_file(folder / "pieces") == text);
  CHECK(digest_file(folder / "pieces") == expected);
  CHECK(write_new_file(folder / "whole", text) == expected);
  CHECK(copy_to_new_file(folder / "whole", folder / "copy") == expected);
  CHECK(read_file(folder / "copy") == text);
  CHECK(read_text_file(folder / "copy") == text);

  text[text.size() / 2] ^= 1;
  CHECK(hash_text(text) != expected.xxh3_128);
}

TEST_CASE("a file that cannot be read is named, with the reason") {
  const TemporaryFolder folder;
  const std::string absent = (folder / "absent").string();
  CHECK(message_of([&] { read_text_file(absent); }) == absent + ": cannot open: No such file or directory");
  CHECK(message_of([&] { digest_file(absent); }) == absent + ": cannot open: No such file or directory");
  CHECK(message_of([&] { read_text_file(folder.path()); }) ==
        folder.path().string() + ": cannot read: Is a directory");
  write_file(folder / "text", std::string("a\0b\n", 4));
  CHECK(read_text_file(folder / "text", 4) == std::string("a\0b\n", 4));
  CHECK(message_of([&] { read_text_file(folder / "text", 3); }) ==
        (folder / "text").string() + ": is larger than 3 bytes");
  write_file(folder / "empty", "");
  CHECK(read_text_file(folder / "empty").empty());
}

}  // namespace
}  // namespace sinkscope
