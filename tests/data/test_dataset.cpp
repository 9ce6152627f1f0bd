#include "engine/data/dataset.h"

#include <numeric>

#include "engine/config/load.h"
#include "engine/data/shard.h"
#include "engine/data/tokenizer.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Ids = std::vector<std::int32_t>;

namespace {

/// A dataset of bytes: 400 short documents, 5 % of them for validation, in shards of 2000 tokens.
TokenizeSummary tokenize_bytes(const TemporaryFolder& folder, const std::string& output = "data") {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "document " + std::to_string(i) + "\nof bytes\n<|endoftext|>\n";
  write_file(folder / "text.txt", text);
  return tokenize({.inputs = {folder / "text.txt"},
                   .output = folder / output,
                   .tokenizer = "byte",
                   .validation_fraction = 0.05,
                   .shard_tokens = 2000});
}

DataConfig at(const std::filesystem::path& path) {
  DataConfig config;
  config.path = path.string();
  return config;
}

DataConfig shards(const std::vector<std::string>& train, const std::vector<std::string>& validation = {}) {
  DataConfig config;
  config.train = train;
  config.validation = validation;
  return config;
}

std::string open_message(const DataConfig& config) {
  return message_of([&] { open_dataset(config); });
}

std::string text_of(const TokenStream& stream) {
  std::string text;
  for (const auto id : all_tokens(stream)) text += id == 257 ? '|' : static_cast<char>(id);
  return text;
}

void replace(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string content = read_file(file);
  const auto place = content.find(from);
  REQUIRE(place != std::string::npos);
  write_file(file, content.replace(place, from.size(), to));
}

std::vector<ShardInfo> write_shards(const std::filesystem::path& folder, const std::string& prefix, const Ids& tokens,
                                    std::int64_t vocab_size, std::uint64_t vocab_hash, std::int64_t shard_tokens) {
  ShardWriter writer({folder, prefix, vocab_size, vocab_hash, shard_tokens});
  writer.append(tokens);
  return writer.finish();
}

}  // namespace

TEST_CASE("shards give back their tokens from any place, in both widths") {
  TemporaryFolder folder;
  for (const std::int64_t vocab_size : {50257, 65536, 65537, 1000000}) {
    Ids tokens(1000);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>((i * 7919 * 7919) % static_cast<std::size_t>(vocab_size));
    tokens[500] = static_cast<std::int32_t>(vocab_size - 1);
    const std::string prefix = std::to_string(vocab_size);
    const auto infos = write_shards(folder.path(), prefix, tokens, vocab_size, 5, 300);
    REQUIRE(infos.size() == 4);
    CHECK(infos[3].tokens == 100);
    CHECK(infos[3].file.filename().string() == prefix + "_00003.bin");
    CHECK(std::filesystem::file_size(infos[3].file) == 64 + 100 * (vocab_size <= 65536 ? 2u : 4u));
    std::vector<std::filesystem::path> files;
    for (const auto& info : infos) files.push_back(info.file);
    const auto stream = open_token_stream(files, true, vocab_size);
    CHECK(stream->size() == 1000);
    CHECK(stream->shards()[2].vocab_hash == 5);
    CHECK(stream->shards()[2].checksum == infos[2].checksum);
    CHECK(all_tokens(*stream) == tokens);
    for (const std::int64_t begin : {0, 1, 299, 300, 301, 599, 899, 999, 1000})
      for (const std::int64_t count : {0, 1, 2, 301, 602}) {
        if (begin + count > 1000) {
          Ids out(static_cast<std::size_t>(count));
          CHECK_THROWS_AS(stream->read(begin, out), std::out_of_range);
          continue;
        }
        Ids out(static_cast<std::size_t>(count));
        stream->read(begin, out);
        CHECK(out == Ids(tokens.begin() + begin, tokens.begin() + begin + count));
      }
    Ids out(1);
    CHECK_THROWS_AS(stream->read(-1, out), std::out_of_range);
  }
  CHECK(message_of([&] { write_shards(folder.path(), "bad", {1, 300}, 258, 5, 10); }) ==
        "token 300 is outside the vocabulary of 258");
}

TEST_CASE("broken shards are refused with what is wrong") {
  TemporaryFolder folder;
  Ids tokens(100);
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto file = write_shards(folder.path(), "s", tokens, 258, 5, 1000).front().file;
  const auto other = write_shards(folder.path(), "o", tokens, 258, 6, 1000).front().file;
  const std::string good = read_file(file), name = file.string() + ": ";
  const auto message = [&](const std::string& content, bool verify = true) {
    write_file(file, content);
    return message_of([&] { open_token_stream({file}, verify); });
  };
  const auto with = [&](std::size_t place, char value) {
    std::string content = good;
    content[place] = value;
    return content;
  };
  CHECK(message(good).empty());
  CHECK(message("") == name + "not a token shard: expected the magic \"SINKSHRD\", or 20240520 of GPT-2-style shards");
  CHECK(message(with(0, 'T')) ==
        name + "not a token shard: expected the magic \"SINKSHRD\", or 20240520 of GPT-2-style shards");
  CHECK(message(good.substr(0, 63)) == name + "truncated: shorter than its header of 64 bytes");
  CHECK(message(with(8, 2)) == name + "version 2, expected 1");
  CHECK(message(with(12, 3)) == name + "3 bytes a token, expected 2 or 4");
  CHECK(message(good.substr(0, 263)) ==
        name + "truncated: the header says 100 tokens of 2 bytes, the file holds 199 bytes of them");
  CHECK(message(good + "xx") ==
        name + "longer than its header says: the header says 100 tokens of 2 bytes, the file holds 202 bytes of them");
  CHECK(message(with(23, '\x80')) == name +
                                         "truncated: the header says 9223372036854775908 tokens of 2 bytes, the file "
                                         "holds 200 bytes of them");  // a count that would overflow
  CHECK(message(with(100, 1)).starts_with(name + "corrupt: checksum "));
  CHECK(message(with(100, 1), false).empty());
  write_file(file, good);
  CHECK(message_of([&] { open_token_stream({file, other}, true); }) ==
        other.string() + ": its vocabulary (hash 0000000000000006) is not that of " + file.string() +
            " (hash 0000000000000005)");
  CHECK(message_of([&] { open_token_stream({file}, true, 99); }) ==
        name + "token 99 at place 99 is outside the vocabulary of 99");
  CHECK(message_of([&] { open_token_stream({folder / "absent.bin"}, true); }) ==
        (folder / "absent.bin").string() + ": cannot open: No such file or directory");
  CHECK(message_of([&] { open_token_stream({}, true); }) == "a token stream needs at least one shard");
}

TEST_CASE("GPT-2-style shards are read as they are") {
  TemporaryFolder folder;
  write_gpt2_shard(folder / "b_1.bin", {50256, 5, 6});
  write_gpt2_shard(folder / "b_0.bin", {50256, 1, 2, 3});
  write_gpt2_shard(folder / "v.bin", {9, 50256});
  const auto dataset = open_dataset(shards({(folder / "b_*.bin").string()}, {(folder / "v.bin").string()}));
  CHECK(all_tokens(*dataset.train) == Ids{50256, 1, 2, 3, 50256, 5, 6});
  CHECK(all_tokens(*dataset.validation) == Ids{9, 50256});
  CHECK(dataset.vocab_size == 50257);
  CHECK(dataset.bos_id == 50256);
  CHECK(dataset.eos_id == 50256);
  CHECK(dataset.tokenizer == "unknown");
  CHECK(dataset.tokenizer_path.empty());
  CHECK(open_dataset(shards({(folder / "b_0.bin").string()})).validation == nullptr);

  const auto file = folder / "b_0.bin";
  const std::string good = read_file(file);
  const DataConfig config = shards({file.string()});
  write_file(file, good.substr(0, good.size() - 1));
  CHECK(open_message(config) ==
        file.string() + ": truncated: the header says 4 tokens of 2 bytes, the file holds 7 bytes of them");
  write_file(file, good.substr(0, 500));
  CHECK(open_message(config) == file.string() + ": truncated: shorter than its header of 1024 bytes");
  write_gpt2_shard(file, {1, 60000});
  CHECK(open_message(config) == file.string() + ": token 60000 at place 1 is outside the vocabulary of 50257");
  write_gpt2_shard(file, {});
  CHECK(open_message(config) == file.string() + ": the shards hold no tokens");
  const std::string pattern = (folder / "none_*.bin").string();
  CHECK(open_message(shards({pattern})) == "data.train: no file matches \"" + pattern + "\"");
  CHECK_THROWS_AS(open_dataset(shards({pattern})), ConfigError);
}

TEST_CASE("a tokenized folder opens as what was written") {
  TemporaryFolder folder;
  const auto summary = tokenize_bytes(folder);
  CHECK(summary.documents == 400);
  const auto dataset = open_dataset(at(folder / "data"));
  REQUIRE(dataset.validation);
  CHECK(dataset.train->size() == summary.train_tokens);
  CHECK(dataset.validation->size() == summary.validation_tokens);
  CHECK(summary.train_tokens + summary.validation_tokens == summary.bytes + 400);
  CHECK(dataset.train->shards().size() > 2);
  CHECK(dataset.vocab_size == 258);
  CHECK(dataset.bos_id == 256);
  CHECK(dataset.eos_id == 257);
  CHECK(dataset.tokenizer == "byte");
  CHECK(dataset.tokenizer_path.empty());
  // Every document is in exactly one split, whole, in order, and ends with EOS.
  const std::string train = text_of(*dataset.train), validation = text_of(*dataset.validation);
  CHECK(validation.size() > 100);
  CHECK(validation.size() < train.size() / 5);
  for (int i = 0; i < 400; ++i) {
    const std::string document = "document " + std::to_string(i) + "\nof bytes|";
    CHECK((train.find(document) != std::string::npos) != (validation.find(document) != std::string::npos));
  }
  // The same text gives the same files; the fingerprint tells other data apart.
  tokenize_bytes(folder, "again");
  for (const auto& name : names_in(folder / "data"))
    CHECK(read_file(folder / ("data/" + name)) == read_file(folder / ("again/" + name)));
  CHECK(open_dataset(at(folder / "again")).fingerprint == dataset.fingerprint);
  // Our shards can also be listed; dataset.json beside them tells the vocabulary.
  const auto listed = open_dataset(shards({(folder / "data/train_*.bin").string()}));
  CHECK(all_tokens(*listed.train) == all_tokens(*dataset.train));
  CHECK(listed.vocab_size == 258);
  CHECK(listed.fingerprint != dataset.fingerprint);
  std::filesystem::remove(folder / "again/dataset.json");
  CHECK(open_message(shards({(folder / "again/train_00000.bin").string()})) ==
        (folder / "again/train_00000.bin").string() + ": no dataset.json beside it tells its vocabulary");
}

TEST_CASE("a few long documents are cut, so that both splits have text") {
  TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "line " + std::to_string(i) + " \xc3\xa9\n";
  write_file(folder / "book.txt", text);
  tokenize(
      {.inputs = {folder / "book.txt"}, .output = folder / "data", .tokenizer = "byte", .validation_fraction = 0.1});
  const auto dataset = open_dataset(at(folder / "data"));
  const std::string train = text_of(*dataset.train), validation = text_of(*dataset.validation);
  CHECK(train.ends_with("\n|"));
  CHECK(validation.starts_with("line "));
  CHECK(train.substr(0, train.size() - 1) + validation == text.substr(0, text.size() - 1) + "|");
  CHECK(validation.size() > text.size() / 11);
  CHECK(validation.size() < text.size() / 9);
  // Without a line break the cut falls between characters.
  write_file(folder / "line.txt", "\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad");
  tokenize(
      {.inputs = {folder / "line.txt"}, .output = folder / "cut", .tokenizer = "byte", .validation_fraction = 0.5});
  CHECK(text_of(*open_dataset(at(folder / "cut")).train).size() == 7);
}

TEST_CASE("validation files and the tokenizer go into the folder") {
  TemporaryFolder folder;
  write_small_bpe(folder / "bpe");
  write_file(folder / "train.txt", "hello\n<|endoftext|>\nhell");
  write_file(folder / "held.jsonl", "{\"text\": \"we\"}\n");
  tokenize({.inputs = {folder / "train.txt"},
            .output = folder / "data/",
            .tokenizer = folder / "bpe",
            .validation_inputs = {folder / "held.jsonl"}});
  const auto dataset = open_dataset(at(folder / "data"));
  CHECK(all_tokens(*dataset.train) == Ids{259, 'o' - 0x21, 262, 259, 262});
  CHECK(all_tokens(*dataset.validation) == Ids{'w' - 0x21, 'e' - 0x21, 262});
  CHECK(dataset.tokenizer == "gpt2");
  CHECK(open_tokenizer(dataset.tokenizer_path)->decode(all_tokens(*dataset.validation)) == "we<|endoftext|>");
  // Another vocabulary of the same size does not belong to the shards.
  replace(dataset.tokenizer_path / "encoder.json", "\"!\":0,", "\"!\":1,");
  replace(dataset.tokenizer_path / "encoder.json", "\"\\\"\":1,", "\"\\\"\":0,");
  CHECK(open_message(at(folder / "data")).starts_with(dataset.tokenizer_path.string() + ": its vocabulary (hash "));
}

TEST_CASE("a dataset whose parts do not fit is refused") {
  TemporaryFolder folder;
  tokenize_bytes(folder);
  const auto manifest = folder / "data/dataset.json", shard = folder / "data/train_00000.bin";
  const std::string good = read_file(manifest), payload = read_file(shard);
  const DataConfig config = at(folder / "data");
  CHECK(open_message(at(folder / "absent")) ==
        (folder / "absent/dataset.json").string() +
            ": cannot be read; expected a folder written by `sinkscope tokenize`");
  replace(manifest, "\"vocab_size\": 258", "\"vocab_size\": \"many\"");
  CHECK(open_message(config) ==
        manifest.string() +
            ": key \"vocab_size\": expected an integer from 1 to 2147483647, found the string \"many\"");
  write_file(manifest, good);
  replace(manifest, "  \"eos_id\": 257,\n", "");
  CHECK(open_message(config) == manifest.string() + ": no key \"eos_id\"");
  write_file(manifest, good);
  replace(manifest, "\"train_00000.bin\"", "\"../train_00000.bin\"");
  CHECK(open_message(config) == manifest.string() + ": train[0]: key \"file\": expected a file name without folders, "
                                                    "found the string \"../train_00000.bin\"");
  write_file(manifest, good);
  replace(manifest, "\"tokens\": 2000", "\"tokens\": 1999");
  CHECK(open_message(config) == shard.string() + ": its token count is 2000, " + manifest.string() + " says 1999");
  write_file(manifest, good);

  write_file(shard, payload.substr(0, payload.size() - 2));
  CHECK(open_message(config) ==
        shard.string() + ": truncated: the header says 2000 tokens of 2 bytes, the file holds 3998 bytes of them");
  std::string flipped = payload;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  write_file(shard, flipped);
  CHECK(open_message(config).starts_with(shard.string() + ": corrupt: checksum "));
  write_file(shard, payload);
  // A whole shard of another dataset, valid in itself.
  std::filesystem::copy_file(folder / "data/train_00001.bin", shard, std::filesystem::copy_options::overwrite_existing);
  CHECK(open_message(config).starts_with(shard.string() + ": its checksum is "));
  Ids tokens(2000, 1);
  const auto foreign = write_shards(folder.path(), "f", tokens, 258, 0xabc, 5000).front().file;
  std::filesystem::copy_file(foreign, shard, std::filesystem::copy_options::overwrite_existing);
  CHECK(open_message(config).find("its vocabulary (hash ") != std::string::npos);
  tokens[7] = 258;
  const auto beyond = write_shards(folder.path(), "g", tokens, 300, 0xabc, 5000).front().file;
  std::filesystem::copy_file(beyond, shard, std::filesystem::copy_options::overwrite_existing);
  CHECK(open_message(config) == shard.string() + ": token 258 at place 7 is outside the vocabulary of 258");

  DataConfig both = config;
  both.train = {shard.string()};
  CHECK(open_message(both) ==
        "data.path: give either a folder or shard lists (data.train, data.validation), not both");
  CHECK(open_message(DataConfig{}) == "data.path: give a folder written by `sinkscope tokenize`, or data.train");
}

TEST_CASE("tokenizing refuses bad input and leaves nothing behind") {
  TemporaryFolder folder;
  write_file(folder / "text.txt", "some text\n");
  write_file(folder / "empty.txt", "");
  write_file(folder / "bad.txt", "good\nb\xff" "d\n");
  write_file(folder / "taken/keep.txt", "kept");
  const auto before = names_in(folder.path());
  TokenizeOptions options{.inputs = {folder / "text.txt"}, .output = folder / "data", .tokenizer = "byte"};
  const auto message = [&](const TokenizeOptions& changed) { return message_of([&] { tokenize(changed); }); };
  auto changed = options;
  changed.output = folder / "taken";
  CHECK(message(changed) == (folder / "taken").string() + ": exists already; the output must be a new folder");
  CHECK(read_file(folder / "taken/keep.txt") == "kept");
  changed = options;
  changed.inputs = {folder / "empty.txt"};
  CHECK(message(changed) == (folder / "empty.txt").string() + ": the inputs hold no text to train on");
  changed.inputs = {};
  CHECK(message(changed) == "tokenize: no input files");
  changed.inputs = {folder / "text.txt", folder / "bad.txt", folder / "taken/../text.txt"};
  CHECK(message(changed) ==
        (folder / "taken/../text.txt").string() + ": is among the inputs twice; expected each file once");
  changed.inputs = {folder.path()};
  changed.validation_inputs = {folder / "text.txt"};
  CHECK(message(changed) ==
        (folder / "text.txt").string() + ": is among the inputs and among the validation files; expected it in one of "
                                         "them, since held-out text must not be trained on");
  changed.validation_inputs = {};
  changed.inputs = {folder / "text.txt", folder / "bad.txt"};
  CHECK(message(changed) == (folder / "bad.txt").string() + ": line 2: not valid UTF-8 at byte 1 of the line");
  changed = options;
  changed.validation_inputs = {folder / "empty.txt"};
  CHECK(message(changed) == "tokenize: the validation split is empty; give a larger fraction or other files");
  changed.validation_fraction = 0.1;
  CHECK(message(changed) == "tokenize: give a validation fraction or validation files, not both");
  changed = options;
  changed.validation_fraction = 1.0;
  CHECK(message(changed) == "tokenize: the validation fraction must be at least 0 and below 1, found 1.000000");
  changed = options;
  changed.shard_tokens = 0;
  CHECK(message(changed) == "a shard must hold at least 1 token, found 0");
  changed = options;
  changed.tokenizer = folder / "none";
  CHECK(message(changed).find("none: no such tokenizer; expected \"byte\"") != std::string::npos);
  CHECK(names_in(folder.path()) == before);
  CHECK(message(options).empty());
  CHECK(message(options) == (folder / "data").string() + ": exists already; the output must be a new folder");
}
