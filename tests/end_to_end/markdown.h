// The README as its tests read it: sections, fenced blocks, commands.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace sinkscope::test {

struct Fence {
  std::string language, body, section;  // section: the heading of level 2 that it stands under
};

struct Markdown {
  std::vector<Fence> fences;
  std::vector<std::string> commands;  // of ```bash blocks, a line each, and of inline code; in order, each once
  std::vector<std::string> names;     // inline `sinkscope WORD`, a command that is spoken of
};

/// Throws std::runtime_error for a backtick without another and for a command of several lines.
Markdown read_markdown(const std::string& text);

/// The text under a heading of level 2. Throws std::runtime_error where there is none.
std::string section_of(const std::string& text, const std::string& heading);

std::vector<std::string> lines_of(const std::string& text);

std::filesystem::path repository();
std::string readme_text();
Markdown readme();

}  // namespace sinkscope::test
