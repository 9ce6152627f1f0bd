#include "engine/data/text_source.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

std::vector<std::string> documents(const std::vector<std::filesystem::path>& inputs, const TextOptions& options = {}) {
  std::vector<std::string> found;
  for_each_document(list_text_files(inputs), options, [&](std::string_view document) {
    found.emplace_back(document);
    return true;
  });
  return found;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("plain text is cut at separator lines") {
  TemporaryFolder folder;
  const auto file = folder / "a.txt";
  write_file(file, "one\ntwo\n<|endoftext|>\n\n<|endoftext|>\r\nnot <|endoftext|> here\n\n<|endoftext|>\nlast");
  CHECK(documents({file}) == Texts{"one\ntwo", "not <|endoftext|> here\n", "last"});
  CHECK(documents({file}, {.document_separator = "one"}).front().starts_with("two\n<|endoftext|>"));
  write_file(file, "\xef\xbb\xbfwhole\n<|endoftext|>\n");
  CHECK(documents({file}, {.document_separator = ""}) == Texts{"whole\n<|endoftext|>\n"});
  CHECK(documents({file}) == Texts{"whole"});
  write_file(file, "");
  CHECK(documents({file}).empty());
}

TEST_CASE("compressed files read as their content, whatever the frames") {
  TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 60000; ++i)
    content += "line number " + std::to_string(i) + (i % 100 == 99 ? "\n<|endoftext|>\n" : "\n");
  write_file(folder / "a.txt", content);
  const std::string first = compress(content.substr(0, 333333)), second = compress(content.substr(333333));
  write_file(folder / "b.txt.zst", first + second);
  const auto plain = documents({folder / "a.txt"});
  CHECK(plain.size() == 600);
  CHECK(documents({folder / "b.txt.zst"}) == plain);
  const auto cut = folder / "cut.txt.zst", junk = folder / "junk.txt.zst";
  write_file(cut, first + second.substr(0, second.size() - 5));
  CHECK(message_of([&] { documents({cut}); }) == cut.string() + ": the zstd stream is truncated");
  write_file(junk, "no frame at all");
  CHECK(message_of([&] { documents({junk}); }) == junk.string() + ": not a zstd stream: Unknown frame descriptor");
}

TEST_CASE("JSON lines give the text under the key") {
  TemporaryFolder folder;
  const auto file = folder / "a.jsonl";
  write_file(file, "{\"text\": \"one\\ntwo\", \"id\": 1}\n\n{\"text\": \"\"}\n{\"text\": \"caf\\u00e9\"}");
  CHECK(documents({file}) == Texts{"one\ntwo", "caf\xc3\xa9"});
  write_file(file, "{\"body\": \"b\"}\n");
  CHECK(documents({file}, {.text_key = "body"}) == Texts{"b"});
  CHECK(message_of([&] { documents({file}); }) == file.string() + ": line 1: no key \"text\"");
  write_file(file, "{\"text\": \"a\"}\n{\"text\": 3}\n");
  CHECK(message_of([&] { documents({file}); }) ==
        file.string() + ": line 2: key \"text\": expected a string, found the integer 3");
  write_file(file, "[1]\n");
  CHECK(message_of([&] { documents({file}); }) == file.string() + ": line 1: expected a JSON object, found a list");
  write_file(file, "{\"text\": \"a\"}\n{\"text\": \n");
  CHECK(message_of([&] { documents({file}); }).starts_with(file.string() + ": line 2"));
}

TEST_CASE("invalid UTF-8 is named by file, line and byte") {
  TemporaryFolder folder;
  const auto file = folder / "a.txt";
  write_file(file, "fine\nnot \xc3( fine\n");
  CHECK(message_of([&] { documents({file}); }) == file.string() + ": line 2: not valid UTF-8 at byte 4 of the line");
  // A character must not be taken apart where one block ends and the next begins.
  std::string text(262143, 'a');
  text += "\xe4\xb8\xad" + std::string(100, 'b');
  write_file(file, text);
  CHECK(documents({file}) == Texts{text});
}

TEST_CASE("folders are searched recursively in sorted order") {
  TemporaryFolder folder;
  write_file(folder / "in/b/z.txt", "2");
  write_file(folder / "in/c.txt.zst", compress("4"));
  write_file(folder / "in/b/a.jsonl", "{\"text\": \"1\"}");
  write_file(folder / "in/a.txt", "0");
  write_file(folder / "in/c.jsonl", "{\"text\": \"3\"}");
  write_file(folder / "in/image.png", "\xff");
  CHECK(documents({folder / "in"}) == Texts{"0", "1", "2", "3", "4"});
  std::filesystem::create_directory(folder / "empty");
  CHECK(message_of([&] { documents({folder / "empty"}); }) ==
        (folder / "empty").string() + ": no .txt, .jsonl, .txt.zst or .jsonl.zst in this folder");
  CHECK(message_of([&] { documents({folder / "absent"}); }) ==
        (folder / "absent").string() + ": no such file or folder");
  CHECK(message_of([&] { documents({folder / "in/image.png"}); }) ==
        (folder / "in/image.png").string() + ": expected .txt, .jsonl, .txt.zst, .jsonl.zst, or a folder of them");
}
