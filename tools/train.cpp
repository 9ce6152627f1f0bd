#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/comm/world.h"
#include "engine/config/load.h"
#include "engine/train/batch_share.h"
#include "engine/train/trainer.h"
#include "kernels/ops.h"
#include "tools/arguments.h"
#include "tools/commands.h"
#include "tools/local_ranks.h"
#include "tools/plan.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::optional<std::int64_t> gpus;
  bool resume = false;
  bool dry_run = false;
};

/// This process as one rank, or alone.
void train_as_rank(const TrainArguments& arguments, const Config& config, World& world) {
  watch_interrupts();
  outlive_output();
  TrainOptions options;
  options.resume = arguments.resume;
  options.build = build_description();
  options.world = &world;
  options.stop = &interrupted();
  options.tell = [&world](const std::string& message) { tell_of_rank(world, message); };
  if (world.leads()) {
    options.console = make_run_console(config);
    options.announce = print_start;
  }
  const TrainResult result = train(config, std::move(options));
  world.end_in_order();  // also where end_stopped() throws
  if (!world.leads()) {
    if (!result.finished) end_stopped();
    return;
  }
  tell_finished(result);
  if (!result.finished) {
    std::string line = "\nstopped after step " + std::to_string(result.steps);
    if (std::getenv(kArmVariable) == nullptr) {  // whoever trains arms tells how all of them go on
      if (world.size() > 1)
        line += " (" + std::to_string(world.size()) + " ranks; start as many again, or any other number)";
      line += "; go on with: sinkscope train " + shell_word(arguments.config) + set_options(arguments.overrides);
      if (arguments.gpus) line += " --gpus " + std::to_string(*arguments.gpus);
      line += " --resume";
    }
    print_line(line);
    end_stopped();
  }
  print_line("run: " + result.run_directory.string());
}

/// Of a plan, for which GPUs that are asked for need not be here.
int planned_ranks(const Config& config, const Launch& launch) {
  if (!launch.launcher.empty()) return std::max(launch.size, 1);
  if (config.ranks.gpus == 0 || backend_of(config).device != Device::cuda)
    return local_ranks(config, static_cast<int>(cuda_devices().size()));
  const auto ranks = static_cast<int>(config.ranks.gpus);
  static_cast<void>(batch_share(config.train, 0, ranks));
  return ranks;
}

void run(const TrainArguments& arguments) {
  const Launch launch = read_launch();
  Config config;
  std::exception_ptr refused;
  try {
    config = load_config(arguments.config, arguments.overrides);
  } catch (const std::exception&) {
    if (launch.launcher.empty() || arguments.dry_run) throw;
    refused = std::current_exception();  // probably on all ranks, of which one tells
  }
  if (arguments.gpus) config.ranks.gpus = *arguments.gpus;
  if (const std::int64_t gpus = arguments.gpus.value_or(0);
      gpus > 0 && launch.size > 0 && !launch.launcher.empty() && gpus != launch.size && !refused)
    refused = std::make_exception_ptr(
        ConfigError("--gpus " + std::to_string(gpus) + " is for training without a launcher, and " + launch.launcher +
                    " has started " + std::to_string(launch.size) + " ranks; leave it out"));
  if (arguments.dry_run) {
    if (launch.rank != 0) return;  // one of them tells
    if (refused) std::rethrow_exception(refused);
    print_plan(plan_run(config, planned_ranks(config, launch), launch.one_host));
    return;
  }
  const int alone = launch.launcher.empty() ? local_ranks(config, static_cast<int>(cuda_devices().size())) : 1;
  if (alone > 1) {
    std::vector<std::string> words = {"train", arguments.config};
    for (const std::string& text : arguments.overrides) words.insert(words.end(), {"--set", text});
    if (arguments.gpus) words.insert(words.end(), {"--gpus", std::to_string(*arguments.gpus)});
    if (arguments.resume) words.emplace_back("--resume");
    run_local_ranks(alone, words);
    return;
  }
  World world(launch, {.start = config.ranks.start_timeout, .usual = config.ranks.timeout});
  run_rank(world, [&] {
    world.together([&] {
      if (refused) std::rethrow_exception(refused);
      return true;
    });
    train_as_rank(arguments, config, world);
  });
}

}  // namespace

void add_train_command(CLI::App& app) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train one model, as a config file says");
  command->add_option("config", arguments->config, "config file (JSON)")->required()->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override, e.g. model.layers=6; may be repeated");
  CLI::Option* resume =
      command->add_flag("--resume", arguments->resume, "continue the run from its newest sound checkpoint");
  command
      ->add_option("--gpus", arguments->gpus,
                   "GPUs of this machine to train on together, without a launcher (ranks.gpus); 1: one process")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  command->add_flag("--dry-run", arguments->dry_run, "print the resolved config, sizes and memory; train nothing")
      ->excludes(resume);
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
