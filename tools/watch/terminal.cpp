#include "tools/watch/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string_view>

namespace sinkscope {
namespace {

// ECMA-48 and, for the other screen and the cursor, DEC private modes as xterm has them.
constexpr const char* kEnter = "\x1b[?1049h\x1b[?25l";
constexpr const char* kLeave = "\x1b[?25h\x1b[?1049l";
constexpr const char* kHome = "\x1b[H";
constexpr const char* kEraseToLineEnd = "\x1b[K";
constexpr const char* kEraseBelow = "\x1b[J";

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

/// Zeros where it is no terminal.
winsize size_of(int descriptor) {
  winsize size{};
  if (isatty(descriptor) != 1 || ioctl(descriptor, TIOCGWINSZ, &size) != 0) return winsize{};
  return size;
}

}  // namespace

bool stdout_is_screen() {
  const char* kind = std::getenv("TERM");
  return isatty(STDOUT_FILENO) == 1 && (kind == nullptr || std::string_view(kind) != "dumb");
}

bool stdout_takes_colour() { return stdout_is_screen() && !is_set("NO_COLOR"); }

bool is_terminal(int descriptor) {
  return isatty(descriptor) == 1 && !(size_of(descriptor).ws_col == 0 && (is_set("PMIX_RANK") || is_set("PMI_RANK")));
}

int terminal_width() { return terminal_width(STDOUT_FILENO); }

int terminal_width(int descriptor) {
  const winsize size = size_of(descriptor);
  return size.ws_col > 0 ? size.ws_col : 80;
}

int terminal_height() {
  const winsize size = size_of(STDOUT_FILENO);
  return size.ws_row > 0 ? size.ws_row : 24;
}

Screen::Screen() { std::cout << kEnter << std::flush; }

Screen::~Screen() { std::cout << kLeave << std::flush; }

void Screen::draw(const std::string& text) {
  std::string drawn = kHome;
  for (const char c : text) {
    if (c == '\n') drawn += kEraseToLineEnd;
    drawn += c;
  }
  std::cout << drawn << kEraseBelow << std::flush;
  if (!std::cout) throw std::runtime_error("standard output: cannot write");
}

}  // namespace sinkscope
