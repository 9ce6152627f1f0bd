#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "engine/files/append_file.h"
#include "engine/files/input_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/rename.h"
#include "engine/metrics/event_file.h"
#include "engine/metrics/heatmap.h"
#include "engine/metrics/json_lines.h"
#include "engine/metrics/sinks.h"
#include "engine/metrics/tensorboard_plugins.h"

namespace sinkscope {
namespace {

constexpr const char* kPrefix = "events.out.tfevents.";

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "localhost";
  return name.data();
}

/// "layer_03": of equal width, so that TensorBoard sorts layers by number.
std::string layer_name(std::size_t layer) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "layer_%02zu", layer);
  return text.data();
}

/// Index 0 of the residual stream is the embedding output.
std::string residual_name(std::size_t index) { return index == 0 ? "embedding" : layer_name(index - 1); }

template <class Name>
void add_each(Summary& summary, const std::string& tag, const std::vector<double>& values, Name&& name) {
  for (std::size_t i = 0; i < values.size(); ++i) summary.add_scalar(tag + name(i), values[i]);
}

void add_positions(Summary& summary, const std::string& tag, const std::vector<double>& values) {
  add_each(summary, tag + "_position_", values, [](std::size_t k) { return std::to_string(k); });
}

void add_mean(Summary& summary, const std::string& tag, const std::vector<double>& values) {
  if (values.empty()) return;
  summary.add_scalar(tag, std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()));
}

/// The residual norms (L+1) of position 0; empty when the record holds none.
std::vector<double> first_norms(const StepRecord& record) {
  std::vector<double> out;
  const std::size_t rows = record.residual_norm_rest.size();
  for (std::size_t row = 0; row < rows; ++row)
    if (const std::size_t i = row * (record.residual_norm.size() / rows); i < record.residual_norm.size())
      out.push_back(record.residual_norm[i]);
  return out;
}

Summary summary_of(const StepRecord& record) {
  Summary summary;
  summary.add_scalar("loss/train", record.loss);
  summary.add_scalar("loss/train_common", record.loss_common);
  if (record.validation_loss) summary.add_scalar("loss/validation", *record.validation_loss);
  if (record.validation_loss_common) summary.add_scalar("loss/validation_common", *record.validation_loss_common);
  add_positions(summary, "sink/score", record.sink_score);
  add_positions(summary, "sink/rate", record.sink_rate);
  add_each(summary, "sink/score_", record.sink_score_layer, layer_name);
  add_mean(summary, "sink/entropy", record.entropy);
  add_each(summary, "norm/residual_first_", first_norms(record), residual_name);
  add_each(summary, "norm/residual_rest_", record.residual_norm_rest, residual_name);
  add_each(summary, "norm/ratio_", record.norm_ratio, residual_name);
  summary.add_scalar("gradient/norm", record.gradient_norm);
  add_each(summary, "gradient/attention_", record.gradient_norm_attention, layer_name);
  add_each(summary, "gradient/mlp_", record.gradient_norm_mlp, layer_name);
  summary.add_scalar("gradient/learning_rate", record.learning_rate);
  summary.add_scalar("speed/step_seconds", record.step_seconds);
  summary.add_scalar("speed/tokens_per_second", record.tokens_per_second);
  if (record.mfu) summary.add_scalar("speed/mfu", *record.mfu);
  summary.add_scalar("speed/tokens", static_cast<double>(record.tokens));
  return summary;
}

/// The sink scores (L*H) of position 0; empty when the record holds none.
std::vector<double> first_scores(const ProbeRecord& record) {
  std::vector<double> out;
  if (record.positions <= 0) return out;
  for (std::size_t i = 0; i < record.sink_score.size(); i += static_cast<std::size_t>(record.positions))
    out.push_back(record.sink_score[i]);
  return out;
}

Summary summary_of(const ProbeRecord& record, bool with_images) {
  Summary summary;
  const std::string sink = "sink/" + record.set + "/";
  const std::string norm = "norm/" + record.set + "/";
  summary.add_scalar("loss/" + record.set, record.loss);
  add_positions(summary, sink + "excess", record.sink_excess);
  add_positions(summary, sink + "rate", record.sink_rate);
  add_positions(summary, sink + "rate_late_layers", record.sink_rate_from);
  summary.add_scalar(sink + "dominant_position", static_cast<double>(record.dominant_position));
  add_mean(summary, sink + "first_token_mass", record.first_token_mass);
  add_mean(summary, sink + "first_token_argmax", record.first_token_argmax);
  add_mean(summary, sink + "entropy", record.entropy);
  add_each(summary, sink + "logit_mass_", record.sink_logit_mass, layer_name);
  add_each(summary, norm + "ratio_", record.norm_ratio, residual_name);
  add_each(summary, norm + "massive_ratio_", record.massive_ratio, layer_name);
  add_mean(summary, norm + "value_first", record.value_norm_first);
  add_mean(summary, norm + "value_rest", record.value_norm_rest);
  if (record.step_up_layer) summary.add_scalar(norm + "step_up_layer", static_cast<double>(*record.step_up_layer));
  if (record.concentration) summary.add_scalar(norm + "concentration", *record.concentration);
  if (record.phase) {  // 0 wandering, 1 transition, 2 stable
    const auto place = std::find(kPhaseNames.begin(), kPhaseNames.end(), *record.phase) - kPhaseNames.begin();
    summary.add_scalar("sink/phase", static_cast<double>(place));
  }
  if (record.excess_slope) summary.add_scalar("sink/excess_slope", *record.excess_slope);
  if (record.dominant_share) summary.add_scalar("sink/dominant_share", *record.dominant_share);
  if (record.validation_loss_slope) summary.add_scalar("loss/validation_slope", *record.validation_loss_slope);

  const std::vector<double> scores = first_scores(record);
  summary.add_histogram(sink + "score_of_heads", scores);
  if (!with_images) return summary;
  const auto add_picture = [&](const std::string& tag, const std::vector<double>& values, std::int64_t rows,
                               std::int64_t columns, double high) {
    if (values.empty()) return;
    const Picture picture = draw_heatmap(values, rows, columns, 0.0, high);
    summary.add_image(tag, picture.width, picture.height, picture.png);
  };
  add_picture(sink + "score_by_layer_and_head", scores, record.layers, record.heads, 1.0);
  double largest = 0;
  for (const double value : record.residual_norm)
    if (std::isfinite(value)) largest = std::max(largest, value);
  add_picture(norm + "residual_by_layer_and_position", record.residual_norm, record.layers + 1, record.positions,
              largest);
  return summary;
}

class TensorBoardSink final : public MetricSink {
 public:
  TensorBoardSink(const std::filesystem::path& path, std::optional<std::int64_t> resume_step,
                  const TensorBoardOptions& options)
      : run_directory_(path.parent_path().parent_path()),
        options_(options),
        file_(path, AppendFile::Mode::kCreate),
        passes_(options.passes_before) {
    file_.append(to_record(version_event(seconds_now())));
    if (resume_step) file_.append(to_record(restart_event(seconds_now(), *resume_step + 1)));
    sync_folder(path.parent_path());
  }

  void write(const StepRecord& record) override { append(record.step, summary_of(record)); }

  void write(const ProbeRecord& record) override {
    if (record.step != pass_step_) {  // the sets of one pass share its step
      pass_step_ = record.step;
      ++passes_;
    }
    append(record.step, summary_of(record, (passes_ - 1) % options_.heatmap_every == 0));
  }

  void write(const EventRecord& record) override {
    Summary summary;
    // A causal test's data are tables of numbers, which events.jsonl is the place for.
    summary.add_text("event/" + record.kind,
                     record.kind == "causal" ? record.message : record.message + "\n\n`" + record.data + "`");
    if (record.kind == "start") {
      add_layout(summary);
      if (const std::filesystem::path config = run_directory_ / "config.json"; std::filesystem::exists(config))
        add_hyperparameters(summary, parse_json(read_text_file(config)), seconds_now());
    }
    if (record.kind == "end") add_finished(summary, seconds_now());
    append(record.step, summary);
  }

  void flush(bool durable) override {
    if (durable) file_.sync();  // nothing is held back from the operating system
  }

 private:
  void append(std::int64_t step, const Summary& summary) {
    file_.append(to_record(summary_event(seconds_now(), step, summary)));
  }

  std::filesystem::path run_directory_;
  TensorBoardOptions options_;
  AppendFile file_;
  std::int64_t passes_;  // of the run; the first one has pictures
  std::int64_t pass_step_ = -1;
};

/// The seconds in the name of an event file; empty for any other file.
std::optional<std::int64_t> event_file_seconds(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string rest = name.substr(std::string(kPrefix).size());
  std::size_t end = 0;
  while (end < rest.size() && end < 18 && rest[end] >= '0' && rest[end] <= '9') ++end;
  if (end == 0) return std::nullopt;
  return std::stoll(rest.substr(0, end));
}

}  // namespace

std::unique_ptr<MetricSink> make_tensorboard_sink(const std::filesystem::path& run_directory,
                                                  std::optional<std::int64_t> resume_step,
                                                  const TensorBoardOptions& options) {
  if (options.heatmap_every < 1)
    throw std::invalid_argument("make_tensorboard_sink: heatmap_every is " + std::to_string(options.heatmap_every) +
                                ", expected >= 1");
  const std::filesystem::path directory = run_directory / "tensorboard";
  make_folders(directory);
  // Readers take files in the order of their names, so the new one comes after all others.
  auto seconds = static_cast<std::int64_t>(seconds_now());
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const auto other = event_file_seconds(entry.path().filename().string());
    if (!other) continue;
    if (!resume_step)
      throw std::runtime_error(entry.path().string() + ": exists already; a new run needs a folder without logs");
    seconds = std::max(seconds, *other + 1);
  }
  if (resume_step) {
    std::vector<std::filesystem::path> files;  // not while iterating: replacing adds names to the folder
    for (const auto& entry : std::filesystem::directory_iterator(directory))
      if (event_file_seconds(entry.path().filename().string())) files.push_back(entry.path());
    for (const auto& file : files) drop_later_events(file, *resume_step);
  }
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "%010lld", static_cast<long long>(seconds));
  return std::make_unique<TensorBoardSink>(directory / (kPrefix + std::string(text.data()) + "." + host_name()),
                                           resume_step, options);
}

}  // namespace sinkscope
