#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/trainer.h"
#include "tools/arguments.h"
#include "tools/commands.h"
#include "tools/plan.h"
#include "tools/program.h"

namespace sinkscope {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  bool resume = false;
  bool dry_run = false;
};

void run(const TrainArguments& arguments) {
  const Config config = load_config(arguments.config, arguments.overrides);
  if (arguments.dry_run) {
    print_plan(plan_run(config));
    return;
  }
  watch_interrupts();
  TrainOptions options;
  options.resume = arguments.resume;
  options.build = build_description();
  options.console = make_run_console(config);
  options.announce = print_start;
  options.stop = &interrupted();
  const TrainResult result = train(config, std::move(options));
  tell_finished(result);
  if (!result.finished) {
    std::cout << "\nstopped after step " << result.steps << "; go on with: sinkscope train " << arguments.config;
    for (const std::string& text : arguments.overrides) std::cout << " --set '" << text << "'";
    std::cout << " --resume" << std::endl;
    end_stopped();
  }
  std::cout << "run: " << result.run_directory.string() << std::endl;
}

}  // namespace

void add_train_command(CLI::App& app) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train one model, as a config file says");
  command->add_option("config", arguments->config, "config file (JSON)")->required()->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override, e.g. model.layers=6; may be repeated");
  CLI::Option* resume =
      command->add_flag("--resume", arguments->resume, "continue the run from its newest sound checkpoint");
  command->add_flag("--dry-run", arguments->dry_run, "print the resolved config, sizes and memory; train nothing")
      ->excludes(resume);
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
