#include <random>

#include "engine/data/tokenizer.h"
#include "engine/data/utf8.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Ids = std::vector<std::int32_t>;

TEST_CASE("UTF-8 is checked as Unicode defines it") {
  CHECK_FALSE(first_invalid_utf8("plain, \xc3\xa9, \xe4\xb8\xad, \xf0\x9f\x98\x80, \xf4\x8f\xbf\xbf"));
  CHECK(first_invalid_utf8("0123456789\xff") == std::size_t{10});
  CHECK(first_invalid_utf8("\xc0\xaf") == std::size_t{0});              // overlong
  CHECK(first_invalid_utf8("a\xe0\x9f\xbf") == std::size_t{1});         // overlong
  CHECK(first_invalid_utf8("\xed\xa0\x80") == std::size_t{0});          // surrogate
  CHECK(first_invalid_utf8("\xf4\x90\x80\x80") == std::size_t{0});      // beyond U+10FFFF
  CHECK(first_invalid_utf8("ab\xe4\xb8") == std::size_t{2});            // cut short
}

TEST_CASE("the byte tokenizer gives back any bytes") {
  const auto tokenizer = make_byte_tokenizer();
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->bos_id() == 256);
  CHECK(tokenizer->eos_id() == 257);
  CHECK(tokenizer->files().empty());
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const Ids ids = tokenizer->encode(all);
  REQUIRE(ids.size() == 256);
  CHECK(ids[0] == 0);
  CHECK(ids[255] == 255);
  CHECK(tokenizer->decode(ids) == all);
  CHECK(tokenizer->decode(Ids{256, 72, 105, 257}) == "Hi");
  CHECK(message_of([&] { tokenizer->decode(Ids{1, 258}); }) == "token 258 is outside the vocabulary of 258");
  CHECK(message_of([&] { tokenizer->decode(Ids{-1}); }) == "token -1 is outside the vocabulary of 258");
}

TEST_CASE("byte-level BPE merges by rank within GPT-2's words") {
  TemporaryFolder folder;
  write_small_bpe(folder.path());
  const auto tokenizer = open_tokenizer(folder.path());
  CHECK(tokenizer->kind() == "gpt2");
  CHECK(tokenizer->vocab_size() == 263);
  CHECK(tokenizer->bos_id() == 262);
  CHECK(tokenizer->eos_id() == 262);
  CHECK(tokenizer->files().size() == 2);
  constexpr int kHell = 259, kSpaceW = 258, kO = 'o' - 0x21, kSpace = 220;
  CHECK(tokenizer->encode("hello wo") == Ids{kHell, kO, kSpaceW, kO});
  // A run of blanks leaves its last to the word.
  CHECK(tokenizer->encode("hell  wo") == Ids{kHell, kSpace, kSpaceW, kO});
  CHECK(tokenizer->encode("") == Ids{});
  CHECK(tokenizer->encode("<|endoftext|>").size() == 13);  // text, never the special token
  CHECK(tokenizer->decode(Ids{kHell, 262}) == "hell<|endoftext|>");
  CHECK(message_of([&] { tokenizer->encode("abc\xff"); }) == "the text is not valid UTF-8 at byte 3");

  std::mt19937 random(7);
  for (std::size_t round = 0; round < 200; ++round) {
    const std::string text = random_text(random, round * 3);
    REQUIRE(tokenizer->decode(tokenizer->encode(text)) == text);
  }
}

TEST_CASE("long words merge as short ones do") {
  TemporaryFolder folder;
  write_small_bpe(folder.path());
  const auto tokenizer = open_tokenizer(folder.path());
  // Ranks make runs of "a" pair up from the left: fours, then a pair, then a single one.
  constexpr int kA = 'a' - 0x21, kAa = 260, kAaaa = 261;
  for (const std::size_t length : {3, 7, 47, 48, 49, 50, 51, 1000, 100003}) {
    Ids expected(length / 4, kAaaa);
    if (length % 4 >= 2) expected.push_back(kAa);
    if (length % 2 == 1) expected.push_back(kA);
    CHECK(tokenizer->encode(std::string(length, 'a')) == expected);
  }
  // "hell" never overlaps its neighbours, so a long word is the same as many short ones.
  std::string word;
  Ids expected;
  for (int i = 0; i < 40; ++i) {
    word += "hello";
    expected.insert(expected.end(), {259, 'o' - 0x21});
  }
  CHECK(tokenizer->encode(word) == expected);
}

TEST_CASE("broken BPE files are named") {
  TemporaryFolder folder;
  const std::string encoder = (folder / "encoder.json").string(), merges = (folder / "vocab.bpe").string();
  const auto open_message = [&] { return message_of([&] { open_tokenizer(folder.path()); }); };
  CHECK(open_message() == folder.path().string() +
                              ": no tokenizer in this folder; expected encoder.json and vocab.bpe, or tokenizer.model");
  write_small_bpe(folder.path());
  write_file(merges, "#version: 0.2\nh e\nq z\n");
  CHECK(open_message() == merges + ": line 3: token \"qz\" is not in " + encoder);
  write_file(merges, "#version: 0.2\nhe\n");
  CHECK(open_message() == merges + ": line 2: expected two tokens, found \"he\"");
  write_file(merges, "h e\nh e\n");
  CHECK(open_message() == merges + ": line 2: \"h e\" was given before");
  write_file(merges, "#version: 0.2\n");
  CHECK(open_message() == merges + ": holds no merges");
  write_small_bpe(folder.path());
  write_file(encoder, R"({"a": 0, "b": 0})");
  CHECK(open_message() == encoder + ": token \"b\": expected an id of its own in [0, 2), found 0");
  write_file(encoder, R"({"a": 0, "b": 1})");
  CHECK(open_message() == encoder + ": token \"<|endoftext|>\" is missing");
  write_file(encoder, "[]");
  CHECK(open_message() == encoder + ": expected an object of tokens and their ids");
  CHECK(message_of([&] { open_tokenizer(folder / "absent"); }).find("absent: no such tokenizer") != std::string::npos);
}

TEST_CASE("a trained sentencepiece model gives back the text, twice the same") {
  TemporaryFolder folder;
#ifndef SINKSCOPE_SENTENCEPIECE
  CHECK(message_of([&] { open_tokenizer(folder / "x.model"); }).find("no such tokenizer") != std::string::npos);
  CHECK(message_of([&] { make_sentencepiece_tokenizer("x.model"); }) ==
        "x.model: this build has no sentencepiece; install libsentencepiece-dev and rebuild");
#else
  std::string text;
  for (int i = 0; i < 60; ++i)
    text += "The cat number " + std::to_string(i) + " sat on the other mat.\nIt was glad.\n<|endoftext|>\n";
  write_file(folder / "text.txt", text);
  const auto train = [&](const std::string& name, std::int64_t vocab_size) {
    train_sentencepiece({.inputs = {folder / "text.txt"}, .model = folder / name, .vocab_size = vocab_size});
  };
  train("a.model", 320);
  train("b.model", 320);
  CHECK(read_file(folder / "a.model") == read_file(folder / "b.model"));
  const auto tokenizer = open_tokenizer(folder / "a.model");
  CHECK(tokenizer->kind() == "sentencepiece");
  CHECK(tokenizer->vocab_size() == 320);
  CHECK(tokenizer->bos_id() == 1);
  CHECK(tokenizer->eos_id() == 2);
  for (const std::string sample :
       {"The cat sat.", "  two  blanks \n\n and lines\n", "caf\xc3\xa9 \xf0\x9f\x98\x80\ttab", ""}) {
    const Ids ids = tokenizer->encode(sample);
    CHECK(tokenizer->decode(ids) == sample);
    for (const auto id : ids) CHECK((id > 2 && id < 320));  // bytes stand in: never unknown
  }
  CHECK(tokenizer->encode("The cat sat on the mat").size() < 12);
  CHECK(message_of([&] { tokenizer->encode("\xff"); }) == "the text is not valid UTF-8 at byte 0");
  CHECK(message_of([&] { train("a.model", 320); }) == (folder / "a.model").string() + ": exists already");
  // A size that the text does not allow is refused with the least or the most, which both work.
  const auto refusal = [&](std::int64_t size) {
    std::string message = message_of([&] { train("c.model", size); });
    const std::string beginning =
        (folder / "text.txt").string() + ": --train-sentencepiece " + std::to_string(size) + ": the text ";
    CHECK(message.starts_with(beginning));
    return message.substr(beginning.size());
  };
  const std::string few = refusal(1), many = refusal(100000);
  const int least = std::stoi(few.substr(std::string("needs at least ").size()));
  const int most = std::stoi(many.substr(std::string("gives at most ").size()));
  CHECK(few == "needs at least " + std::to_string(least) + " pieces: unknown, BOS, EOS, 256 bytes and " +
                   std::to_string(least - 259) + " characters");
  CHECK(many == "gives at most " + std::to_string(most) + " pieces; ask for fewer, or give more text");
  CHECK(refusal(least - 1) == few);
  CHECK(refusal(most + 1) == many);
  train("least.model", least);
  train("most.model", most);
  CHECK_FALSE(std::filesystem::exists(folder / "c.model"));
  // A long line without a space is cut between characters, and none of it is left out: not what stands at the cut,
  // behind 3999 bytes.
  const std::string water = "\xe6\xb0\xb4", fire = "\xe7\x81\xab";
  for (int line = 0; line < 20; ++line) {
    for (int i = 0; i < 1500; ++i) text += i == 1333 ? fire : water;
    text += "\n";
  }
  write_file(folder / "text.txt", text);
  train("dense.model", 300);
  for (const std::string& character : {water, fire})  // a piece of its own, not its three bytes
    CHECK(open_tokenizer(folder / "dense.model")->encode(character).size() < 3);
  write_file(folder / "bad.model", "not a model");
  CHECK(message_of([&] { open_tokenizer(folder / "bad.model"); }).find("bad.model: sentencepiece: ") !=
        std::string::npos);
#endif
}
