#include "markup.h"

#include <set>
#include <vector>

namespace sinkscope::test {
namespace {

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == ':';
}

/// The attributes of an element from `at` up to its '>'; moves `at` behind it. Empty when they are well formed.
std::string attributes_fault(const std::string& text, std::size_t& at, bool& closed) {
  std::set<std::string> names;
  closed = false;
  while (at < text.size()) {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n')) ++at;
    if (text.compare(at, 2, "/>") == 0) {
      closed = true;
      at += 2;
      return {};
    }
    if (text[at] == '>') {
      ++at;
      return {};
    }
    std::string name;
    while (at < text.size() && is_name(text[at])) name += text[at++];
    if (name.empty()) return "an attribute begins with '" + text.substr(at, 1) + "'";
    if (!names.insert(name).second) return "attribute " + name + " is given twice";
    if (text.compare(at, 2, "=\"") != 0) return "attribute " + name + " is not quoted";
    const std::size_t end = text.find('"', at + 2);
    if (end == std::string::npos) return "attribute " + name + " does not end";
    const std::string value = text.substr(at + 2, end - at - 2);
    if (value.find('<') != std::string::npos) return "attribute " + name + " holds '<'";
    at = end + 1;
  }
  return "an element does not end";
}

}  // namespace

std::string markup_fault(const std::string& text, bool html) {
  static const std::set<std::string> kEmpty = {"meta", "br", "hr", "img", "link", "input"};
  std::vector<std::string> open;
  std::size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (!html && static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') return "a control character";
    if (c == '&') {
      const std::size_t end = text.find(';', at);
      if (end == std::string::npos || end - at > 8) return "'&' that is no entity";
    }
    if (c != '<') {
      if (open.empty() && c != '\n') return "text outside of the root";
      ++at;
      continue;
    }
    if (text.compare(at, 4, "<!--") == 0) {
      const std::size_t end = text.find("--", at + 4);
      if (end == std::string::npos || text.compare(end, 3, "-->") != 0) return "a comment holds '--' or does not end";
      at = end + 3;
      continue;
    }
    if (html && text.compare(at, 2, "<!") == 0) {
      at = text.find('>', at) + 1;
      continue;
    }
    const bool closing = text.compare(at, 2, "</") == 0;
    at += closing ? 2 : 1;
    std::string name;
    while (at < text.size() && is_name(text[at])) name += text[at++];
    if (name.empty()) return "'<' without an element";
    if (closing) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : "<" + open.back() + ">");
      if (text.compare(at, 1, ">") != 0) return "</" + name + " without '>'";
      ++at;
      open.pop_back();
      continue;
    }
    bool closed = false;
    if (const std::string fault = attributes_fault(text, at, closed); !fault.empty()) return "<" + name + ">: " + fault;
    if (closed || (html && kEmpty.count(name) > 0)) continue;
    open.push_back(name);
    if (html && name == "style") at = text.find("</style>", at);
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

}  // namespace sinkscope::test
