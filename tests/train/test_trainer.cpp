#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/checkpoint/checkpoint.h"
#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/data/sampler.h"
#include "engine/metrics/sinks.h"
#include "engine/model/parameters.h"
#include "engine/optim/schedule.h"
#include "tests/catch.h"
#include "tests/train/support.h"

namespace sinkscope {
namespace {

using test::small_config;
using test::TemporaryFolder;
using test::train_error;
using test::train_quietly;

TEST_CASE("a run logs every step once, and what each pass measured") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path());
  const TrainResult result = train_quietly(config);
  CHECK(result.finished);
  CHECK(result.steps == 12);
  REQUIRE(result.validation_loss);
  CHECK(result.run_directory == folder.path() / "runs/small");

  const auto steps = read_step_records(result.run_directory);
  REQUIRE(steps.size() == 12);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const StepRecord& record = steps[i];
    CHECK(record.step == static_cast<std::int64_t>(i) + 1);
    CHECK(record.tokens == record.step * 3 * 2 * 24);
    CHECK(record.learning_rate == learning_rate(config.train.schedule, 0.01, record.step, 12));
    CHECK(std::isfinite(record.loss));
    CHECK(record.validation_loss.has_value() == (record.step % 4 == 0));
    CHECK(record.sink_score.size() == 4);
    CHECK(record.sink_score_layer.size() == 2);
    CHECK(record.residual_norm.size() == 3 * 4);
    CHECK(record.residual_norm_rest.size() == 3);
    CHECK(record.norm_ratio.size() == 3);
    CHECK(record.sink_score[0] >= 1.0 / 24);  // A[0,0] = 1
    double squared = 0;
    for (const double norm : record.gradient_norm_attention) squared += norm * norm;
    for (const double norm : record.gradient_norm_mlp) squared += norm * norm;
    CHECK(std::sqrt(squared) <= record.gradient_norm * (1 + 1e-9));
  }
  CHECK(steps.back().loss < steps.front().loss);
  CHECK(*steps.back().validation_loss == *result.validation_loss);
  CHECK(*steps.back().validation_loss < std::log(258.0));

  const auto probes = read_probe_records(result.run_directory);
  REQUIRE(probes.size() == 6 * 5);  // steps 0, 3, 6, 9, 12
  for (std::size_t i = 0; i < probes.size(); ++i) CHECK(probes[i].step == static_cast<std::int64_t>(i / 6) * 3);

  const auto events = read_event_records(result.run_directory);
  const auto count = [&](const std::string& kind) {
    return std::count_if(events.begin(), events.end(), [&](const EventRecord& e) { return e.kind == kind; });
  };
  CHECK(count("start") == 1);
  CHECK(count("sample") == 2);
  CHECK(count("checkpoint") == 3);
  CHECK(count("end") == 1);
  CHECK(newest_checkpoint(result.run_directory / "checkpoints") == result.run_directory / "checkpoints/step_00000012");
}

TEST_CASE("probes change no bit of the losses or the parameters") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto on = train_quietly(small_config(folder.path(), {"name=on"}));
  const auto off = train_quietly(small_config(folder.path(), {"name=off", "probes.enabled=false", "sample.every=0"}));
  const auto with = read_step_records(on.run_directory), without = read_step_records(off.run_directory);
  REQUIRE(with.size() == without.size());
  for (std::size_t i = 0; i < with.size(); ++i) {
    CHECK(with[i].loss == without[i].loss);
    CHECK(with[i].loss_common == without[i].loss_common);
    CHECK(with[i].gradient_norm == without[i].gradient_norm);
    CHECK(with[i].validation_loss == without[i].validation_loss);
    CHECK(without[i].sink_score.empty());
  }
  CHECK(read_probe_records(off.run_directory).empty());
  const std::string model = "checkpoints/step_00000012/model.safetensors";
  CHECK(test::read_file(on.run_directory / model) == test::read_file(off.run_directory / model));
}

TEST_CASE(
    "the steps before probe passes measure the attention of their own batch, no other does, and no loss depends on "
    "it") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto config = [&](const std::string& name, const std::vector<std::string>& more = {}) {
    std::vector<std::string> overrides = {"name=" + name, "train.steps=11", "model.heads=4", "model.kv_heads=2",
                                          "log.every=2", "evaluation.every=0"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return small_config(folder.path(), overrides);
  };
  constexpr std::size_t L = 2, H = 4, T = 24, K = 4;
  double uniform = 0;  // the most that the entropy can be
  for (std::size_t t = 0; t < T; ++t) uniform += std::log(static_cast<double>(t + 1)) / T;
  const auto run = train_quietly(config("on")).run_directory;
  const auto steps = read_step_records(run);
  std::vector<std::int64_t> logged, measured;
  for (const StepRecord& record : steps) {
    INFO("step " << record.step);
    logged.push_back(record.step);
    CHECK(record.entropy.empty() == record.key_mass.empty());
    if (record.entropy.empty()) continue;
    measured.push_back(record.step);
    REQUIRE(record.entropy.size() == L * H);
    for (const double entropy : record.entropy) CHECK((entropy > 0.5 * uniform && entropy < uniform));
    REQUIRE(record.key_mass.size() == L * T);
    std::vector<double> scores(K, 0.0);  // alpha_k, of the forward pass
    for (std::size_t l = 0; l < L; ++l) {
      const double* masses = record.key_mass.data() + l * T;
      CHECK(std::accumulate(masses, masses + T, 0.0) == Approx(T).epsilon(1e-6));
      CHECK(record.sink_score_layer[l] == Approx(masses[0] / T).epsilon(1e-6));
      for (std::size_t k = 0; k < K; ++k) scores[k] += masses[k] / static_cast<double>((T - k) * L);
    }
    for (std::size_t k = 0; k < K; ++k) CHECK(record.sink_score[k] == Approx(scores[k]).epsilon(1e-6));
  }
  CHECK(measured == std::vector<std::int64_t>{3, 6, 9, 11});
  CHECK(logged == std::vector<std::int64_t>{2, 3, 4, 6, 8, 9, 10, 11});

  const auto again = train_quietly(config("again")).run_directory;
  CHECK(test::timeless_lines(again / "metrics.jsonl") == test::timeless_lines(run / "metrics.jsonl"));
  for (const std::string off : {"probes.every=0", "probes.enabled=false"}) {
    INFO(off);
    const auto without = train_quietly(config(off, {off, "log.every=1"})).run_directory;
    const auto found = read_step_records(without);
    REQUIRE(found.size() == 11);
    for (const StepRecord& record : found) CHECK((record.entropy.empty() && record.key_mass.empty()));
    for (const StepRecord& record : steps) {
      const StepRecord& other = found[static_cast<std::size_t>(record.step) - 1];
      CHECK(other.loss == record.loss);
      CHECK(other.gradient_norm == record.gradient_norm);
    }
    const std::string model = "checkpoints/step_00000011/model.safetensors";
    CHECK(test::read_file(without / model) == test::read_file(run / model));
  }
}

TEST_CASE("what a step measures of its batch does not depend on how that is cut into micro-batches") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto records = [&](const std::string& rows, const std::string& passes) {
    return read_step_records(
        train_quietly(
            small_config(folder.path(), {"name=rows-" + rows, "train.optimizer.learning_rate=0", "train.steps=7",
                                         "train.micro_batch=" + rows, "train.gradient_accumulation=" + passes}))
            .run_directory);
  };
  const auto whole = records("6", "1");
  REQUIRE(whole.size() == 7);
  for (const auto& [rows, passes] : {std::pair{"1", "6"}, {"3", "2"}}) {
    INFO(passes << " passes of " << rows);
    const auto parts = records(rows, passes);
    for (std::size_t i : {2U, 5U, 6U}) {
      REQUIRE(parts[i].entropy.size() == 4);
      REQUIRE(parts[i].key_mass.size() == 2 * 24);
      for (std::size_t h = 0; h < 4; ++h) CHECK(parts[i].entropy[h] == Approx(whole[i].entropy[h]).epsilon(1e-6));
      for (std::size_t k = 0; k < 2 * 24; ++k)
        CHECK(parts[i].key_mass[k] == Approx(whole[i].key_mass[k]).epsilon(1e-6));
    }
  }
  CHECK(whole[2].key_mass != whole[5].key_mass);  // other batches
}

TEST_CASE("recomputing activations changes no bit of what a run measures and learns, and may change at a resume") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  for (const char* preset : {"llama", "gpt2"}) {
    const auto config = [&](const std::string& name, const std::string& recompute) {
      return small_config(folder.path(), {"name=" + std::string(preset) + "-" + name, "train.steps=10",
                                          "model.preset=" + std::string(preset), "model.layers=3",
                                          "train.recompute=" + recompute});
    };
    const auto kept = train_quietly(config("none", "none")).run_directory;
    const auto check_same = [&](const std::filesystem::path& run) {
      INFO(run);
      for (const char* log : {"metrics.jsonl", "probes.jsonl"})
        CHECK(test::timeless_lines(run / log) == test::timeless_lines(kept / log));
      for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
        const auto checkpoint = std::filesystem::path("checkpoints/step_00000010") / file;
        CHECK(test::read_file(run / checkpoint) == test::read_file(kept / checkpoint));
      }
    };
    REQUIRE(test::timeless_lines(kept / "metrics.jsonl").size() == 10);
    for (const char* recompute : {"mlp", "block"})
      check_same(train_quietly(config(recompute, recompute)).run_directory);

    const std::atomic<bool> stop = true;
    TrainOptions options;
    options.stop = &stop;
    REQUIRE(train(config("changed", "none"), std::move(options)).steps == 1);
    check_same(train_quietly(config("changed", "block"), true).run_directory);
  }
}

TEST_CASE("a run trains with each kind of sink logits, whatever is recomputed, and learns those that are learned") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  std::vector<double> losses;
  for (const std::string sink : {"none", "off_by_one", "learned"}) {
    INFO(sink);
    const auto config = [&](const std::string& recompute) {
      return small_config(folder.path(), {"name=" + sink + "-" + recompute, "model.attention.sink=" + sink,
                                          "model.heads=4", "model.kv_heads=2", "train.recompute=" + recompute});
    };
    const std::filesystem::path run = train_quietly(config("none")).run_directory;
    const std::vector<StepRecord> steps = read_step_records(run);
    REQUIRE(steps.size() == 12);
    CHECK(steps.back().loss < steps.front().loss - 0.2);
    losses.push_back(steps.back().loss);
    for (const ProbeRecord& record : read_probe_records(run)) {
      CHECK(record.sink_logit_mass.size() == (sink == "none" ? 0U : 2U));
      for (const double mass : record.sink_logit_mass) CHECK((mass > 0 && mass < 1));
    }
    const auto whole = train_quietly(config("block")).run_directory;
    CHECK(test::timeless_lines(whole / "metrics.jsonl") == test::timeless_lines(run / "metrics.jsonl"));

    const auto checkpoint = newest_checkpoint(run / "checkpoints");
    REQUIRE(checkpoint.has_value());
    const ModelConfig model = read_checkpoint_info(*checkpoint).model;
    const ParameterLayout layout(model);
    std::vector<float> parameters(static_cast<std::size_t>(layout.flat_size()));
    load_checkpoint(*checkpoint, model, parameters, {}, {});
    CHECK(layout.contains("blocks.1.attention.sink") == (sink == "learned"));
    if (sink != "learned") continue;
    const ParameterSpec& spec = layout.find("blocks.1.attention.sink");
    for (std::int64_t i = 0; i < spec.size; ++i) {
      const float logit = parameters[static_cast<std::size_t>(spec.offset + i)];
      CHECK((logit != 0.0F && std::abs(logit) < 0.2F));  // twelve steps of 0.01 at most
    }
  }
  CHECK(losses[0] != losses[1]);
  CHECK(losses[1] != losses[2]);
}

TEST_CASE("accumulated micro-batches make the step of one large batch") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto split = train_quietly(small_config(folder.path(), {"name=split", "train.micro_batch=2",
                                                                "train.gradient_accumulation=3"}));
  const auto whole = train_quietly(small_config(folder.path(), {"name=whole", "train.micro_batch=6",
                                                                "train.gradient_accumulation=1"}));
  const auto a = read_step_records(split.run_directory), b = read_step_records(whole.run_directory);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].loss == Approx(b[i].loss).epsilon(1e-4));
    CHECK(a[i].gradient_norm == Approx(b[i].gradient_norm).epsilon(1e-3));
    CHECK(a[i].sink_score[0] == Approx(b[i].sink_score[0]).epsilon(1e-3));
  }
}

/// What token v scores in a model that predicts the same, whatever the context; rows that pad the
/// vocabulary are next to impossible.
double fixed_logit(std::int64_t v) { return v < 258 ? static_cast<double>(v * 37 % 258) / 50 : -1000; }

/// Puts weights into the run's checkpoint that make every prediction softmax(fixed_logit): all embeddings are ones, the
/// blocks add nothing, and row v of the head is fixed_logit(v) and zeros: sums that no order rounds otherwise.
void fix_predictions(const std::filesystem::path& checkpoint, const Config& config) {
  const ParameterLayout layout(config.model);
  std::vector<float> values(static_cast<std::size_t>(layout.flat_size()), 0.0F), moments(values.size(), 0.0F);
  std::vector<float> ignored(values.size());
  const std::string state = load_checkpoint(checkpoint, config.model, ignored, {}, {});
  const std::int64_t channels = config.model.channels;
  for (const ParameterSpec& spec : layout.specs()) {
    const auto part =
        std::span(values).subspan(static_cast<std::size_t>(spec.offset), static_cast<std::size_t>(spec.size));
    if (spec.name == "embed.token.weight" || spec.group == ParameterGroup::norm)
      std::fill(part.begin(), part.end(), 1.0F);
    if (spec.name != "head.weight") continue;
    for (std::int64_t v = 0; v * channels < spec.size; ++v)
      part[static_cast<std::size_t>(v * channels)] = static_cast<float>(fixed_logit(v));
  }
  save_checkpoint(checkpoint.parent_path(),
                  {.model = config.model, .step = 1, .bos_id = static_cast<std::int32_t>(config.data.bos_id),
                   .eos_id = static_cast<std::int32_t>(config.data.eos_id), .parameters = values,
                   .first_moment = moments, .second_moment = moments, .state = state, .tokenizer_files = {}}, 0);
}

TEST_CASE("arms with and without BOS see the same text and count the same targets") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  double normalizer = 0;
  for (std::int64_t v = 0; v < 258; ++v) normalizer += std::exp(fixed_logit(v));
  std::vector<std::vector<StepRecord>> arms;
  for (const char* bos : {"none", "sequence"}) {
    const Config config =
        plan_run(small_config(folder.path(), {"train.optimizer.learning_rate=0", "train.steps=9",
                                              "data.common_targets=[\"none\",\"sequence\"]", std::string("name=") + bos,
                                              std::string("data.bos=") + bos}))
            .config;
    const std::atomic<bool> stop = true;
    TrainOptions options;
    options.stop = &stop;
    const auto run = train(config, std::move(options)).run_directory;
    fix_predictions(run / "checkpoints/step_00000001", config);
    train_quietly(config, true);
    arms.push_back(read_step_records(run));
    REQUIRE(arms.back().size() == 9);

    // What the losses of steps 2 to 9 must be, from the stream itself: 6 windows of T = 24 a step, of
    // which `none` predicts tokens 1..T, `sequence` tokens 0..T-1, and both tokens 1..T-1.
    constexpr std::int64_t kLength = 24, kWindows = 6;
    const Dataset dataset = open_dataset(config.data);
    const ShuffledOrder order((dataset.train->size() - 1) / kLength, static_cast<std::uint64_t>(config.train.seed));
    for (std::int64_t step = 2; step <= 9; ++step) {
      double all = 0, common = 0;
      for (std::int64_t sample = (step - 1) * kWindows; sample < step * kWindows; ++sample) {
        std::vector<std::int32_t> tokens(kLength + 1);
        dataset.train->read(order.window(sample) * kLength, tokens);
        for (std::size_t t = 0; t <= kLength; ++t) {
          const double loss = std::log(normalizer) - fixed_logit(tokens[t]);
          const bool by_none = t > 0, by_sequence = t < kLength;
          if (config.data.bos == BosPolicy::none ? by_none : by_sequence) all += loss;
          if (by_none && by_sequence) common += loss;
        }
      }
      INFO(bos << ", step " << step);
      const StepRecord& record = arms.back()[static_cast<std::size_t>(step - 1)];
      CHECK(record.loss == Approx(all / (kWindows * kLength)).epsilon(1e-5));
      CHECK(record.loss_common == Approx(common / (kWindows * (kLength - 1))).epsilon(1e-5));
    }
  }
  for (std::size_t i = 1; i < 9; ++i) {
    CHECK(arms[0][i].loss_common == Approx(arms[1][i].loss_common).epsilon(1e-9));
    CHECK(arms[0][i].loss != Approx(arms[1][i].loss).epsilon(1e-4));  // other targets would show
  }
}

TEST_CASE("probe sets hold none of the rows that pad the vocabulary") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = plan_run(small_config(folder.path(), {"model.vocab_size=4096", "train.steps=3",
                                                              "train.optimizer.learning_rate=0"})).config;
  const std::atomic<bool> stop = true;
  TrainOptions options;
  options.stop = &stop;
  const auto run = train(config, std::move(options)).run_directory;
  fix_predictions(run / "checkpoints/step_00000001", config);
  train_quietly(config, true);
  const auto probes = read_probe_records(run);
  REQUIRE(probes.size() == 2 * 6);  // steps 0 and 3
  for (std::size_t i = 6; i < probes.size(); ++i) {
    INFO(probes[i].set);
    CHECK(probes[i].loss < 10);  // about 7; one such target among 96 would add 10
  }
}

TEST_CASE("a run directory that holds a run is not overwritten") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path(), {"train.steps=3"});
  train_quietly(config);
  const std::string before = test::read_file(folder.path() / "runs/small/metrics.jsonl");
  CHECK(train_error(config) ==
        (folder.path() / "runs/small").string() +
            ": holds a run already; resume it with --resume, or give another name with --set name=...");
  CHECK(test::read_file(folder.path() / "runs/small/metrics.jsonl") == before);
}

TEST_CASE("a run that diverges stops with the step and the tensor named") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::string error = train_error(
      small_config(folder.path(), {"train.optimizer.learning_rate=1e38", "train.schedule.warmup_steps=0"}));
  CHECK(error.find("step 2: the loss is not finite; the first tensor that is not: ") != std::string::npos);
  const auto events = read_event_records(folder.path() / "runs/small");
  REQUIRE(!events.empty());
  CHECK(events.back().kind == "alert");
  CHECK(events.back().step == 2);
  CHECK(test::contains(error, events.back().message));
  const auto data = nlohmann::json::parse(events.back().data);
  CHECK(data.at("name") == "non_finite");
  CHECK(data.at("value").is_string());
  CHECK(!data.at("tensor").get<std::string>().empty());
  CHECK(read_step_records(folder.path() / "runs/small").size() == 1);
}

TEST_CASE("without the alert a run that diverges stops all the same, with a warning") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::string error =
      train_error(small_config(folder.path(), {"train.optimizer.learning_rate=1e38", "train.schedule.warmup_steps=0",
                                               "alerts.non_finite=false"}));
  CHECK(test::contains(error, "step 2: the loss is not finite"));
  CHECK(read_event_records(folder.path() / "runs/small").back().kind == "warning");
}

TEST_CASE("the command of the alert that stops a run is run to its end, with the alert already logged") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::string run = (folder.path() / "runs/small").string();
  train_error(small_config(
      folder.path(),
      {"train.optimizer.learning_rate=1e38", "train.schedule.warmup_steps=0",
       R"(alerts.command=["/bin/sh","-c","sleep 0.2; cat; tail -n 1 $SINKSCOPE_ALERT_RUN/events.jsonl"])"}));
  const std::string log = test::read_file(folder.path() / "runs/small/alerts.log");
  const std::string line = log.substr(0, log.find('\n') + 1);
  CHECK(test::contains(line, "non_finite"));
  CHECK(log == line + line);
}

TEST_CASE("a command that fails or hangs changes nothing of a run but for one warning") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::vector<std::string> many = {
      "alerts.window=4",        "alerts.loss_spike=0.01",   "train.optimizer.learning_rate=0.1",
      "probes.phase.onset=0.1", "alerts.sink_collapse=0.6", "alerts.command_timeout=0.3"};
  const auto run_of = [&](const std::string& name, const std::string& command) {
    std::vector<std::string> overrides = many;
    overrides.push_back("name=" + name);
    overrides.push_back("alerts.command=" + command);
    const TrainResult result = train_quietly(small_config(folder.path(), overrides));
    CHECK(result.finished);
    return result.run_directory;
  };
  const auto quiet = run_of("quiet", "[]");
  CHECK(!std::filesystem::exists(quiet / "alerts.log"));
  const auto alerts = read_event_records(quiet);
  CHECK(std::count_if(alerts.begin(), alerts.end(), [](const EventRecord& e) { return e.kind == "alert"; }) > 1);
  for (const char* command : {R"(["/bin/sh","-c","exit 9"])", R"(["sleep","1000"])", R"(["no-such-program"])"}) {
    INFO(command);
    const auto run = run_of("run" + std::to_string(std::string(command).size()), command);
    CHECK(test::timeless_lines(run / "metrics.jsonl") == test::timeless_lines(quiet / "metrics.jsonl"));
    auto lines = test::timeless_lines(run / "events.jsonl");
    CHECK(std::erase_if(lines, [](const std::string& line) { return test::contains(line, "alerts.command"); }) == 1);
    CHECK(lines == test::timeless_lines(quiet / "events.jsonl"));
  }
}

TEST_CASE("a run tells its plan before its first step, and a finished one that is resumed does not") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const Config config = small_config(folder.path());
  const RunPlan planned = plan_run(config);
  for (const bool resume : {false, true}) {
    std::vector<RunPlan> told;
    TrainOptions options;
    options.resume = resume;
    options.announce = [&](const RunPlan& plan) {
      told.push_back(plan);
      CHECK(read_step_records(folder.path() / "runs/small").empty());
    };
    train(config, std::move(options));
    REQUIRE(told.size() == (resume ? 0 : 1));
    if (resume) continue;
    CHECK(told[0].config.model.vocab_size == 258);
    CHECK(told[0].parameters == planned.parameters);
    CHECK(total_bytes(told[0].memory) == total_bytes(planned.memory));
    CHECK(told[0].dataset_fingerprint == planned.dataset_fingerprint);
    CHECK(test::contains(told[0].device, "fp32, "));
  }
}

/// Weight decay at this rate takes the weights beyond the largest float in the first step, though the
/// loss and the gradients that lead to it are finite.
Config diverging_config(const std::filesystem::path& folder, std::vector<std::string> overrides) {
  overrides.insert(overrides.end(), {"train.optimizer.learning_rate=1e38", "train.optimizer.weight_decay=1000",
                                     "train.schedule.warmup_steps=0", "train.schedule.type=constant",
                                     "sample.every=0", "probes.every=0", "checkpoint.every=1", "checkpoint.keep=1"});
  return small_config(folder, overrides);
}

TEST_CASE("weights that are not finite are never saved, and no good ones are removed for them") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto run = folder.path() / "runs/small";
  const std::string error = train_error(diverging_config(folder.path(), {"evaluation.every=0"}));
  CHECK(test::contains(error, "step 1: the model to save is not finite; the first tensor that is not: parameter "));
  CHECK(!newest_checkpoint(run / "checkpoints"));
  const auto events = read_event_records(run);
  REQUIRE(events.size() == 2);
  CHECK(events[0].kind == "start");
  CHECK(events[1].kind == "alert");
}

TEST_CASE("a run that diverges keeps its last good checkpoint, and goes on from it") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const auto run = folder.path() / "runs/small";
  const std::vector<std::string> small_steps = {"train.schedule.type=constant", "train.schedule.warmup_steps=0",
                                                "train.optimizer.weight_decay=1000", "checkpoint.every=1",
                                                "checkpoint.keep=1", "evaluation.every=0", "train.steps=3"};
  std::vector<std::string> large_steps = small_steps;
  large_steps.push_back("train.optimizer.learning_rate=1e38");
  {
    const std::atomic<bool> stop = true;
    TrainOptions options;
    options.stop = &stop;
    REQUIRE(train(small_config(folder.path(), small_steps), std::move(options)).steps == 1);
  }
  // Nothing but another rate, behind the run's back: the next step takes the weights to infinity.
  const std::string config = test::read_file(run / "config.json");
  const std::string rate = "\"learning_rate\": 0.01";
  REQUIRE(test::contains(config, rate));
  std::string changed = config;
  test::write_file(run / "config.json", changed.replace(config.find(rate), rate.size(), "\"learning_rate\": 1e38"));
  CHECK(test::contains(train_error(small_config(folder.path(), large_steps), true),
                       "step 2: the model to save is not finite"));
  CHECK(newest_checkpoint(run / "checkpoints") == run / "checkpoints/step_00000001");

  test::write_file(run / "config.json", config);
  CHECK(train_quietly(small_config(folder.path(), small_steps), true).finished);
}

TEST_CASE("a validation loss that is not finite stops the run, which then has not ended well") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const std::string error = train_error(diverging_config(folder.path(), {"train.steps=1"}));
  CHECK(test::contains(error, "step 1: the validation loss is not finite; the first tensor that is not: parameter "));
  const auto run = folder.path() / "runs/small";
  CHECK(read_step_records(run).size() == 1);
  for (const EventRecord& event : read_event_records(run)) CHECK((event.kind == "start" || event.kind == "alert"));
  CHECK(!newest_checkpoint(run / "checkpoints"));
}

TEST_CASE("a device that is not there, and a precision it does not have, are refused by name") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  CHECK(train_error(small_config(folder.path(), {"device=cpu", "precision=bf16"})) ==
        "precision is \"bf16\", and the CPU computes in fp32; expected \"fp32\" or \"auto\"");
  std::string why;
  if (!cuda_devices(&why).empty()) return;  // a GPU machine: nothing is refused
  CHECK(train_error(small_config(folder.path(), {"device=cuda"})) ==
        "device is \"cuda\", and there is no GPU: " + why + "; expected \"cpu\" or \"auto\"");
  CHECK(!std::filesystem::exists(folder.path() / "runs"));
}

TEST_CASE("a plan states what a run will take and writes nothing") {
  TemporaryFolder folder;
  test::make_dataset(folder.path());
  const RunPlan plan = plan_run(small_config(folder.path()));
  CHECK(plan.config.model.vocab_size == 258);
  CHECK(plan.tokens_per_step == 3 * 2 * 24);
  CHECK(plan.parameters == 2 * 258 * 16 + 16 + 2 * (2 * 16 + 48 * 16 + 16 * 16 + 48 * 16 + 16 * 24));
  std::size_t bytes = 0;
  for (const MemoryLine& line : plan.memory)
    if (line.arena == "parameters") bytes += line.bytes;
  CHECK(bytes >= static_cast<std::size_t>(plan.parameters) * sizeof(float));
  CHECK(!std::filesystem::exists(folder.path() / "runs"));
}

}  // namespace
}  // namespace sinkscope
