#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/trainer.h"
#include "tools/arguments.h"
#include "tools/commands.h"
#include "tools/plan.h"
#include "tools/program.h"
#include "tools/report/report.h"

namespace sinkscope {
namespace {

struct AblateArguments {
  std::string config;
  std::vector<std::string> overrides;
  bool resume = false;
  bool dry_run = false;
  bool no_html = false;
};

/// Trains one arm. False: interrupted.
bool train_arm(const Config& arm, bool resume) {
  const bool begun = std::filesystem::exists(run_directory(arm) / "config.json");
  TrainOptions options;
  options.resume = resume && begun;
  options.build = build_description();
  options.console = make_run_console(arm);
  options.stop = &interrupted();
  const TrainResult result = train(arm, std::move(options));
  tell_finished(result);
  return result.finished;
}

void run(const AblateArguments& arguments) {
  const Config config = load_config(arguments.config, arguments.overrides);
  const std::vector<Config> arms = expand_ablation(config);
  const std::filesystem::path page = run_directory(config) / "report.html";
  if (!arguments.no_html) require_report_possible(arms.size(), page);  // before the training, and in a dry run
  for (std::size_t i = 0; i < arms.size() && !arguments.resume; ++i)
    if (std::filesystem::exists(run_directory(arms[i]) / "config.json"))  // before the first arm, not after it
      throw std::runtime_error(run_directory(arms[i]).string() +
                               ": holds a run already; resume it with --resume, or give another name with --set name=...");
  watch_interrupts();
  std::vector<RunData> runs;
  for (std::size_t i = 0; i < arms.size(); ++i) {
    std::cout << "arm " << i + 1 << " of " << arms.size() << ": " << arms[i].name << std::endl;
    if (arguments.dry_run) {
      print_plan(plan_run(arms[i]));
      continue;
    }
    if (!train_arm(arms[i], arguments.resume)) {
      std::cout << "\nstopped; go on with: sinkscope ablate " << arguments.config;
      for (const std::string& text : arguments.overrides) std::cout << " --set '" << text << "'";
      std::cout << " --resume" << std::endl;
      end_stopped();
    }
  }
  if (arguments.dry_run) return;
  for (const Config& arm : arms) runs.push_back(load_run(run_directory(arm)));
  std::cout << "\n" << summary_table(runs) << "\n" << plain_summary(runs) << std::flush;
  if (arguments.no_html) return;
  write_report(runs, page);
  std::cout << "\nreport: " << page.string() << std::endl;
}

}  // namespace

void add_ablate_command(CLI::App& app) {
  const auto arguments = std::make_shared<AblateArguments>();
  CLI::App* command = app.add_subcommand("ablate", "Train every arm of a config's ablation, then compare them");
  command->add_option("config", arguments->config, "config file (JSON) with an \"ablation\"")
      ->required()
      ->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override for all arms; may be repeated");
  command->add_flag("--resume", arguments->resume, "continue: finished arms are kept, others go on");
  command->add_flag("--dry-run", arguments->dry_run, "check what a run checks and print the plan of every arm; train nothing");
  command->add_flag("--no-html", arguments->no_html, "print the comparison only");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
