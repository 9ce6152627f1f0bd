#include "engine/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/world.h"
#include "engine/config/load.h"
#include "engine/metrics/gpu_peak.h"
#include "engine/optim/schedule.h"
#include "engine/probes/probe_sets.h"
#include "engine/probes/step_probe.h"
#include "engine/train/non_finite.h"
#include "engine/train/rank_sums.h"
#include "engine/train/run.h"
#include "engine/train/text_sampler.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

/// True on every `every`-th step; never for 0.
bool due(std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; }

}  // namespace

Run::Run(const Config& config, TrainOptions options, World& world)
    : world_(world),
      options_(std::move(options)),
      dataset_(open_dataset(config.data)),
      config_(run_config(config, dataset_)),
      share_(batch_share(config_.train, world.rank(), world.size())),
      directory_(run_directory(config_)),
      probe_sets_(world.leads() ? run_probe_sets(config_, dataset_) : std::vector<ProbeSet>{}),
      ops_(make_ops_that_fit(config_, probe_sets_, world.size(), world.local_rank(), world.on_one_host())),
      decoder_(*ops_, config_.model, decoder_options(config_, world.size())),
      optimizer_(*ops_, decoder_.layout(), config_.train.optimizer,
                 share_of(config_.ranks, decoder_.layout(), world.rank(), world.size())),
      batches_(dataset_, config_),
      phases_(config_.probes.phase),
      alerts_(config_),
      tokens_per_step_(share_.sequences * config_.train.sequence_length),
      log_(config_, directory_, tokens_per_step_, std::move(options_.console)),
      flops_per_token_(training_flops_per_token(config_.model, config_.train.sequence_length)) {
  if (ops_->compute_dtype() == DType::bf16) peak_flops_ = datasheet_bf16_flops(ops_->gpu_name());
  if (dataset_.validation) validation_windows_.emplace(*dataset_.validation, window_options(config_));
  if (!probe_sets_.empty()) probe_pass_.emplace(*ops_, decoder_, config_.probes, probe_sets_);
  if (probe_pass_ && config_.probes.causal_every > 0) {
    if (const ProbeSet& set = causal_probe_set(probe_sets_, config_.data.bos); set.sequences < 2)
      throw ConfigError(
          "probes.causal_every needs at least 2 sequences of held-out text for its intervals, and the validation text "
          "has one of " +
          std::to_string(set.length) + " tokens (probe set \"" + set.name + "\")");
    causal_tests_.emplace(*ops_, decoder_, causal_options(config_.probes));
  }
  ops_->reserve(backend_extents(config_of_rank(config_, world.size()), probe_sets_, backend_of(config_, world.size()),
                                world.rank()));
  if (dataset_.tokenizer == "byte")
    tokenizer_ = make_byte_tokenizer();
  else if (!dataset_.tokenizer_path.empty())
    tokenizer_ = open_tokenizer(dataset_.tokenizer_path);
  losses_.resize(static_cast<std::size_t>(share_.rows * config_.train.sequence_length));
}

TrainResult Run::execute() {
  connect();
  if (world_.leads()) options_.resume ? resume() : begin();
  share_state();
  if (state_.step == 0)
    parameters_->of_rank_0([this] {
      if (probe_pass_) probe(0, std::nan(""));
    });

  const std::int64_t steps = config_.train.steps;
  bool stopped = false;
  const std::int64_t steps_before = state_.step;
  std::int64_t step = steps_before;
  while (step < steps && !stopped) {
    ++step;
    // A first step makes plans of products.
    const bool first = step == steps_before + 1 || (decoder_.options().fp8 && step == 2);
    const bool patient = first || works_for_all(step) || works_for_all(step - 1);
    world_.set_limit(patient ? config_.ranks.start_timeout : config_.ranks.timeout);
    StepRecord record = training_step(step);
    if (due(step, config_.evaluation.every) || step == steps) evaluate(record);
    log_.step(record, step % config_.log.every == 0 || step == steps || record.validation_loss || probes_after(step));
    log_.alert(alerts_.step(record));
    if (works_for_all(step))
      parameters_->of_rank_0([&] {
        if (probe_pass_ && probes_after(step)) probe(step, state_.validation_loss.value_or(record.loss));
        if (causal_tests_ && due(step, config_.probes.causal_every)) test_causes(step);
        if (due(step, config_.sample.every)) sample(step);
      });
    // Of several ranks a signal counts that came before the step's message, or is there after what was done behind it.
    stopped = stops_;
    if (world_.size() == 1 || works_for_all(step) || record.validation_loss)
      stopped = ranks_->any(stops_ || told_to_stop());
    if (due(step, config_.checkpoint.every) || step == steps || stopped) save(step);
    log_.report_command(step);
    if (step == steps || stopped) log_.finish_command(step);
    if (step == steps) end(step);
  }
  const bool finished = step == steps;
  if (finished) log_.end_console(step);
  log_.flush();
  lock_.reset();  // nothing more is written: whoever sees a rank end may resume
  world_.set_limit(config_.ranks.start_timeout);
  ranks_->barrier();
  return {.run_directory = directory_,
          .steps = step,
          .steps_before = steps_before,
          .finished = finished,
          .validation_loss = state_.validation_loss};
}

/// The ways between the ranks, for what is computed here.
void Run::connect() {
  world_.expect_equal("config", to_json(config_).dump(), config_difference);
  world_.expect_equal("dataset", dataset_.fingerprint);
  world_.expect_equal("build", options_.build);
  ranks_ = world_.connect(*ops_, carried_bytes(decoder_.layout(), config_.ranks, world_.size(), ops_->compute_dtype()));
  gradients_.emplace(*ops_, decoder_, *ranks_, config_.ranks);
  parameters_.emplace(*ops_, decoder_, *ranks_, config_.ranks);
  weights_.emplace(*ops_, decoder_, optimizer_, *parameters_, *ranks_);
}

/// What rank 0 has begun or resumed, on every rank.
void Run::share_state() {
  const std::string state = ranks_->text_of(0, to_text(state_));
  if (!world_.leads()) state_ = loop_state_from_text(state, "the state of rank 0");
  weights_->spread(begun_, state_.step > 0);
  begun_ = {};
  if (!state_.fp8.empty()) decoder_.set_fp8_scales(state_.fp8.scales());
}

/// Whether rank 0 does at this step, while the others wait, what may take long.
bool Run::works_for_all(std::int64_t step) const {
  return step == config_.train.steps || due(step, config_.probes.every) || due(step, config_.probes.causal_every) ||
         due(step, config_.sample.every) || due(step, config_.checkpoint.every);
}

/// Whether a probe pass follows the step, which then measures its own batch as well.
bool Run::probes_after(std::int64_t step) const {
  return has_probe_passes(config_.probes) && (due(step, config_.probes.every) || step == config_.train.steps);
}

/// One optimizer step: forward, loss and backward of this rank's sequences, sums over the ranks, then clipping and
/// AdamW, of all parameters or of the rank's share. Work is enqueued ahead of the device; at the end the update may
/// still be under way.
StepRecord Run::training_step(std::int64_t step) {
  const StageRange range(*ops_, "step", step);
  const auto begin = std::chrono::steady_clock::now();
  const TrainConfig& train = config_.train;
  const auto scale = static_cast<float>(1.0 / static_cast<double>(tokens_per_step_));
  LossSums sums;
  std::optional<Batch> suspect;  // the first of this rank's whose loss is not finite
  gradients_->begin_step();
  decoder_.zero_step_sums();
  for (std::int64_t pass = 0; pass < share_.passes; ++pass) {
    const auto [first, rows] = share_.pass(pass);
    const bool last = pass + 1 == share_.passes;
    const Batch& batch = batches_.take(state_.sample + first, rows);
    const BackwardHooks hooks = gradients_->begin_pass(last);
    decoder_.forward(batch.sequences, batch.length, batch.inputs.data());
    const std::function<void()> wait_for_losses = decoder_.loss_later(batch.targets.data(), losses_.data(), scale);
    decoder_.add_step_sums(config_.probes.sink_threshold);
    parameters_->settle();  // while the device has the head to do
    if (probes_after(step))
      decoder_.backward_with_attention_sums(hooks);
    else
      decoder_.backward(hooks);
    // While the device goes back: the losses are looked at, the next batch is drawn.
    if (!last || step < train.steps) {
      const auto [next, next_rows] = share_.pass(last ? 0 : pass + 1);
      batches_.fetch(state_.sample + (last ? share_.sequences : 0) + next, next_rows);
    }
    wait_for_losses();
    world_.works();
    sums.add(losses_, batch);
    // The ranks learn of it when all passes are done, in which they may sum gradients together.
    if (!std::isfinite(sums.all) && !suspect) suspect = batch;
  }
  state_.sample += share_.sequences;
  const std::function<StepSums()> wait_for_sums = decoder_.step_sums_later();
  gradients_->finish();

  StepRecord record;
  record.learning_rate = learning_rate(train.schedule, train.optimizer.learning_rate, step, train.steps);
  const AdamW::SumOverRanks sum_norms = [this](const Tensor& norms) {
    ranks_->start_all_reduce(norms, DType::f32);
    ranks_->join();
  };
  const std::function<UpdateResult()> wait_for_update =
      optimizer_.step_later(parameters_->own(), gradients_->gradients(), record.learning_rate, step,
                            gradients_->share_alone() ? sum_norms : AdamW::SumOverRanks());
  ranks_->finish();  // the host waits for other ranks here, where it is known to, not for the norms
  const UpdateResult update = wait_for_update();
  // While the device updates: one message between the ranks for all that the host sums.
  StepSums step_sums = wait_for_sums();
  std::int64_t stops = told_to_stop() ? 1 : 0;
  sum_over_ranks(*ranks_, sums, step_sums, stops);
  stops_ = stops > 0;
  if (!std::isfinite(sums.all)) stop_not_finite(step, "the loss", sums.mean(), tensor_not_finite(suspect));
  if (update.non_finite)
    stop_not_finite(step, "the gradient", update.gradient_norm, "the gradient of " + *update.non_finite);
  parameters_->changed();
  if (decoder_.options().fp8) {
    state_.fp8.add(step_sums.amax);
    decoder_.set_fp8_scales(state_.fp8.scales());
  }
  state_.step = step;
  world_.set_step(step);

  record.step = step;
  record.tokens = tokens_after(step);
  record.loss = sums.mean();
  record.loss_common = sums.mean_common();
  record.gradient_norm = update.gradient_norm;
  if (config_.probes.enabled) {
    fill_step(step_sums, record);
    fill_gradient_norms(config_.model.layers, decoder_.layout().specs(), update.squared_norms, record);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  record.step_seconds = seconds.count();
  record.tokens_per_second = static_cast<double>(tokens_per_step_) / record.step_seconds;
  if (peak_flops_) record.mfu = record.tokens_per_second * flops_per_token_ / (*peak_flops_ * world_.size());
  return record;
}

/// Mean loss over the first windows of the validation stream, the same ones every time; ranks take batches in turns.
void Run::evaluate(StepRecord& record) {
  if (!validation_windows_) return;
  const StageRange range(*ops_, "evaluation");
  parameters_->settle();
  const std::int64_t wanted = config_.evaluation.batches * config_.train.micro_batch;
  const std::int64_t windows = std::min(wanted, validation_windows_->count());
  LossSums sums;
  std::optional<Batch> suspect;  // the first of this rank's whose loss is not finite
  Batch batch;
  std::vector<float> losses;
  for (std::int64_t turn = 0; turn < windows; turn += world_.size() * share_.rows) {
    const std::int64_t first = turn + world_.rank() * share_.rows, rows = std::min(share_.rows, windows - first);
    if (rows <= 0) {
      parameters_->pass_by();
      continue;
    }
    validation_windows_->resize(batch, rows);
    losses.resize(batch.targets.size());
    for (std::int64_t row = 0; row < rows; ++row) validation_windows_->fill(first + row, row, batch);
    decoder_.forward(batch.sequences, batch.length, batch.inputs.data());
    decoder_.loss(batch.targets.data(), losses.data());
    world_.works();
    sums.add(losses, batch);
    if (!std::isfinite(sums.all) && !suspect) suspect = batch;
  }
  sum_over_ranks(*ranks_, sums);
  if (!std::isfinite(sums.all)) {
    log_.write(record);  // the step itself was done
    stop_not_finite(record.step, "the validation loss", sums.mean(), tensor_not_finite(suspect));
  }
  record.validation_loss = sums.mean();
  record.validation_loss_common = sums.mean_common();
  state_.validation_loss = record.validation_loss;
  state_.validation_losses.push_back(sums.mean());
  if (std::ssize(state_.validation_losses) > config_.probes.phase.window)
    state_.validation_losses.erase(state_.validation_losses.begin());
}

/// A probe pass over the fixed sets, and what the phase detector makes of it. `loss` NaN: that of the
/// phase set itself.
void Run::probe(std::int64_t step, double loss) {
  const StageRange range(*ops_, "probes");
  std::vector<ProbeRecord> records = probe_pass_->run(step, tokens_after(step));
  std::optional<PhaseChange> change;
  std::vector<Alert> alerts;
  for (ProbeRecord& record : records) {
    if (record.set != phase_probe_set(config_.data.bos)) continue;
    const double rate = remaining_rate(config_.train.schedule, step, config_.train.steps);
    const PhaseInput input = phase_input(record, std::isnan(loss) ? record.loss : loss, rate);
    const PhaseReading reading = phases_.update(input);
    add_signals(reading, state_.validation_losses, record);
    change = reading.change;
    alerts = alerts_.probe(input, change);
  }
  for (const ProbeRecord& record : records) log_.probe(record);
  if (change) log_.event(phase_event(*change), !config_.alerts.phase_change);  // which else its alert tells
  log_.alert(alerts);
}

void Run::test_causes(std::int64_t step) {
  const StageRange range(*ops_, "causal tests");
  const CausalRecord record = causal_tests_->run(causal_probe_set(probe_sets_, config_.data.bos), probe_sets_);
  log_.event(step, "causal", causal_summary(record), to_json(record));
}

void Run::sample(std::int64_t step) {
  const StageRange range(*ops_, "sample");
  const std::string text = sample_text(decoder_, *tokenizer_, config_, step);
  log_.event(step, "sample", text, {{"prompt", config_.sample.prompt}, {"temperature", config_.sample.temperature}});
}

/// Logs first, then the checkpoint: what a resume finds in the logs reaches at least as far. The event stands there
/// before the save, so that it is there exactly once after a resume from it; the console hears of it behind the save.
/// Nothing is written of a model that is not finite: it would push out the last checkpoint that is.
void Run::save(std::int64_t step) {
  const StageRange range(*ops_, "checkpoint");
  HostWeights buffers;
  const HostWeightViews weights = weights_->collect(buffers);
  if (!world_.leads()) return;
  CheckpointData data{.model = config_.model,
                      .step = step,
                      .bos_id = static_cast<std::int32_t>(config_.data.bos_id),
                      .eos_id = static_cast<std::int32_t>(config_.data.eos_id),
                      .parameters = weights.parameters,
                      .first_moment = weights.first_moment,
                      .second_moment = weights.second_moment,
                      .state = {},
                      .tokenizer_files = tokenizer_ ? tokenizer_->files() : std::vector<std::filesystem::path>{}};
  expect_finite(step, "parameter ", data.parameters);
  expect_finite(step, "the first moment of ", data.first_moment);
  expect_finite(step, "the second moment of ", data.second_moment);

  char name[32];
  std::snprintf(name, sizeof name, "step_%08lld", static_cast<long long>(step));
  const EventRecord saved{.step = step,
                          .tokens = step * tokens_per_step_,
                          .kind = "checkpoint",
                          .message = std::string("checkpoint ") + name,
                          .data = Json{{"checkpoint", name}}.dump()};
  log_.event(saved, false);
  log_.flush();
  if (probe_pass_) state_.phase_detector = phases_.state();
  state_.alerts = alerts_.state();
  data.state = to_text(state_);
  std::vector<std::string> left;
  try {
    save_checkpoint(directory_ / "checkpoints", data, config_.checkpoint.keep, &left);
  } catch (const std::exception& error) {
    try {
      log_.event(step, "warning", saved.message + " was not saved: " + error.what(), Json::object());
    } catch (const std::exception&) {  // the log has no room either
    }
    throw;
  }
  log_.tell_event(saved);
  for (const std::string& reason : left)
    log_.event(step, "warning", "an old checkpoint stays: " + reason, Json::object());
}

/// After the last checkpoint is saved.
void Run::end(std::int64_t step) {
  Json data = {{"steps", step}};
  if (state_.validation_loss) data["validation_loss"] = *state_.validation_loss;
  log_.event(step, "end", "training ends after " + std::to_string(step) + " steps", data);
}

void Run::expect_finite(std::int64_t step, const std::string& what, std::span<const float> values) {
  if (const auto name = first_non_finite(decoder_.layout(), values))
    throw tell_not_finite(step, "the model to save",
                          *std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); }),
                          what + *name);
}

/// On every rank the first tensor that is not finite, of the lowest rank that has a batch with such a loss. Where the
/// gradients were finite all the same, weights may in part be those after the update.
std::string Run::tensor_not_finite(const std::optional<Batch>& suspect) {
  world_.set_limit(config_.ranks.start_timeout);
  std::optional<std::string> found;
  parameters_->looked_into([&] {
    if (suspect) {
      found = first_non_finite(*ops_, decoder_, *suspect);
    } else {
      parameters_->pass_by();  // as the ranks that look at the parameters,
      parameters_->pass_by();  // and go forward
    }
  });
  return ranks_->first(found).value_or("none of one rank");
}

/// Logs it, and returns what to throw.
std::runtime_error Run::tell_not_finite(std::int64_t step, const std::string& what, double value,
                                        const std::string& tensor) {
  const std::string message = what + " is not finite; the first tensor that is not: " + tensor;
  if (const auto found = alerts_.non_finite(step, tokens_after(step), value, message, tensor))
    log_.alert({*found});
  else
    log_.event(step, "warning", message, {{"tensor", tensor}});
  log_.finish_command(step);
  log_.flush();
  return std::runtime_error(directory_.string() + ": step " + std::to_string(step) + ": " + message);
}

/// Where every rank has found it.
void Run::stop_not_finite(std::int64_t step, const std::string& what, double value, const std::string& tensor) {
  const std::runtime_error error = tell_not_finite(step, what, value, tensor);
  world_.set_limit(config_.ranks.start_timeout);
  ranks_->barrier();
  world_.end_in_order();
  if (!world_.leads()) throw ToldElsewhere();
  throw error;
}

TrainResult train(const Config& config, TrainOptions options) {
  World alone;
  World& world = options.world == nullptr ? alone : *options.world;
  const std::function<void(const std::string&)> tell = options.tell;
  const auto run = world.together([&] { return std::make_unique<Run>(config, std::move(options), world); });
  try {
    return run->execute();
  } catch (const ToldElsewhere&) {
    throw;
  } catch (const std::exception& error) {
    if (!tell) throw;
    tell(error.what());  // before the run ends, which may take long where the device waits for other ranks
    throw ToldElsewhere();
  }
}

}  // namespace sinkscope
