// How a run begins, or goes on: its directory, the logs and what the ranks begin with.
#include <chrono>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>
#include <stdexcept>

#include "engine/checkpoint/checkpoint.h"
#include "engine/comm/world.h"
#include "engine/files/new_folder.h"
#include "engine/model/parameters.h"
#include "engine/train/run.h"

namespace sinkscope {
namespace {

using Json = nlohmann::ordered_json;

/// Throws std::runtime_error where a run in this directory would lie in a part of another run that is pruned, or where
/// an ablation's arms lie.
void expect_own_place(const std::filesystem::path& directory) {
  const auto refuse = [&](const std::string& why) {
    throw std::runtime_error(directory.string() + ": " + why + "; give another name with --set name=...");
  };
  if (std::filesystem::exists(directory / "ablation.json")) refuse("holds the arms of an ablation");
  for (std::filesystem::path part = directory; part.has_relative_path(); part = part.parent_path())
    if (const std::string name = part.filename().string();
        (name == "checkpoints" || name == "tensorboard") && std::filesystem::exists(part.parent_path() / "config.json"))
      refuse("lies in the " + name + " of the run " + part.parent_path().string());
}

}  // namespace

std::string Run::device() const {
  return device_description(config_, *ops_) + (world_.size() == 1 ? "" : ", " + ranks_->description());
}

void Run::begin() {
  if (std::filesystem::exists(directory_ / "config.json"))
    throw std::runtime_error(
        directory_.string() +
        ": holds a run already; resume it with --resume, or give another name with --set name=...");
  expect_own_place(directory_);
  make_folders(directory_);
  lock_.emplace(directory_);
  if (std::filesystem::exists(directory_ / "config.json"))  // another process was faster
    throw std::runtime_error(directory_.string() + ": holds a run already");
  initialize();
  write_config();
  log_.open(std::nullopt, probe_pass_.has_value());
  announce();
  start("begins");
}

void Run::write_config() const {
  write_run_config(directory_, config_,
                   {.build = options_.build,
                    .device = device(),
                    .dataset_fingerprint = dataset_.fingerprint,
                    .parameters = decoder_.layout().parameter_count()});
}

void Run::resume() {
  const std::vector<ChangedSetting> changed = check_run_config(directory_, config_, dataset_.fingerprint);
  lock_.emplace(directory_, std::chrono::seconds(3));  // a launcher does not wait for the processes that it kills
  std::vector<std::string> rejected;
  const auto checkpoint = newest_checkpoint(directory_ / "checkpoints", &rejected);
  if (!checkpoint && !rejected.empty()) {
    std::string reasons;
    for (const std::string& reason : rejected) reasons += "\n  " + reason;
    throw std::runtime_error((directory_ / "checkpoints").string() +
                             ": no checkpoint can be continued from; the run is left as it is:" + reasons);
  }
  if (!log_.has_console())  // which the event tells below
    for (const std::string& reason : rejected) spdlog::warn("checkpoint left aside: {}", reason);
  if (!checkpoint) {  // stopped before the first checkpoint: begin anew, in the same place
    expect_none_saved(directory_);
    initialize();
    if (!changed.empty()) write_config();
    log_.open(-1, probe_pass_.has_value());
    announce();
    start("begins again: there was no checkpoint to resume");
    return;
  }
  load(*checkpoint);
  log_.open(state_.step, probe_pass_.has_value());
  log_.recall_probes();
  if (state_.step >= config_.train.steps) {
    if (!has_ended(logged_events(directory_))) end(state_.step);  // killed right after the last checkpoint
    return;
  }
  announce();
  Json data = {{"checkpoint", checkpoint->filename().string()}, {"device", device()}};
  for (const ChangedSetting& setting : changed)
    data["changed"][setting.key] = {{"before", Json::parse(setting.before)}, {"now", Json::parse(setting.now)}};
  log_.event(state_.step, "resume", "resumed from " + checkpoint->filename().string(), data);
  for (const std::string& reason : rejected)
    log_.event(state_.step, "warning", "checkpoint left aside: " + reason, Json::object());
}

void Run::announce() const {
  if (!options_.announce) return;
  RunPlan plan = plan_of(config_, dataset_, probe_sets_, world_.size(), world_.on_one_host());
  plan.device = device();
  options_.announce(plan);
}

/// What stands in the logs before the first step.
void Run::start(const std::string& how) {
  log_.event(0, "start", "training of " + std::to_string(decoder_.layout().parameter_count()) + " parameters " + how,
        {{"parameters", decoder_.layout().parameter_count()},
         {"device", device()},
         {"train_tokens", dataset_.train->size()},
         {"tokens_per_step", tokens_per_step_}});
  if (!dataset_.validation)
    log_.event(0, "warning", "the dataset has no validation data: validation losses are not measured", Json::object());
}

void Run::initialize() {
  begun_.parameters.resize(static_cast<std::size_t>(decoder_.layout().flat_size()));
  initialize_parameters(decoder_.layout(), static_cast<std::uint64_t>(config_.train.seed), begun_.parameters);
}

void Run::load(const std::filesystem::path& checkpoint) {
  const auto size = static_cast<std::size_t>(decoder_.layout().flat_size());
  begun_ = {std::vector<float>(size), std::vector<float>(size), std::vector<float>(size)};
  const std::string text =
      load_checkpoint(checkpoint, config_.model, begun_.parameters, begun_.first_moment, begun_.second_moment);
  const std::string origin = (checkpoint / "state.json").string();
  state_ = loop_state_from_text(text, origin);
  if (state_.step > config_.train.steps)
    throw std::runtime_error(origin + ": step " + std::to_string(state_.step) + " is beyond train.steps = " +
                             std::to_string(config_.train.steps));
  if (decoder_.options().fp8) check_fp8(state_.fp8, config_.model.layers, origin);
  if (probe_pass_) phases_.restore(state_.phase_detector);
  if (!state_.alerts.empty()) alerts_.restore(state_.alerts);
}

}  // namespace sinkscope
