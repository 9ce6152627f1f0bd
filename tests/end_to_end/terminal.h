// Shell text run by a test, on a terminal of its own or on none.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/end_to_end/program.h"

namespace sinkscope::test {

/// A shell on a terminal of its own.
class Terminal {
 public:
  explicit Terminal(const std::string& script);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  /// Reads until all parts were printed or it has ended; false when that takes more than a minute.
  bool wait_for(const std::vector<std::string>& parts);
  void press_control_c();
  /// As when its window is closed: nothing is read from it any more.
  void hang_up();
  /// Of its end; 128 + n by signal n, -1 when that takes more than a minute.
  int status();
  const std::string& output() const { return output_; }

 private:
  bool read();

  int terminal_ = -1;
  pid_t process_ = -1;
  std::optional<int> status_;
  std::string output_;
};

/// Of shell text without a terminal.
Outcome outcome_of(const std::string& script);

}  // namespace sinkscope::test
