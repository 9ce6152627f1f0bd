#include "engine/data/text_source.h"

#include <zstd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "engine/config/json_text.h"
#include "engine/data/utf8.h"

namespace sinkscope {
namespace {

/// The bytes of a file, decompressed when its name ends in .zst, a block at a time.
class ByteReader {
 public:
  explicit ByteReader(const std::filesystem::path& path) : path_(path), file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error(path.string() + ": cannot be read");
    if (path.extension() == ".zst") {
      decoder_.reset(ZSTD_createDStream());
      if (!decoder_) throw std::bad_alloc();
      compressed_.resize(ZSTD_DStreamInSize());
    }
  }

  /// Replaces `block` by the next bytes; empty at the end.
  void read(std::string& block) {
    block.resize(kBlock);
    if (!decoder_) {
      block.resize(read_file(block.data(), block.size()));
      return;
    }
    ZSTD_outBuffer output{block.data(), block.size(), 0};
    while (output.pos == 0) {
      if (input_.pos == input_.size) {
        input_ = {compressed_.data(), read_file(compressed_.data(), compressed_.size()), 0};
        if (input_.size == 0) {
          if (inside_frame_) throw std::runtime_error(path_.string() + ": the zstd stream is truncated");
          break;
        }
      }
      const std::size_t result = ZSTD_decompressStream(decoder_.get(), &output, &input_);
      if (ZSTD_isError(result))
        throw std::runtime_error(path_.string() + ": not a zstd stream: " + ZSTD_getErrorName(result));
      inside_frame_ = result != 0;
    }
    block.resize(output.pos);
  }

 private:
  static constexpr std::size_t kBlock = std::size_t{1} << 18;

  struct DecoderFree {
    void operator()(ZSTD_DStream* decoder) const { ZSTD_freeDStream(decoder); }
  };

  std::size_t read_file(char* to, std::size_t size) {
    file_.read(to, static_cast<std::streamsize>(size));
    if (file_.bad()) throw std::runtime_error(path_.string() + ": cannot be read");
    return static_cast<std::size_t>(file_.gcount());
  }

  std::filesystem::path path_;
  std::ifstream file_;
  std::unique_ptr<ZSTD_DStream, DecoderFree> decoder_;
  std::vector<char> compressed_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool inside_frame_ = false;
};

/// Lines with their break, checked to be UTF-8; a byte order mark at the start is dropped.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path) : path_(path), bytes_(path) {}

  bool next(std::string& line) {
    line.clear();
    while (true) {
      const std::size_t end = block_.find('\n', at_);
      line.append(block_, at_, end == std::string::npos ? std::string::npos : end + 1 - at_);
      at_ = end == std::string::npos ? block_.size() : end + 1;
      if (end != std::string::npos) break;
      bytes_.read(block_);
      at_ = 0;
      if (block_.empty()) break;
    }
    if (line.empty()) return false;
    ++number_;
    if (const auto offset = first_invalid_utf8(line))
      throw std::runtime_error(where() + "not valid UTF-8 at byte " + std::to_string(*offset) + " of the line");
    if (number_ == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
    return true;
  }

  std::string where() const { return path_.string() + ": line " + std::to_string(number_) + ": "; }

 private:
  std::filesystem::path path_;
  ByteReader bytes_;
  std::string block_;
  std::size_t at_ = 0;
  std::int64_t number_ = 0;
};

std::string_view without_break(std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

bool read_plain(LineReader& reader, const std::string& separator, const std::function<bool(std::string_view)>& use) {
  std::string document, line;
  const auto finish = [&] {
    const std::string_view text = separator.empty() ? std::string_view(document) : without_break(document);
    const bool go_on = text.empty() || use(text);
    document.clear();
    return go_on;
  };
  while (reader.next(line)) {
    if (separator.empty() || without_break(line) != separator)
      document += line;
    else if (!finish())
      return false;
  }
  return finish();
}

bool read_json_lines(LineReader& reader, const std::string& key, const std::function<bool(std::string_view)>& use) {
  std::string line;
  while (reader.next(line)) {
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    std::string where = reader.where();
    const auto json = parse_strict(without_break(line), where.substr(0, where.size() - 2));
    if (!json.is_object()) throw std::runtime_error(where + "expected a JSON object, found " + describe_value(json));
    const auto text = json.find(key);
    if (text == json.end()) throw std::runtime_error(where + "no key " + in_quotes(key));
    if (!text->is_string())
      throw std::runtime_error(where + "key " + in_quotes(key) + ": expected a string, found " + describe_value(*text));
    const auto& content = text->get_ref<const std::string&>();
    if (!content.empty() && !use(content)) return false;
  }
  return true;
}

/// The extension below .zst.
std::filesystem::path text_extension(const std::filesystem::path& file) {
  return file.extension() == ".zst" ? file.stem().extension() : file.extension();
}

}  // namespace

bool is_text_file(const std::filesystem::path& file) {
  const auto extension = text_extension(file);
  return extension == ".txt" || extension == ".jsonl";
}

std::vector<std::filesystem::path> list_text_files(const std::vector<std::filesystem::path>& inputs) {
  std::vector<std::filesystem::path> files;
  for (const auto& input : inputs) {
    if (!std::filesystem::exists(input)) throw std::runtime_error(input.string() + ": no such file or folder");
    if (!std::filesystem::is_directory(input)) {
      if (!is_text_file(input))
        throw std::runtime_error(input.string() + ": expected .txt, .jsonl, .txt.zst, .jsonl.zst, or a folder of them");
      files.push_back(input);
      continue;
    }
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(input))
      if (entry.is_regular_file() && is_text_file(entry.path())) found.push_back(entry.path());
    if (found.empty())
      throw std::runtime_error(input.string() + ": no .txt, .jsonl, .txt.zst or .jsonl.zst in this folder");
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  std::set<std::filesystem::path> seen;
  for (const auto& file : files)
    if (!seen.insert(std::filesystem::canonical(file)).second)
      throw std::runtime_error(file.string() + ": is among the inputs twice; expected each file once");
  return files;
}

void for_each_document(const std::vector<std::filesystem::path>& files, const TextOptions& options,
                       const std::function<bool(std::string_view)>& use) {
  for (const auto& file : files) {
    LineReader reader(file);
    const bool go_on = text_extension(file) == ".jsonl" ? read_json_lines(reader, options.text_key, use)
                                                        : read_plain(reader, options.document_separator, use);
    if (!go_on) return;
  }
}

}  // namespace sinkscope
