#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "engine/metrics/event_file.h"
#include "engine/metrics/heatmap.h"
#include "engine/metrics/sinks.h"
#include "support.h"
#include "tests/catch.h"
#include "tests/event_reader.h"

using namespace sinkscope;
using namespace sinkscope::test;

TEST_CASE("crc32c agrees with RFC 3720") {
  CHECK(crc32c("") == 0U);
  CHECK(crc32c("123456789") == 0xe3069283U);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aaU);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43U);
}

TEST_CASE("A step's record becomes one event whose scalars are the record's") {
  const TemporaryFolder folder;
  const StepRecord record = example_step(7);
  {
    const auto sink = make_tensorboard_sink(folder.path(), std::nullopt);
    sink->write(record);
    sink->flush(true);
  }
  const auto files = event_files(folder.path());
  REQUIRE(files.size() == 1);
  const std::string name = files[0].filename().string();
  CHECK(name.rfind("events.out.tfevents.", 0) == 0);
  CHECK(name.size() > std::strlen("events.out.tfevents.0123456789."));
  CHECK(name[30] == '.');
  const auto events = events_of(folder.path());
  REQUIRE(events.size() == 2);
  CHECK(field(events[0], 3) == "brain.Event:2");
  CHECK(double_at(field(events[0], 1), 0) > 1.6e9);  // seconds since 1970
  CHECK(step_of(events[1]) == 7);
  const auto values = values_of(events[1]);
  const auto check = [&](const std::string& tag, double expected) {
    INFO(tag);
    REQUIRE(values.count(tag) == 1);
    CHECK(scalar(values.at(tag)) == Approx(expected).epsilon(1e-6));
  };
  check("loss/train", record.loss);
  check("loss/train_common", record.loss_common);
  check("loss/validation", *record.validation_loss);
  check("gradient/norm", record.gradient_norm);
  check("gradient/learning_rate", record.learning_rate);
  check("gradient/attention_layer_01", record.gradient_norm_attention[1]);
  check("gradient/mlp_layer_00", record.gradient_norm_mlp[0]);
  check("speed/tokens_per_second", record.tokens_per_second);
  check("speed/mfu", *record.mfu);
  for (std::size_t k = 0; k < 4; ++k) {
    check("sink/score_position_" + std::to_string(k), record.sink_score[k]);
    check("sink/rate_position_" + std::to_string(k), record.sink_rate[k]);
  }
  check("sink/score_layer_01", record.sink_score_layer[1]);
  check("sink/entropy", std::accumulate(record.entropy.begin(), record.entropy.end(), 0.0) / 6);
  check("norm/residual_first_embedding", record.residual_norm[0]);
  check("norm/residual_first_layer_01", record.residual_norm[2 * 4]);
  check("norm/ratio_layer_01", record.norm_ratio[2]);
  check("norm/residual_rest_layer_01", record.residual_norm_rest[2]);
}

TEST_CASE("Optional and empty fields leave no tags, and a NaN stays one") {
  const TemporaryFolder folder;
  StepRecord record;
  record.step = 1;
  record.loss = std::nan("");
  make_tensorboard_sink(folder.path(), std::nullopt)->write(record);
  const auto values = values_of(events_of(folder.path()).at(1));
  CHECK(std::isnan(scalar(values.at("loss/train"))));
  CHECK(values.count("loss/validation") == 0);
  CHECK(values.count("speed/mfu") == 0);
  for (const auto& [tag, value] : values) CHECK_FALSE(contains(tag, "sink/"));
}

TEST_CASE("A probe pass gives scalars, a histogram of heads, and pictures every so often") {
  const TemporaryFolder folder;
  {
    const auto sink = make_tensorboard_sink(folder.path(), std::nullopt, {.heatmap_every = 2});
    for (const std::int64_t step : {10, 20, 30})
      for (const char* set : {"natural", "natural_bos"}) sink->write(example_probe(step, set));
  }
  const auto events = events_of(folder.path());
  REQUIRE(events.size() == 7);
  const ProbeRecord record = example_probe(10);
  const auto values = values_of(events[1]);
  CHECK(scalar(values.at("sink/natural/excess_position_0")) == Approx(record.sink_excess[0]).epsilon(1e-6));
  CHECK(scalar(values.at("norm/natural/ratio_layer_01")) == Approx(record.norm_ratio[2]).epsilon(1e-6));
  CHECK(scalar(values.at("norm/natural/step_up_layer")) == 1.0);
  CHECK(scalar(values.at("sink/natural/rate_late_layers_position_1")) ==
        Approx(record.sink_rate_from[1]).epsilon(1e-6));
  CHECK(scalar(values.at("sink/natural/logit_mass_layer_01")) == Approx(record.sink_logit_mass[1]).epsilon(1e-6));
  CHECK(scalar(values.at("sink/phase")) == 1.0);  // transition
  CHECK(scalar(values.at("sink/excess_slope")) == *record.excess_slope);
  CHECK(scalar(values.at("sink/dominant_share")) == Approx(*record.dominant_share).epsilon(1e-6));
  CHECK(scalar(values.at("loss/validation_slope")) == *record.validation_loss_slope);
  CHECK(values_of(events[2]).count("sink/natural_bos/excess_position_0") == 1);

  // 2 layers of 3 heads, 4 positions.
  const std::string histogram = field(values.at("sink/natural/score_of_heads"), 5);
  std::vector<double> scores;
  for (std::size_t i = 0; i < 6; ++i) scores.push_back(record.sink_score[4 * i]);
  CHECK(double_at(field(histogram, 1), 0) == *std::min_element(scores.begin(), scores.end()));
  CHECK(double_at(field(histogram, 2), 0) == *std::max_element(scores.begin(), scores.end()));
  CHECK(double_at(field(histogram, 3), 0) == 6.0);
  double sum = 0;
  for (const double score : scores) sum += score;
  CHECK(double_at(field(histogram, 4), 0) == Approx(sum));
  const std::string limits = field(histogram, 6);
  const std::string counts = field(histogram, 7);
  REQUIRE(limits.size() == counts.size());
  double total = 0;
  for (std::size_t i = 0; i < counts.size(); i += 8) {
    total += double_at(counts, i);
    if (i > 0) CHECK(double_at(limits, i) > double_at(limits, i - 8));
  }
  CHECK(total == 6.0);

  for (std::size_t i = 1; i < events.size(); ++i) {
    INFO("event " << i);
    const std::string set = i % 2 == 1 ? "natural" : "natural_bos";
    const bool pictured = step_of(events[i]) != 20;
    const auto found = values_of(events[i]);
    CHECK(found.count("sink/" + set + "/score_by_layer_and_head") == (pictured ? 1 : 0));
    CHECK(found.count("norm/" + set + "/residual_by_layer_and_position") == (pictured ? 1 : 0));
  }
  const std::string image = field(values.at("sink/natural/score_by_layer_and_head"), 4);
  CHECK(field(image, 1) == "32");  // height: 2 layers of 16 pixels
  CHECK(field(image, 2) == "48");
  CHECK(field(image, 3) == "3");
  CHECK(field(image, 4).substr(1, 3) == "PNG");
}

TEST_CASE("Histograms of equal values, of none and of NaN") {
  Summary summary;
  summary.add_histogram("none", {});
  summary.add_histogram("nan", {std::nan("")});
  CHECK(summary.empty());
  summary.add_histogram("equal", {0.5, 0.5, std::nan(""), 0.5});
  const std::string histogram = field(field(summary.bytes(), 1), 5);
  CHECK(double_at(field(histogram, 3), 0) == 3.0);
  const std::string counts = field(histogram, 7);
  CHECK(double_at(counts, 0) == 3.0);
}

TEST_CASE("An event is text") {
  const TemporaryFolder folder;
  make_tensorboard_sink(folder.path(), std::nullopt)
      ->write(EventRecord{.step = 3, .tokens = 0, .kind = "phase", .message = "wandering", .data = "{}"});
  const auto values = values_of(events_of(folder.path()).at(1));
  const std::string value = values.at("event/phase");
  CHECK(field(field(field(value, 9), 1), 1) == "text");
  CHECK(contains(field(field(value, 8), 8), "wandering"));
}

TEST_CASE("A start gives the config as hyperparameters and a layout of charts, once, and an end says so") {
  const TemporaryFolder folder;
  write_file(folder / "config.json",
             R"({"name": "a", "model": {"layers": 3, "bias": true}, "data": {"bos": "none", "train": ["x"]},
      "train": {"optimizer": {"learning_rate": 0.5}}, "run": {"device": "cpu"}})");
  const EventRecord start{.step = 0, .tokens = 0, .kind = "start", .message = "begins", .data = "{}"};
  {
    const auto sink = make_tensorboard_sink(folder.path(), std::nullopt);
    sink->write(start);
    sink->write(example_step(1));
  }
  const auto values = values_of(events_of(folder.path()).at(1));
  const auto plugin = [&](const std::string& tag) { return field(field(values.at(tag), 9), 1); };
  CHECK(field(plugin("_hparams_/session_start_info"), 1) == "hparams");
  std::map<std::string, std::string> hparams;  // name to google.protobuf.Value
  const std::string session = field(field(plugin("_hparams_/session_start_info"), 2), 3);
  for (const auto& [number, entry] : fields_of(session))
    if (number == 1) hparams[field(entry, 1)] = field(entry, 2);
  REQUIRE(hparams.size() == 4);  // neither lists nor what is outside model, data and train
  CHECK(double_at(field(hparams.at("model.layers"), 2), 0) == 3.0);
  CHECK(field(hparams.at("model.bias"), 4) == "1");
  CHECK(field(hparams.at("data.bos"), 3) == "none");
  CHECK(double_at(field(hparams.at("train.optimizer.learning_rate"), 2), 0) == 0.5);
  CHECK(double_at(field(session, 5), 0) > 1.6e9);

  std::vector<std::string> names, metrics;
  for (const auto& [number, info] : fields_of(field(field(plugin("_hparams_/experiment"), 2), 2))) {
    if (number == 4) names.push_back(field(info, 1) + " " + field(info, 4));
    if (number == 5) metrics.push_back(field(field(info, 1), 2));
  }
  CHECK(names ==
        std::vector<std::string>{"model.layers 3", "model.bias 2", "data.bos 1", "train.optimizer.learning_rate 3"});
  CHECK(metrics.at(0) == "loss/validation_common");

  CHECK(field(plugin("custom_scalars__config__"), 1) == "custom_scalars");
  const std::string layout = field(field(values.at("custom_scalars__config__"), 8), 8);
  CHECK(field(field(layout, 2), 1) == "Loss");
  CHECK(field(field(field(field(layout, 2), 2), 2), 1) == "^loss/train_common$");

  // A resumed run keeps them, without a second copy; one that begins again has new ones alone.
  make_tensorboard_sink(folder.path(), 1)
      ->write(EventRecord{.step = 2, .tokens = 0, .kind = "end", .message = "", .data = "{}"});
  const auto starts = [&] {
    std::size_t count = 0;
    for (const std::string& event : events_of(folder.path()))
      count += values_of(event).count("_hparams_/session_start_info");
    return count;
  };
  CHECK(starts() == 1);
  const auto ended = values_of(events_of(folder.path()).back());
  CHECK(field(field(field(field(ended.at("_hparams_/session_end_info"), 9), 1), 2), 4).substr(0, 2) ==
        std::string("\x08\x01"));
  make_tensorboard_sink(folder.path(), -1)->write(start);
  CHECK(starts() == 1);
}

TEST_CASE("A heatmap is a PNG of the values") {
  const Picture picture = draw_heatmap({0.0, 0.5, 1.0, std::nan("")}, 2, 2, 0.0, 1.0);
  CHECK(picture.width == 32);
  CHECK(picture.height == 32);
  const std::string& png = picture.png;
  REQUIRE(png.substr(0, 8) == "\x89PNG\r\n\x1a\n");
  std::string data;
  std::vector<std::string> types;
  for (std::size_t at = 8; at < png.size();) {
    const auto big_endian = [&](std::size_t from) {
      std::uint32_t value = 0;
      for (std::size_t i = 0; i < 4; ++i) value = (value << 8U) | static_cast<unsigned char>(png.at(from + i));
      return value;
    };
    const std::size_t length = big_endian(at);
    types.push_back(png.substr(at + 4, 4));
    const std::string body = png.substr(at + 4, 4 + length);
    CHECK(big_endian(at + 8 + length) == crc32(0, reinterpret_cast<const Bytef*>(body.data()),
                                               static_cast<uInt>(body.size())));
    if (types.back() == "IHDR") {
      CHECK(big_endian(at + 8) == 32);
      CHECK(big_endian(at + 12) == 32);
    }
    if (types.back() == "IDAT") data = body.substr(4);
    at += 12 + length;
  }
  CHECK(types == std::vector<std::string>{"IHDR", "IDAT", "IEND"});
  std::string pixels(32 * (1 + 3 * 32), '\0');
  uLongf size = pixels.size();
  REQUIRE(uncompress(reinterpret_cast<Bytef*>(pixels.data()), &size, reinterpret_cast<const Bytef*>(data.data()),
                     static_cast<uLong>(data.size())) == Z_OK);
  REQUIRE(size == pixels.size());
  const auto pixel = [&](std::size_t x, std::size_t y) {
    std::vector<int> out;
    for (std::size_t c = 0; c < 3; ++c)
      out.push_back(static_cast<unsigned char>(pixels.at(y * (1 + 3 * 32) + 1 + 3 * x + c)));
    return out;
  };
  CHECK(pixel(0, 0) == std::vector<int>{68, 1, 84});
  CHECK(pixel(15, 15) == pixel(0, 0));
  CHECK(pixel(16, 0) == std::vector<int>{33, 145, 140});
  CHECK(pixel(0, 16) == std::vector<int>{253, 231, 37});
  CHECK(pixel(31, 31) == std::vector<int>{128, 128, 128});
  CHECK_THROWS_AS(draw_heatmap({1.0}, 2, 2, 0.0, 1.0), std::invalid_argument);
}

TEST_CASE("A new run refuses a folder that holds events") {
  const TemporaryFolder folder;
  make_tensorboard_sink(folder.path(), std::nullopt);
  const std::string message = message_of([&] { make_tensorboard_sink(folder.path(), std::nullopt); });
  CHECK(contains(message, "events.out.tfevents."));
  CHECK(contains(message, "exists already"));
}

TEST_CASE("A resume drops later steps and a torn end, and goes on in a file of its own") {
  const TemporaryFolder folder;
  {
    const auto sink = make_tensorboard_sink(folder.path(), std::nullopt);
    for (std::int64_t step = 1; step <= 9; ++step) sink->write(example_step(step));
  }
  const auto file = event_files(folder.path()).at(0);
  const std::string whole = read_file(file);
  const std::string torn = to_record(summary_event(0.0, 10, Summary{}));
  std::string broken = torn;
  broken.back() = static_cast<char>(broken.back() ^ 1);
  std::vector<std::string> ends = {"", torn.substr(0, 5), torn.substr(0, 14), torn.substr(0, torn.size() - 1), broken};
  for (std::size_t written = 0; written < torn.size(); ++written)
    ends.push_back(torn.substr(0, written) + std::string(400, '\0'));
  for (const std::string& end : ends) {
    INFO("torn end of " << end.size() << " bytes");
    for (const auto& old : event_files(folder.path())) std::filesystem::remove(old);
    write_file(file, whole + end);
    {
      const auto sink = make_tensorboard_sink(folder.path(), 6);
      for (std::int64_t step = 7; step <= 8; ++step) sink->write(example_step(step));
    }
    const auto files = event_files(folder.path());
    REQUIRE(files.size() == 2);
    CHECK(files[0] == file);  // the new one sorts after it
    std::vector<std::int64_t> steps;
    for (const std::string& event : events_of(folder.path()))
      if (!field(event, 5).empty()) steps.push_back(step_of(event));
    CHECK(steps == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8});
    const auto restart = records_of(read_file(files[1])).at(1);
    CHECK(step_of(restart) == 7);
    CHECK(field(field(restart, 7), 1) == "1");  // SessionLog::START
  }
}

TEST_CASE("A file that needs no change is left alone, and a damaged one is named and kept") {
  const TemporaryFolder folder;
  {
    const auto sink = make_tensorboard_sink(folder.path(), std::nullopt);
    for (std::int64_t step = 1; step <= 3; ++step) sink->write(example_step(step));
  }
  const auto file = event_files(folder.path()).at(0);
  const std::string whole = read_file(file);
  drop_later_events(file, 3);
  CHECK(read_file(file) == whole);
  for (const std::size_t place : {std::size_t{3}, std::size_t{9}, std::size_t{20}}) {
    std::string damaged = whole;
    damaged[place] = static_cast<char>(damaged[place] ^ 1);
    write_file(file, damaged);
    const std::string message = message_of([&] { make_tensorboard_sink(folder.path(), 1); });
    CHECK(contains(message, file.string() + ": byte 0: "));
    CHECK(read_file(file) == damaged);
    CHECK(event_files(folder.path()).size() == 1);  // no temporary file is left
  }
  // Zeros from within a record on are a torn end where nothing follows them, and only there.
  const std::string torn = to_record(summary_event(0.0, 4, Summary{})).substr(0, 14) + std::string(400, '\0');
  write_file(file, whole + torn + to_record(summary_event(0.0, 5, Summary{})));
  CHECK(contains(message_of([&] { make_tensorboard_sink(folder.path(), 1); }),
                 file.string() + ": byte " + std::to_string(whole.size()) + ": "));
}

TEST_CASE("A resumed run's pictures keep to the cadence of the run") {
  const TemporaryFolder folder;
  make_tensorboard_sink(folder.path(), std::nullopt, {.heatmap_every = 3})->write(example_probe(0));
  {
    const auto sink = make_tensorboard_sink(folder.path(), 10, {.heatmap_every = 3, .passes_before = 2});
    for (const std::int64_t step : {20, 30, 40, 50}) sink->write(example_probe(step));
  }
  std::vector<std::int64_t> pictured;
  for (const std::string& event : events_of(folder.path()))
    if (values_of(event).count("sink/natural/score_by_layer_and_head") == 1) pictured.push_back(step_of(event));
  CHECK(pictured == std::vector<std::int64_t>{0, 30});
}

TEST_CASE("Pictures need a cadence") {
  const TemporaryFolder folder;
  CHECK(contains(message_of([&] { make_tensorboard_sink(folder.path(), std::nullopt, {.heatmap_every = 0}); }),
                 "heatmap_every is 0"));
}
