#include "tests/end_to_end/markdown.h"

#include <algorithm>
#include <stdexcept>

#include "tests/files.h"

namespace sinkscope::test {
namespace {

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\n"), end = text.find_last_not_of(" \t\n");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

/// Without the comment at its end.
std::string command_of_line(const std::string& line) {
  if (line.starts_with("#")) return "";
  return trimmed(line.substr(0, line.find(" #")));
}

bool is_command(const std::string& code) {
  static const std::vector<std::string> kBegins = {"sinkscope ", "scripts/", "cmake ", "ctest", "tests/interop/",
                                                   "ssh ", "python3 ", "pip ", "npm ", "nsys ", "cp ", "nohup ",
                                                   "srun ", "mpirun ", "torchrun ", "export ", "curl ",
                                                   "compute-sanitizer ", "bash ", "sudo "};
  return std::any_of(kBegins.begin(), kBegins.end(), [&](const std::string& begin) { return code.starts_with(begin); });
}

/// Code between backticks, which may go over the end of a line; in a table \| stands for |.
void read_inline(const std::string& text, Markdown& markdown) {
  for (std::size_t begin = 0; (begin = text.find('`', begin)) != std::string::npos;) {
    const std::size_t end = text.find('`', begin + 1);
    if (end == std::string::npos) throw std::runtime_error("a backtick without another: " + text.substr(begin, 80));
    std::string code;
    for (std::size_t i = begin + 1; i < end; ++i)
      if (text[i] != '\\' || text[i + 1] != '|') code += text[i] == '\n' ? ' ' : text[i];
    begin = end + 1;
    if (!is_command(code)) continue;
    const bool name = code.starts_with("sinkscope ") && code.find(' ') == code.rfind(' ');
    (name ? markdown.names : markdown.commands).push_back(code);
  }
}

}  // namespace

Markdown read_markdown(const std::string& text) {
  Markdown markdown;
  std::string prose, section;
  Fence* open = nullptr;
  std::size_t begin = 0;
  const auto end_prose = [&] {
    read_inline(prose, markdown);
    prose.clear();
  };
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.starts_with("```")) {
      if (open == nullptr) {
        end_prose();
        open = &markdown.fences.emplace_back(Fence{line.substr(3), "", section});
      } else {
        if (open->language == "bash" && open->body.find("\\\n") != std::string::npos)
          throw std::runtime_error("a command of several lines: " + open->body);
        open = nullptr;
      }
    } else if (open != nullptr) {
      open->body += line + "\n";
      if (open->language == "bash" && !command_of_line(line).empty())
        markdown.commands.push_back(command_of_line(line));
    } else {
      if (line.starts_with("## ")) section = line.substr(3);
      if (line.empty()) end_prose();
      prose += line + "\n";
    }
  }
  end_prose();
  std::vector<std::string> once;
  for (const std::string& command : markdown.commands)
    if (std::find(once.begin(), once.end(), command) == once.end()) once.push_back(command);
  markdown.commands = once;
  return markdown;
}

std::string section_of(const std::string& text, const std::string& heading) {
  const std::size_t begin = text.find("\n## " + heading + "\n");
  if (begin == std::string::npos) throw std::runtime_error("the README has no section " + heading);
  const std::size_t end = text.find("\n## ", begin + 1);
  return text.substr(begin, end == std::string::npos ? end : end - begin);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::filesystem::path repository() { return std::filesystem::path(SINKSCOPE_README).parent_path(); }

std::string readme_text() { return read_file(SINKSCOPE_README); }

Markdown readme() { return read_markdown(readme_text()); }

}  // namespace sinkscope::test
