#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <unordered_map>

#include "engine/data/tokenizer.h"
#include "engine/data/vocabulary.h"
#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

constexpr const char* kEndOfText = "<|endoftext|>";

// The pattern of Radford et al. 2019 (`encoder.py`), with \s written out as Unicode's White_Space,
// which PCRE2's own \s exceeds by U+180E.
#define SINKSCOPE_SPACE R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr std::string_view kPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{L}\p{N})" SINKSCOPE_SPACE "]+|[" SINKSCOPE_SPACE
    "]+(?![^" SINKSCOPE_SPACE "])|[" SINKSCOPE_SPACE "]+";
#undef SINKSCOPE_SPACE

/// Splits text by kPattern. Matching is const and safe for concurrent callers.
class Splitter {
 public:
  Splitter() {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(), PCRE2_UTF, &error,
                              &offset, nullptr));
    if (!code_) throw std::runtime_error("PCRE2 does not compile GPT-2's pattern: " + message(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
  }

  /// Calls `use` with each word of `text` (valid UTF-8) in order; together they are the text.
  template <class Use>
  void split(std::string_view text, Use&& use) const {
    const std::unique_ptr<pcre2_match_data, MatchDataFree> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (!match) throw std::bad_alloc();
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    PCRE2_SIZE at = 0;
    while (at < text.size()) {
      const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                     PCRE2_NO_UTF_CHECK, match.get(), nullptr);
      if (result < 0) throw std::runtime_error("PCRE2 cannot split the text: " + message(result));
      use(text.substr(range[0], range[1] - range[0]));
      at = range[1];
    }
  }

 private:
  struct CodeFree {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  struct MatchDataFree {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };

  static std::string message(int error) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
  }

  std::unique_ptr<pcre2_code, CodeFree> code_;
};

/// The character that stands for each byte in the files: printable Latin-1 characters stand for
/// themselves, the others, in order, for U+0100 and up (`bytes_to_unicode` of the same source).
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> characters;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int code = printable ? byte : next++;
    auto& text = characters[static_cast<std::size_t>(byte)];
    if (code < 0x80) {
      text = std::string(1, static_cast<char>(code));
    } else {
      text = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    }
  }
  return characters;
}

struct Merge {
  std::int32_t rank = 0;    // lower merges first
  std::int32_t merged = 0;  // id
};

class Gpt2Tokenizer final : public Tokenizer {
 public:
  Gpt2Tokenizer(std::filesystem::path encoder_json, std::filesystem::path vocab_bpe)
      : encoder_json_(std::move(encoder_json)), vocab_bpe_(std::move(vocab_bpe)) {
    const auto ids = read_encoder();
    read_merges(ids);
    hash_ = hash_vocabulary(pieces_);
  }

  std::string kind() const override { return "gpt2"; }
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(pieces_.size()); }
  std::int32_t bos_id() const override { return end_of_text_; }
  std::int32_t eos_id() const override { return end_of_text_; }
  std::uint64_t vocab_hash() const override { return hash_; }
  std::vector<std::filesystem::path> files() const override { return {encoder_json_, vocab_bpe_}; }

  /// "<|endoftext|>" in the text is text: it never becomes the special token.
  std::vector<std::int32_t> encode(std::string_view text) const override {
    require_utf8(text);
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 3);
    std::vector<std::int32_t> word;
    splitter_.split(text, [&](std::string_view part) {
      word.clear();
      for (const char c : part) word.push_back(byte_ids_[static_cast<unsigned char>(c)]);
      if (word.size() <= kShortWord)
        merge_short(word);
      else
        merge_long(word);
      ids.insert(ids.end(), word.begin(), word.end());
    });
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    require_ids(ids, vocab_size());
    std::string text;
    for (const std::int32_t id : ids) text += pieces_[static_cast<std::size_t>(id)];
    return text;
  }

 private:
  using Ids = std::unordered_map<std::string, std::int32_t>;  // by the text in the files
  static constexpr std::size_t kShortWord = 48;               // bytes; above, the quadratic merge is slower

  static std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }

  const Merge* find_merge(std::int32_t left, std::int32_t right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

  Ids read_encoder() {
    const std::string name = encoder_json_.string();
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(read_text_file(encoder_json_));
    } catch (const nlohmann::json::exception& error) {
      throw std::runtime_error(name + ": invalid JSON: " + error.what());
    }
    if (!json.is_object() || json.empty())
      throw std::runtime_error(name + ": expected an object of tokens and their ids");
    const auto characters = byte_characters();
    std::unordered_map<std::string, char> bytes;
    for (std::size_t byte = 0; byte < 256; ++byte) bytes.emplace(characters[byte], static_cast<char>(byte));

    const auto size = static_cast<std::int64_t>(json.size());
    Ids ids;
    pieces_.resize(json.size());
    std::vector<bool> seen(json.size());
    for (const auto& [token, value] : json.items()) {
      const std::int64_t id = value.is_number_unsigned() ? value.get<std::int64_t>() : -1;
      if (id < 0 || id >= size || seen[static_cast<std::size_t>(id)])
        throw std::runtime_error(name + ": token \"" + token + "\": expected an id of its own in [0, " +
                                 std::to_string(size) + "), found " + value.dump());
      seen[static_cast<std::size_t>(id)] = true;
      ids.emplace(token, static_cast<std::int32_t>(id));
      pieces_[static_cast<std::size_t>(id)] = token == kEndOfText ? token : to_bytes(token, bytes, name);
    }
    const auto need = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) throw std::runtime_error(name + ": token \"" + token + "\" is missing");
      return found->second;
    };
    end_of_text_ = need(kEndOfText);
    for (std::size_t byte = 0; byte < 256; ++byte) byte_ids_[byte] = need(characters[byte]);
    return ids;
  }

  static std::string to_bytes(const std::string& token, const std::unordered_map<std::string, char>& bytes,
                              const std::string& name) {
    std::string piece;
    for (std::size_t at = 0; at < token.size();) {
      const std::size_t length = static_cast<unsigned char>(token[at]) < 0x80 ? 1 : 2;
      const auto found = bytes.find(token.substr(at, length));
      if (found == bytes.end())
        throw std::runtime_error(name + ": token \"" + token + "\" holds a character that stands for no byte");
      piece.push_back(found->second);
      at += length;
    }
    return piece;
  }

  void read_merges(const Ids& ids) {
    std::istringstream file(read_text_file(vocab_bpe_));
    std::string line;
    std::int32_t rank = 0;
    for (std::int64_t number = 1; std::getline(file, line); ++number) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
      const std::string where = vocab_bpe_.string() + ": line " + std::to_string(number) + ": ";
      const auto space = line.find(' ');
      if (space == std::string::npos || space == 0 || space + 1 == line.size() ||
          line.find(' ', space + 1) != std::string::npos)
        throw std::runtime_error(where + "expected two tokens, found \"" + line + "\"");
      const std::string left = line.substr(0, space), right = line.substr(space + 1);
      const auto need = [&](const std::string& token) {
        const auto found = ids.find(token);
        if (found == ids.end())
          throw std::runtime_error(where + "token \"" + token + "\" is not in " + encoder_json_.string());
        return found->second;
      };
      const std::uint64_t key = pair_key(need(left), need(right));
      if (!merges_.emplace(key, Merge{rank++, need(left + right)}).second)
        throw std::runtime_error(where + "\"" + line + "\" was given before");
    }
    if (merges_.empty()) throw std::runtime_error(vocab_bpe_.string() + ": holds no merges");
  }

  /// Merges the pair of lowest rank, leftmost first, until none is left; each turn looks at all.
  void merge_short(std::vector<std::int32_t>& word) const {
    while (word.size() > 1) {
      const Merge* best = nullptr;
      std::size_t place = 0;
      for (std::size_t i = 0; i + 1 < word.size(); ++i) {
        const Merge* merge = find_merge(word[i], word[i + 1]);
        if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
          best = merge;
          place = i;
        }
      }
      if (best == nullptr) return;
      word[place] = best->merged;
      word.erase(word.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
  }

  /// The same with a heap of pairs and links between the symbols that remain: n log n, for the long
  /// runs of one character that real text has.
  void merge_long(std::vector<std::int32_t>& word) const {
    const std::size_t count = word.size();
    std::vector<std::size_t> next(count), previous(count);
    for (std::size_t i = 0; i < count; ++i) {
      next[i] = i + 1;
      previous[i] = i - 1;  // of the first: never used
    }
    std::vector<bool> gone(count);
    // rank, place, and the two ids at the time, to recognize pairs that have changed since
    using Candidate = std::tuple<std::int32_t, std::size_t, std::int32_t, std::int32_t>;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
    const auto push = [&](std::size_t i) {
      if (next[i] >= count) return;
      if (const Merge* merge = find_merge(word[i], word[next[i]])) heap.emplace(merge->rank, i, word[i], word[next[i]]);
    };
    for (std::size_t i = 0; i + 1 < count; ++i) push(i);
    while (!heap.empty()) {
      const auto [rank, i, left, right] = heap.top();
      heap.pop();
      if (gone[i] || word[i] != left || next[i] >= count || word[next[i]] != right) continue;
      const std::size_t removed = next[i];
      word[i] = find_merge(left, right)->merged;
      gone[removed] = true;
      next[i] = next[removed];
      if (next[i] < count) previous[next[i]] = i;
      push(i);
      if (i > 0) push(previous[i]);
    }
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; i = next[i]) word[kept++] = word[i];
    word.resize(kept);
  }

  std::filesystem::path encoder_json_;
  std::filesystem::path vocab_bpe_;
  Splitter splitter_;
  std::vector<std::string> pieces_;  // bytes, by id
  std::array<std::int32_t, 256> byte_ids_{};
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::int32_t end_of_text_ = -1;
  std::uint64_t hash_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_gpt2_tokenizer(const std::filesystem::path& encoder_json,
                                               const std::filesystem::path& vocab_bpe) {
  return std::make_unique<Gpt2Tokenizer>(encoder_json, vocab_bpe);
}

}  // namespace sinkscope
