// Checkpoints of llama2.c: the converted folder computes what a plain reading of the file computes, and its tokenizer
// cuts texts as llama2.c does. SINKSCOPE_LLAMA2C names a real checkpoint and, after a colon, its tokenizer.bin, to be
// checked in the same way.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/data/tokenizer.h"
#include "engine/model/decoder.h"
#include "engine/model/random.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using test::contains;
using test::Outcome;
using test::Workplace;

using Doubles = std::vector<double>;

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

struct Sizes {
  std::int32_t dim = 24, hidden = 20, layers = 2, heads = 6, kv_heads = 3, vocab = 300, length = 16;
  bool tied = true;
};

/// A checkpoint of random numbers. The tables of angles, which nothing may read, hold none that are sensible.
std::string random_checkpoint(const Sizes& s, std::uint64_t seed) {
  std::string bytes;
  for (const std::int32_t value :
       {s.dim, s.hidden, s.layers, s.heads, s.kv_heads, s.tied ? s.vocab : -s.vocab, s.length})
    append(bytes, value);
  const std::int64_t head_size = s.dim / s.heads, key_rows = s.kv_heads * head_size;
  std::uint64_t index = 0;
  const auto normals = [&](std::int64_t count, double mean, double spread) {
    for (std::int64_t i = 0; i < count; ++i)
      append(bytes, static_cast<float>(mean + spread * random_normal(seed, index++)));
  };
  const double spread = 1.5 / std::sqrt(static_cast<double>(s.dim));
  normals(std::int64_t{s.vocab} * s.dim, 0.0, 1.0);
  normals(std::int64_t{s.layers} * s.dim, 1.0, 0.3);
  normals(std::int64_t{s.layers} * (2 * s.dim + 2 * key_rows) * s.dim, 0.0, spread);
  normals(std::int64_t{s.layers} * s.dim, 1.0, 0.3);
  normals(std::int64_t{s.layers} * 3 * s.hidden * s.dim, 0.0, spread);
  normals(s.dim, 1.0, 0.3);
  normals(std::int64_t{s.length} * head_size, 1e4, 1.0);
  if (!s.tied) normals(std::int64_t{s.vocab} * s.dim, 0.0, spread);
  return bytes;
}

/// A token of a tokenizer.bin.
struct Token {
  std::string text;
  float score = 0;
};

std::string tokenizer_file(const std::vector<Token>& tokens) {
  std::string bytes;
  append(bytes, std::int32_t{9});
  for (const Token& token : tokens) {
    append(bytes, token.score);
    append(bytes, static_cast<std::int32_t>(token.text.size()));
    bytes += token.text;
  }
  return bytes;
}

/// 300 tokens: the special ones, bytes, characters and what they merge into.
std::vector<Token> small_vocabulary() {
  std::vector<Token> tokens = {{"<unk>"}, {"\n<s>\n"}, {"\n</s>\n"}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[7];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
    tokens.push_back({name});
  }
  std::vector<std::string> pieces = {"at",        " c", "ca",  "th", " th", "he",   " the", " cat",
                                     "\xC3\xA9t", "an", " an", "  ", "and", " and", " at",  "tt"};
  for (const char c : std::string(" abcdehnots.,xyz")) pieces.emplace_back(1, c);
  pieces.insert(pieces.end(), {"\xC3\xA9", "\xE2\x82\xAC"});
  float score = 0;
  for (const std::string& piece : pieces) tokens.push_back({piece, -score++});
  while (tokens.size() < 300) tokens.push_back({"unused" + std::to_string(tokens.size()), -1e6F});
  return tokens;
}

/// The transformer as llama2.c's run.c defines it, read from the file's bytes in double precision.
class PlainModel {
 public:
  explicit PlainModel(const std::string& bytes) {
    std::int32_t header[7];
    std::memcpy(header, bytes.data(), sizeof(header));
    dim_ = header[0], hidden_ = header[1], layers_ = header[2], heads_ = header[3], kv_heads_ = header[4];
    vocab_ = std::abs(header[5]), length_ = header[6];
    const float* next = reinterpret_cast<const float*>(bytes.data() + sizeof(header));
    const auto take = [&](std::int64_t count) {
      const float* begin = next;
      next += count;
      return begin;
    };
    const std::int64_t size = dim_ / heads_, key_rows = kv_heads_ * size;
    embedding_ = take(vocab_ * dim_);
    attention_norm_ = take(layers_ * dim_);
    wq_ = take(layers_ * dim_ * dim_), wk_ = take(layers_ * key_rows * dim_), wv_ = take(layers_ * key_rows * dim_);
    wo_ = take(layers_ * dim_ * dim_);
    mlp_norm_ = take(layers_ * dim_);
    w1_ = take(layers_ * hidden_ * dim_), w2_ = take(layers_ * dim_ * hidden_), w3_ = take(layers_ * hidden_ * dim_);
    last_norm_ = take(dim_);
    take(length_ * size);
    head_ = header[5] > 0 ? embedding_ : take(vocab_ * dim_);
    REQUIRE(reinterpret_cast<const char*>(next) == bytes.data() + bytes.size());
    keys_.resize(static_cast<std::size_t>(layers_)), values_.resize(static_cast<std::size_t>(layers_));
  }

  std::int64_t vocab() const { return vocab_; }
  std::int64_t length() const { return length_; }

  /// Logits after one more token.
  Doubles step(std::int64_t token) {
    Doubles x(embedding_ + token * dim_, embedding_ + (token + 1) * dim_);
    for (std::int64_t l = 0; l < layers_; ++l) {
      add(x, attention(l, normed(x, attention_norm_ + l * dim_)));
      const Doubles y = normed(x, mlp_norm_ + l * dim_);
      Doubles gate = product(w1_ + l * hidden_ * dim_, y, hidden_);
      const Doubles up = product(w3_ + l * hidden_ * dim_, y, hidden_);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1.0 + std::exp(-gate[i]));
      add(x, product(w2_ + l * dim_ * hidden_, gate, dim_));
    }
    ++position_;
    return product(head_, normed(x, last_norm_), vocab_);
  }

 private:
  static void add(Doubles& x, const Doubles& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static Doubles product(const float* matrix, const Doubles& x, std::int64_t rows) {
    Doubles out(static_cast<std::size_t>(rows), 0.0);
    for (double& sum : out)
      for (const double value : x) sum += static_cast<double>(*matrix++) * value;
    return out;
  }
  static Doubles normed(const Doubles& x, const float* weight) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5);
    Doubles out = x;
    for (double& value : out) value *= scale * static_cast<double>(*weight++);
    return out;
  }
  /// Turns neighbours 2i and 2i+1 of every head.
  void rotate(Doubles& x) const {
    const auto size = static_cast<std::size_t>(dim_ / heads_);
    for (std::size_t i = 0; i < x.size(); i += 2) {
      const double exponent = static_cast<double>(i % size) / static_cast<double>(size);
      const double angle = static_cast<double>(position_) / std::pow(10000.0, exponent);
      const double a = x[i], b = x[i + 1];
      x[i] = a * std::cos(angle) - b * std::sin(angle);
      x[i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
  }
  Doubles attention(std::int64_t l, const Doubles& x) {
    const std::int64_t size = dim_ / heads_, key_rows = kv_heads_ * size;
    Doubles q = product(wq_ + l * dim_ * dim_, x, dim_), k = product(wk_ + l * key_rows * dim_, x, key_rows);
    rotate(q), rotate(k);
    auto& keys = keys_[static_cast<std::size_t>(l)];
    auto& values = values_[static_cast<std::size_t>(l)];
    keys.push_back(k);
    values.push_back(product(wv_ + l * key_rows * dim_, x, key_rows));
    Doubles mixed(q.size(), 0.0);
    for (std::int64_t h = 0; h < heads_; ++h) {
      const std::int64_t from = h * size, shared = h / (heads_ / kv_heads_) * size;
      Doubles weights;
      for (const Doubles& key : keys) {
        double score = 0;
        for (std::int64_t d = 0; d < size; ++d)
          score += q[static_cast<std::size_t>(from + d)] * key[static_cast<std::size_t>(shared + d)];
        weights.push_back(score / std::sqrt(static_cast<double>(size)));
      }
      const double largest = *std::max_element(weights.begin(), weights.end());
      double total = 0;
      for (double& weight : weights) total += weight = std::exp(weight - largest);
      for (std::size_t t = 0; t < values.size(); ++t)
        for (std::int64_t d = 0; d < size; ++d)
          mixed[static_cast<std::size_t>(from + d)] +=
              weights[t] / total * values[t][static_cast<std::size_t>(shared + d)];
    }
    return product(wo_ + l * dim_ * dim_, mixed, dim_);
  }

  std::int64_t dim_ = 0, hidden_ = 0, layers_ = 0, heads_ = 0, kv_heads_ = 0, vocab_ = 0, length_ = 0, position_ = 0;
  const float *embedding_ = nullptr, *attention_norm_ = nullptr, *wq_ = nullptr, *wk_ = nullptr, *wv_ = nullptr,
              *wo_ = nullptr, *mlp_norm_ = nullptr, *w1_ = nullptr, *w2_ = nullptr, *w3_ = nullptr,
              *last_norm_ = nullptr, *head_ = nullptr;
  std::vector<std::vector<Doubles>> keys_, values_;  // of every layer and position
};

/// The tokens that the plain model finds most likely, one after the other, from BOS on.
std::vector<std::int32_t> likeliest_tokens(const std::string& checkpoint, std::int64_t count) {
  PlainModel model(checkpoint);
  std::vector<std::int32_t> tokens = {1};
  while (static_cast<std::int64_t>(tokens.size()) < count) {
    const Doubles logits = model.step(tokens.back());
    tokens.push_back(static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return tokens;
}

/// The decoder that a converted folder holds against the plain model, on these tokens.
void check_logits(const std::filesystem::path& folder, const std::string& checkpoint,
                  const std::vector<std::int32_t>& tokens) {
  const ModelConfig config = model_config_from_hugging_face(folder);
  const auto ops = make_cpu_ops(1);
  const auto T = static_cast<std::int64_t>(tokens.size());
  Decoder decoder(*ops, config, {.max_sequences = 1, .max_length = T, .training = false});
  std::vector<float> parameters(static_cast<std::size_t>(decoder.layout().flat_size()));
  load_hugging_face(folder, config, parameters);
  ops->copy_from_host(decoder.parameters(), parameters.data());
  decoder.forward(1, T, tokens.data());

  PlainModel plain(checkpoint);
  REQUIRE(config.vocab_size == plain.vocab());
  CHECK(config.max_sequence_length == plain.length());
  std::vector<float> logits(static_cast<std::size_t>(config.vocab_size));
  for (std::int64_t t = 0; t < T; ++t) {
    const Doubles expected = plain.step(tokens[static_cast<std::size_t>(t)]);
    decoder.logits(t, logits.data());
    double difference = 0, norm = 0;
    for (std::size_t v = 0; v < expected.size(); ++v) {
      difference += std::pow(static_cast<double>(logits[v]) - expected[v], 2);
      norm += expected[v] * expected[v];
    }
    INFO("position " << t);
    CHECK(std::sqrt(difference) < 1e-5 * std::sqrt(norm));
  }
}

Outcome convert(const Workplace& place, const std::string& arguments) {
  return place.run("convert-llama2c " + arguments + " --output out");
}

#ifdef SINKSCOPE_SENTENCEPIECE
std::vector<Token> read_tokens(const std::string& bytes) {
  std::vector<Token> tokens;
  for (std::size_t at = sizeof(std::int32_t); at < bytes.size();) {
    Token& token = tokens.emplace_back();
    std::int32_t length = 0;
    std::memcpy(&token.score, bytes.data() + at, sizeof(float));
    std::memcpy(&length, bytes.data() + at + sizeof(float), sizeof(length));
    token.text = bytes.substr(at + 8, static_cast<std::size_t>(length));
    at += 8 + static_cast<std::size_t>(length);
  }
  return tokens;
}

/// Tokens as run.c finds them: a space in front, characters (or their bytes), then the best merge while there is one.
std::vector<std::int32_t> plain_encode(const std::vector<Token>& tokens, const std::string& text) {
  const auto find = [&](const std::string& piece) -> std::optional<std::int32_t> {
    for (std::size_t id = 0; id < tokens.size(); ++id)
      if (tokens[id].text == piece) return static_cast<std::int32_t>(id);
    return std::nullopt;
  };
  std::vector<std::int32_t> ids;
  const std::string padded = " " + text;
  for (std::size_t at = 0; at < padded.size();) {
    std::size_t end = at + 1;
    while (end < padded.size() && (static_cast<unsigned char>(padded[end]) & 0xC0U) == 0x80U) ++end;
    if (const auto id = find(padded.substr(at, end - at)))
      ids.push_back(*id);
    else
      for (std::size_t i = at; i < end; ++i) ids.push_back(3 + static_cast<unsigned char>(padded[i]));
    at = end;
  }
  while (true) {
    std::optional<std::int32_t> best;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merged =
          find(tokens[static_cast<std::size_t>(ids[i])].text + tokens[static_cast<std::size_t>(ids[i + 1])].text);
      if (!merged) continue;
      if (best && tokens[static_cast<std::size_t>(*merged)].score <= tokens[static_cast<std::size_t>(*best)].score)
        continue;
      best = merged, place = i;
    }
    if (!best) return ids;
    ids[place] = *best;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

void check_tokenizer(const std::filesystem::path& model, const std::vector<Token>& tokens,
                     const std::vector<std::string>& texts) {
  const auto tokenizer = open_tokenizer(model);
  CHECK(tokenizer->vocab_size() == static_cast<std::int64_t>(tokens.size()));
  CHECK(tokenizer->bos_id() == 1);
  CHECK(tokenizer->eos_id() == 2);
  for (const std::string& text : texts) {
    INFO(text);
    const std::vector<std::int32_t> ids = tokenizer->encode(text);
    CHECK(ids == plain_encode(tokens, text));
    CHECK(tokenizer->decode(ids) == text);
  }
}
#endif

/// The checkpoint and tokenizer that SINKSCOPE_LLAMA2C names.
void check_given_files(const std::string& given) {
  const std::size_t colon = given.find(':');
  const std::filesystem::path checkpoint = given.substr(0, colon);
  const std::string tokenizer = colon == std::string::npos ? "" : given.substr(colon + 1);
  const Workplace place;
  const Outcome outcome =
      convert(place, "'" + checkpoint.string() + "'" + (tokenizer.empty() ? "" : " --tokenizer '" + tokenizer + "'"));
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  const std::string bytes = test::read_file(checkpoint);
  const std::vector<std::int32_t> tokens = likeliest_tokens(bytes, 120);
  check_logits(place.path() / "out", bytes, tokens);
#ifdef SINKSCOPE_SENTENCEPIECE
  if (tokenizer.empty()) return;
  const auto converted = open_tokenizer(place.path() / "out/tokenizer.model");
  WARN("greedily from BOS: " << converted->decode(tokens));
  check_tokenizer(place.path() / "out/tokenizer.model", read_tokens(test::read_file(tokenizer)),
                  {"Once upon a time, there was a little girl named Lily.", "She said,  \"caf\xC3\xA9\"!\nThe end."});
#endif
}

}  // namespace

TEST_CASE("a converted llama2.c checkpoint computes what the file says, head tied and not") {
  for (const Sizes& sizes :
       {Sizes{}, Sizes{.kv_heads = 6, .tied = false},
        Sizes{
            .dim = 16, .hidden = 7, .layers = 3, .heads = 1, .kv_heads = 1, .vocab = 11, .length = 9, .tied = false}}) {
    const Workplace place;
    const std::string checkpoint = random_checkpoint(sizes, 5);
    place.write("model.bin", checkpoint);
    const Outcome outcome = convert(place, "model.bin");
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    std::vector<std::int32_t> tokens;
    for (std::int64_t t = 0; t < sizes.length; ++t)
      tokens.push_back(static_cast<std::int32_t>(random_bits(6, static_cast<std::uint64_t>(t)) %
                                                 static_cast<std::uint64_t>(sizes.vocab)));
    check_logits(place.path() / "out", checkpoint, tokens);
    CHECK(!std::filesystem::exists(place.path() / "out/tokenizer.model"));
  }
  if (const char* given = std::getenv("SINKSCOPE_LLAMA2C")) check_given_files(given);
}

#ifdef SINKSCOPE_SENTENCEPIECE
TEST_CASE("a llama2.c tokenizer becomes a sentencepiece model that cuts texts alike") {
  const Workplace place;
  place.write("model.bin", random_checkpoint({}, 7));
  const std::vector<Token> tokens = small_vocabulary();
  place.write("tokenizer.bin", tokenizer_file(tokens));
  const Outcome outcome = convert(place, "model.bin --tokenizer tokenizer.bin");
  INFO(outcome.output);
  REQUIRE(outcome.status == 0);
  check_tokenizer(place.path() / "out/tokenizer.model", tokens,
                  {"the cat and the dog", "the  cat, at the  hat.", "\xC3\xA9t\xC3\xA9 and \xE2\x82\xAC",
                   "bytes: \xE6\xBC\xA2 \xF0\x9F\x98\x80\n\tq", "t", "xyz the"});
  CHECK(contains(place.read("out/tokenizer_config.json"), "LlamaTokenizer"));
  // The folder that the tokenizer was made in is gone.
  for (const auto& entry : std::filesystem::directory_iterator(place.path()))
    CHECK(!contains(entry.path().filename().string(), ".out"));
}
#endif

TEST_CASE("llama2.c files that are not whole or not what they say are refused, and nothing is left") {
  const Workplace place;
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const Outcome outcome = convert(place, arguments);
    CHECK(outcome.status == 1);
    INFO(outcome.output);
    CHECK(contains(outcome.output, message));
    CHECK(!std::filesystem::exists(place.path() / "out"));
  };
  const auto changed = [&](std::size_t place_of_header, std::int32_t value) {
    std::string bytes = random_checkpoint({}, 8);
    std::memcpy(bytes.data() + place_of_header * sizeof(value), &value, sizeof(value));
    place.write("bad.bin", bytes);
  };
  const std::string whole = random_checkpoint({}, 8);
  place.write("bad.bin", whole.substr(0, whole.size() - 4));
  refused("bad.bin", "bad.bin: " + std::to_string(whole.size() - 4) + " bytes, expected " +
                         std::to_string(whole.size()) +
                         " for dim 24, hidden_dim 20, n_layers 2, n_heads 6, n_kv_heads 3, vocab_size 300, seq_len 16");
  place.write("bad.bin", whole + "1234");
  refused("bad.bin",
          "bad.bin: " + std::to_string(whole.size() + 4) + " bytes, expected " + std::to_string(whole.size()));
  place.write("bad.bin", "short");
  refused("bad.bin", "bad.bin: 5 bytes, a llama2.c checkpoint begins with 28");
  changed(0, 0x616b3432);
  refused("bad.bin", "bad.bin: is a llama2.c checkpoint of version 20, expected version 0, without magic");
  changed(2, 0);
  refused("bad.bin", "bad.bin: n_layers is 0, expected 1 to 1024");
  for (const int size : {-1, 2}) {
    changed(5, size);
    refused("bad.bin", "bad.bin: vocab_size is " + std::to_string(size) +
                           ", expected 3, of which the last is EOS, to 16777216, or that below 0 for an untied head");
  }
  changed(3, 24);
  refused("bad.bin", "bad.bin: dim is 24, expected heads of an even size: a multiple of twice n_heads (24)");
  changed(4, 4);
  refused("bad.bin", "bad.bin: n_heads is 6, expected a multiple of n_kv_heads (4)");
  refused("none.bin", "none.bin: ");

  place.write("model.bin", whole);
  const auto bad_tokenizer = [&](const std::string& bytes, const std::string& message) {
    place.write("bad-tokenizer.bin", bytes);
    refused("model.bin --tokenizer bad-tokenizer.bin", "bad-tokenizer.bin: " + message);
  };
  const std::vector<Token> good = small_vocabulary();
  const std::string file = tokenizer_file(good);
  bad_tokenizer(file.substr(0, 6), "ends after 6 bytes, within token 0, expected 300 tokens as the checkpoint has");
  bad_tokenizer(file.substr(0, file.size() - 3), "token 299 has 9 bytes, expected 1 to the 6 that follow");
  bad_tokenizer(file + "x", std::to_string(file.size() + 1) + " bytes, expected " + std::to_string(file.size()) +
                                " for the 300 tokens that the checkpoint has");
  std::vector<Token> bad = good;
  bad[1].text = "<bos>";
  bad_tokenizer(tokenizer_file(bad), "token 1 is \"<bos>\", expected \"<s>\"");
  bad = good;
  bad[290].text = "at";
  bad_tokenizer(tokenizer_file(bad), "token 290 is \"at\", which token 259 is too");
  bad = good;
  bad[5].text = "<0x2>";
  bad_tokenizer(tokenizer_file(bad), "255 tokens stand for single bytes, expected 256, \"<0x00>\" to \"<0xFF>\"");
  bad = good;
  bad[270].text = "\xC3";
  bad_tokenizer(tokenizer_file(bad), "token 270 is not UTF-8");
  bad = good;
  bad[270].score = std::nanf("");
  bad_tokenizer(tokenizer_file(bad), "token 270 has a score that is not finite");

  place.write("out", "mine");
  CHECK(contains(convert(place, "model.bin").output, "out: already exists"));
  CHECK(place.read("out") == "mine");
}

}  // namespace sinkscope
