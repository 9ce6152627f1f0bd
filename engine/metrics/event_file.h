// TensorBoard's event files, written by hand: TFRecord framing (length, masked CRC-32C, data, masked
// CRC-32C; tensorflow/core/lib/io/record_writer.h) around protocol buffers of Event, Summary and
// HistogramProto (tensorflow/core/util/event.proto and core/framework/summary.proto). Only the fields
// that a run needs are known.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sinkscope {

/// CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it.
std::uint32_t crc32c(std::string_view bytes);
/// The form that TFRecord stores: rotated right by 15 bits plus a constant.
std::uint32_t masked_crc32c(std::string_view bytes);

/// `data` as one TFRecord.
std::string to_record(std::string_view data);

/// The values of one step: a Summary message under construction.
class Summary {
 public:
  void add_scalar(const std::string& tag, double value);
  /// 30 equal buckets from the smallest to the largest finite value; nothing when there is none.
  void add_histogram(const std::string& tag, const std::vector<double>& values);
  /// A PNG file of `width` x `height` RGB pixels.
  void add_image(const std::string& tag, std::int64_t width, std::int64_t height, const std::string& png);
  void add_text(const std::string& tag, const std::string& text);
  /// What a plugin of TensorBoard reads out of the value's metadata, or as its one string (shape ()).
  void add_plugin(const std::string& tag, const std::string& plugin, const std::string& content);
  void add_plugin_text(const std::string& tag, const std::string& plugin, const std::string& text);
  bool empty() const { return bytes_.empty(); }
  const std::string& bytes() const { return bytes_; }

 private:
  void add_value(const std::string& tag, const std::string& fields);
  std::string bytes_;
};

// Event messages; `seconds` is the wall time since 1970.
std::string version_event(double seconds);
std::string summary_event(double seconds, std::int64_t step, const Summary& summary);
/// A restart: a reader that follows the run forgets what it saw of `step` and later ones.
std::string restart_event(double seconds, std::int64_t step);
/// The step of an Event. Throws std::runtime_error when the bytes are no message.
std::int64_t event_step(std::string_view event);

/// Drops from an event file the events after `last_step` and a torn end (an incomplete last record,
/// one with a wrong checksum, or zeros that a crash left); the file is replaced in one step, or left
/// alone when nothing is to be dropped. Throws std::runtime_error naming file and byte for a damaged
/// record before the last one.
void drop_later_events(const std::filesystem::path& path, std::int64_t last_step);

}  // namespace sinkscope
