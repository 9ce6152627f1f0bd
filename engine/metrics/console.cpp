#include "engine/metrics/console.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <utility>

namespace sinkscope {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;

constexpr std::chrono::milliseconds kBarInterval{100};
constexpr std::size_t kSmallestBar = 10;  // columns, brackets included
constexpr std::size_t kLargestBar = 40;

template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 96> text;
  const int length = std::snprintf(text.data(), text.size(), pattern, values...);
  return {text.data(), std::min<std::size_t>(static_cast<std::size_t>(std::max(length, 0)), text.size() - 1)};
}

/// Length in bytes of the well-formed UTF-8 character (RFC 3629) at the start of `text`; 0 if none is.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    const bool overlong = first == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = first == 0xED && byte(1) > 0x9F;
    return overlong || surrogate ? 0 : 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    const bool overlong = first == 0xF0 && byte(1) < 0x90;
    const bool too_large = first == 0xF4 && byte(1) > 0x8F;
    return overlong || too_large ? 0 : 4;
  }
  return 0;
}

// Characters, taken as one column each, of printable text.
std::size_t columns(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::string format_rate(double tokens_per_second) {
  if (!std::isfinite(tokens_per_second)) return "? tokens/s";
  if (tokens_per_second >= 999.5e6) return format("%.2fG tokens/s", tokens_per_second / 1e9);
  if (tokens_per_second >= 999.5e3) return format("%.2fM tokens/s", tokens_per_second / 1e6);
  if (tokens_per_second >= 1e3) return format("%.1fk tokens/s", tokens_per_second / 1e3);
  return format("%.0f tokens/s", tokens_per_second);
}

class ConsoleSink final : public MetricSink {
 public:
  ConsoleSink(const ConsoleOptions& options, std::ostream& output, std::string output_name, ConsoleClock clock)
      : options_(options),
        output_(output),
        output_name_(std::move(output_name)),
        clock_(std::move(clock)) {
    if (options_.line_every < 1) throw std::invalid_argument("console: line_every must be at least 1");
    options_.title = printable(options_.title);
  }

  ~ConsoleSink() override {
    if (!bar_is_shown_) return;
    try {
      draw();  // the newest step, which the redraw interval may have held back
      output_ << '\n';
      output_.flush();
    } catch (...) {  // a stream may be set to throw; there is nobody left to tell
    }
  }
  ConsoleSink(const ConsoleSink&) = delete;
  ConsoleSink& operator=(const ConsoleSink&) = delete;

  void write(const StepRecord& record) override {
    step_ = record;
    now_ = clock_();
    const bool is_first = !first_step_;
    if (is_first) {
      first_step_ = record.step;
      first_done_ = now_;
    }
    if (record.validation_loss) validation_loss_ = record.validation_loss;
    if (!record.sink_score.empty()) sink_score_ = record.sink_score.front();
    if (!record.sink_rate.empty()) sink_rate_ = record.sink_rate.front();
    const bool is_last = record.step == options_.total_steps;
    if (!options_.terminal) {
      if (!is_first && !is_last && record.step % options_.line_every != 0) return;
      output_ << join(fields()) << '\n';
    } else {
      if (bar_is_shown_ && !is_last && now_ - drawn_ < kBarInterval) return;
      draw();
      drawn_ = now_;
    }
    finish_output();
  }

  void write(const ProbeRecord& record) override {
    if (record.phase) {  // the set that phases are read from
      phase_ = record.phase;
      step_up_layer_ = record.step_up_layer;
    }
    // Without per-step probes score and rate are those of the held-out text at the training length.
    const bool from_steps = step_ && !step_->sink_score.empty();
    if (from_steps || record.set != "natural" || record.positions <= 0) return;
    if (!record.sink_rate.empty()) sink_rate_ = record.sink_rate.front();
    double sum = 0, heads = 0;
    for (std::size_t i = 0; i < record.sink_score.size(); i += static_cast<std::size_t>(record.positions)) {
      sum += record.sink_score[i];
      ++heads;
    }
    if (heads > 0) sink_score_ = sum / heads;
  }

  void write(const EventRecord& record) override {
    if (bar_is_shown_) output_ << kEraseLine;
    output_ << "step " << record.step << "  " << (record.kind == "alert" ? "ALERT" : printable(record.kind));
    if (!record.message.empty()) output_ << ": " << printable(record.message);
    output_ << '\n';
    if (bar_is_shown_) draw();
    finish_output();
  }

  void flush(bool) override { finish_output(); }

 private:
  // In the order shown; the last ones are the first to go on a narrow terminal.
  std::vector<std::string> fields() const {
    const StepRecord& step = *step_;
    std::vector<std::string> result;
    if (!options_.terminal && !options_.title.empty()) result.push_back(options_.title);
    const auto number = static_cast<long long>(step.step);
    if (options_.total_steps > 0) {
      result.push_back(format("step %lld/%lld", number, static_cast<long long>(options_.total_steps)));
    } else {
      result.push_back(format("step %lld", number));
    }
    result.push_back(format("loss %.4f", step.loss));
    if (sink_score_) result.push_back(format("sink %.3f", *sink_score_));
    result.push_back(format_rate(step.tokens_per_second));
    if (options_.total_steps > 0) result.push_back("left " + format_duration(seconds_left()));
    if (sink_rate_) result.push_back(format("Sink_0 %.3f", *sink_rate_));
    if (phase_) result.push_back(printable(*phase_));
    if (step.mfu) result.push_back(format("MFU %.1f %%", 100 * *step.mfu));
    result.push_back(format("gradient %.3g", step.gradient_norm));
    if (step_up_layer_)
      result.push_back(format("l* %lld", static_cast<long long>(*step_up_layer_)));
    else if (phase_)
      result.emplace_back("l* -");
    if (validation_loss_) result.push_back(format("validation %.4f", *validation_loss_));
    if (step.norm_ratio.size() > 1) {  // the largest R over the blocks; the embedding output stands before them
      const double largest = *std::max_element(step.norm_ratio.begin() + 1, step.norm_ratio.end());
      result.push_back(format("P0 norm ratio %.2f", largest));
    }
    return result;
  }

  // From the time that this process took for a step, with its evaluations and probes. Neither loading nor, once there
  // is a second, the first step counts, which warms up.
  double seconds_left() const {
    const auto left = static_cast<double>(std::max<std::int64_t>(0, options_.total_steps - step_->step));
    if (step_->step <= *first_step_) return step_->step_seconds * left;
    const auto done = static_cast<double>(step_->step - *first_step_);
    return std::chrono::duration<double>(now_ - first_done_).count() / done * left;
  }

  static std::string join(const std::vector<std::string>& parts) {
    std::string line;
    for (const std::string& part : parts) {
      if (!line.empty()) line += "  ";
      line += part;
    }
    return line;
  }

  void draw() {
    if (!step_) return;
    // One column stays free: a full line would wrap.
    const auto width = static_cast<std::size_t>(std::max(options_.width - 1, 1));
    std::vector<std::string> parts = fields();
    const std::size_t all = parts.size();
    while (parts.size() > 1 && columns(join(parts)) > width) parts.pop_back();
    std::string line = first_columns(join(parts), width);
    std::size_t used = columns(line);
    // None where a field is left out: what that leaves free changes with the numbers.
    if (options_.total_steps > 0 && parts.size() == all && used + 2 + kSmallestBar <= width) {
      const std::string drawn = bar(std::min(width - used - 2, kLargestBar));
      used += 2 + columns(drawn);
      line = drawn + "  " + line;
    }
    if (!options_.title.empty() && used + 2 + columns(options_.title) <= width) line = options_.title + "  " + line;
    output_ << kEraseLine << line;
    bar_is_shown_ = true;
  }

  std::string bar(std::size_t size) const {
    const double share = static_cast<double>(step_->step) / static_cast<double>(options_.total_steps);
    const std::size_t inner = size - 2;
    const auto full = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(inner));
    return '[' + std::string(full, '#') + std::string(inner - full, '-') + ']';
  }

  void finish_output() {
    output_.flush();
    if (!output_) throw OutputLost(output_name_ + ": cannot write");
  }

  ConsoleOptions options_;
  std::ostream& output_;
  std::string output_name_;
  ConsoleClock clock_;
  std::optional<std::int64_t> first_step_;  // of this process
  TimePoint first_done_;                    // when it was done
  TimePoint now_;                           // of the newest step
  TimePoint drawn_;                         // when the bar was last redrawn for a step
  bool bar_is_shown_ = false;
  std::optional<StepRecord> step_;
  std::optional<double> validation_loss_;
  std::optional<double> sink_score_;  // mean of position 0
  std::optional<double> sink_rate_;   // of position 0
  std::optional<std::string> phase_;  // after the newest probe pass
  std::optional<std::int64_t> step_up_layer_;
};

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const auto first = static_cast<unsigned char>(text.front());
    const std::size_t length = character_length(text);
    // C1 control characters, U+0080..U+009F, are two bytes in UTF-8.
    const bool is_control =
        first < 0x20 || first == 0x7F || (first == 0xC2 && length == 2 && static_cast<unsigned char>(text[1]) < 0xA0);
    if (length == 0 || is_control) {
      for (std::size_t i = 0; i < std::max<std::size_t>(1, length); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        result += byte == '\n' ? "\\n" : byte == '\t' ? "\\t" : format("\\x%02X", static_cast<unsigned>(byte));
      }
    } else {
      result += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(1, length));
  }
  return result;
}

std::string first_columns(std::string_view text, std::size_t columns) {
  std::size_t bytes = 0;
  for (std::size_t used = 0; used < columns && bytes < text.size(); ++used) {
    bytes += std::max<std::size_t>(1, character_length(text.substr(bytes)));
  }
  return std::string(text.substr(0, bytes));
}

std::string format_duration(double seconds) {
  constexpr double kLongest = 1e12;  // far above any run, and far below what long long holds
  if (!(seconds >= 0 && seconds < kLongest)) return "?";
  const auto total = std::llround(seconds);
  if (total < 60) return format("%lld s", total);
  if (total < 3600) return format("%lld:%02lld", total / 60, total % 60);
  if (total < 86400) return format("%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  return format("%lld d %02lld h", total / 86400, total / 3600 % 24);
}

std::unique_ptr<MetricSink> make_console_sink(const ConsoleOptions& options, std::ostream& output,
                                              const std::string& output_name, ConsoleClock clock) {
  return std::make_unique<ConsoleSink>(options, output, output_name, std::move(clock));
}

std::unique_ptr<MetricSink> make_console_sink(const ConsoleOptions& options) {
  return make_console_sink(options, std::cout, "standard output", [] { return std::chrono::steady_clock::now(); });
}

}  // namespace sinkscope
