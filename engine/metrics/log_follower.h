// A log that another process writes, read bit by bit: what was appended since the last look.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace sinkscope {

/// What one look at a log found.
struct LogLook {
  bool began_again = false;   // the log was replaced, cut back or removed: every line before this look is void
  std::int64_t lines = 0;     // visited
};

/// Follows one log of a line a record (json_lines.h). The writer appends whole lines, as a rule in one piece; a resume
/// cuts a log back, by a new file in its place. The file is open only while it is looked at, and only what was not read
/// yet is read, but for up to 256 bytes before it: by them a log that was cut back and has grown again, or was replaced
/// under the same file number, is told from one that was only appended to.
class LogFollower {
 public:
  /// A log that is not there yet is empty.
  explicit LogFollower(std::filesystem::path path);

  /// Tells `began` when the log began again, then `visit` every whole line that is new, without its newline, and its
  /// number, counted from 1. A last line without newline is left for a later look. Ends after about `limit` bytes.
  /// Throws std::runtime_error naming the file when it cannot be read; whatever `visit` throws passes through, and the
  /// next look goes on behind that line.
  LogLook look(const std::function<void()>& began, const std::function<void(std::string_view, std::int64_t)>& visit,
               std::int64_t limit);

  /// A spread sample of the log as it is now, which leaves what `look` reads as it is: `visit` gets the first line,
  /// lines at about `places` even distances in bytes and the last one, each whole line once at most and in order. With
  /// it comes the line's number at its place, from 0; true asks for the line behind it too, and as many as the most
  /// that were taken at a place are the last ones. Of long lines fewer are taken: an eighth of the log, or little more,
  /// is read. Returns false, having read nothing, where less than `least` bytes are unread, the log was replaced since
  /// the last look, or it cannot be opened. A look that finds what was sampled replaced or cut back begins again.
  /// Throws std::runtime_error naming the file when it cannot be read; whatever `visit` throws passes through.
  bool sample(std::size_t places, std::int64_t least,
              const std::function<bool(std::string_view line, std::size_t nth)>& visit);

  const std::filesystem::path& path() const { return path_; }
  std::int64_t read_bytes() const { return offset_; }  // of the log as it is now
  /// What the last look left because of its limit.
  std::int64_t unread_bytes() const { return unread_; }

 private:
  void forget();

  std::filesystem::path path_;
  std::uint64_t device_ = 0, file_number_ = 0;  // of the file that was read
  std::int64_t offset_ = 0;                     // behind the last line that was visited
  std::int64_t unread_ = 0;
  std::int64_t lines_ = 0;
  std::int64_t sampled_ = 0;                    // behind the last line of a sample
  std::string tail_;                            // the last bytes before offset_
};

}  // namespace sinkscope
