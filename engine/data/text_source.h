// Documents out of text files.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

struct TextOptions {
  std::string text_key = "text";
  std::string document_separator = "<|endoftext|>";  // a line of its own in .txt; empty: one document a file
};

/// Is this a name we read: .txt, .jsonl, or .zst of either?
bool is_text_file(const std::filesystem::path& file);

/// The files that `inputs` name, folders searched recursively and sorted by path. Throws
/// std::runtime_error naming an input that is missing, of another kind, or a folder without texts, and a file that
/// they name twice.
std::vector<std::filesystem::path> list_text_files(const std::vector<std::filesystem::path>& inputs);

/// Calls `use` with each document that is not empty, in order, until it returns false. The line
/// break before a separator or the end of a .txt belongs to neither document. Throws
/// std::runtime_error naming file and line for invalid UTF-8 (also a file that cannot be read, a
/// truncated .zst, a JSON line without `text_key`).
void for_each_document(const std::vector<std::filesystem::path>& files, const TextOptions& options,
                       const std::function<bool(std::string_view)>& use);

}  // namespace sinkscope
