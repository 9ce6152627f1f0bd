// A terminal that a view is drawn on again and again.
#pragma once

#include <string>

namespace sinkscope {

/// Whether standard output is a terminal that can be drawn on: not one that TERM calls dumb.
bool stdout_is_screen();

/// Whether colours may be written to standard output: a terminal, and NO_COLOR (no-color.org) unset or empty.
bool stdout_takes_colour();

/// Whether somebody looks at it: launchers give ranks a terminal without a size, wherever what they print goes.
bool is_terminal(int descriptor);

/// Columns of the terminal that stdout is, or another descriptor; 80 where it is none.
int terminal_width();
int terminal_width(int descriptor);

/// Lines of the terminal that stdout is; 24 where it is none.
int terminal_height();

/// The terminal's other screen, without a cursor, for as long as it lives; what stood there before comes back then.
class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  /// Puts `text`, lines that end with a newline, in place of what was drawn before. Throws std::runtime_error when
  /// standard output cannot be written.
  void draw(const std::string& text);
};

}  // namespace sinkscope
